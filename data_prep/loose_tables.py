"""Tables in the forms in which people have them, for your own notes and for tables of splits.

`data_prep.tables` reads the files of MIMIC, whose form is known. Here the form is found out: CSV
with commas, semicolons, tabs or bars, JSONL, JSON, Parquet or Feather; UTF-8, UTF-16 or
Windows-1252; columns under any of their common names. What cannot be found out is one line that
says what to do, and never shows a cell.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from data_prep import tables
from marn.corpus import columns
from marn.corpus.columns import ID_NAMES, SEPARATOR_LINE, TEXT_NAMES, bare
from marn.errors import MarnError

IDS: Final = ID_NAMES
TEXTS: Final = TEXT_NAMES
PATIENTS: Final = ("subject_id", "patient_id", "person_id", "subject", "patient", "mrn")
SPLIT: Final = ("split", "splits", "set", "subset", "fold", "partition")
CODES: Final = (
    *("code", "codes", "icd_code", "icd_codes", "icd", "icd9_code", "icd9_codes", "icd9"),
    *("icd10_code", "icd10_codes", "icd10", "icd10cm", "icd9cm", "label", "labels", "target"),
    *("codigo", "código"),
)
DIAGNOSES: Final = (
    *("dx", "dx_code", "dx_codes", "diagnosis_code", "diagnosis_codes", "diagnosis", "diagnoses"),
    *("icd9_diag", "icd10_diag", "diag"),
)
PROCEDURES: Final = (
    *("pr", "px", "pr_code", "pr_codes", "procedure_code", "procedure_codes", "procedure"),
    *("procedures", "icd9_proc", "icd10_proc", "proc"),
)
KINDS: Final = ("kind", "code_type", "code_kind")
_NUMBERED: Final = ("code", "dx", "pr")  # of which a table may have several columns

WRONG_SPLIT: Final = (
    "its split is none of train, dev (or val, valid, validation, development) and test; correct it"
)

WRONG_KIND: Final = "its kind is neither dx (or diagnosis) nor pr (or procedure); correct it"

_KIND_NAMES: Final = {
    "": "",
    **dict.fromkeys(("dx", "d", "diag", "diagnosis", "diagnoses", "diagnostico"), "dx"),
    **dict.fromkeys(("pr", "p", "px", "proc", "procedure", "procedures", "procedimiento"), "pr"),
}
_SPLIT_NAMES: Final = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing", "tst", "te"), "test"),
}
_SEPARATORS: Final = ",;\t|"
_HEADER: Final = re.compile(r"[A-Za-z_][\w.-]{0,30}", re.ASCII)


def split_name(written: str) -> str | None:
    """Return train, dev or test for one of their names, None for another word.

    >>> split_name("Validation"), split_name("fold 3")
    ('dev', None)
    """
    return _SPLIT_NAMES.get(written.strip().casefold())


def kind_name(written: str) -> str | None:
    """Return "dx" or "pr" for one of their names, "" for a blank, None for another word."""
    return _KIND_NAMES.get(written.strip().casefold())


@dataclass(frozen=True)
class Table:
    """A table whose form has been found out; `rows` reads it."""

    path: Path
    columns: Mapping[str, Sequence[str]]  # of each wanted column its names in the file, or none
    form: str  # "csv", "jsonl", "json" or "polars"
    encoding: str = "utf-8"
    separator: str = ","

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the line, or the number, of each row and its fields; "" for a missing column.

        The fields of several columns, such as code_1 and code_2, have semicolons between them.

        Raises:
            MarnError: naming file and row, if it cannot be read.
        """
        readers = {"csv": self._csv, "jsonl": self._jsonl, "json": self._json}
        readers["polars"] = self._polars
        with tables.readable(self.path):
            for place, record in readers[self.form]():
                yield (
                    place,
                    {
                        key: "; ".join(_cell(record.get(name)) for name in names)
                        for key, names in self.columns.items()
                    },
                )

    def fault(self, place: int, what: str) -> MarnError:
        """Return the error that names a row, as `rows` numbers it."""
        return tables.fault_on(self.path, place, what)

    def _csv(self) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = tables.csv_rows(self.path, encoding=self.encoding, separator=self.separator)
        header = next(rows)[1]
        if SEPARATOR_LINE.fullmatch(self.separator.join(header)):
            header = next(rows)[1]
        for line, row in rows:
            if len(row) != len(header) and any(row):
                what = f"{len(row)} fields instead of {len(header)}; put quotes around a field that"
                raise self.fault(
                    line, f"{what} holds the separator {self.separator!r} or a line end"
                )
            if any(row):
                yield line, dict(zip(header, row, strict=True))

    def _jsonl(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with tables.open_bytes(self.path) as file:
            lines = io.TextIOWrapper(file, self.encoding)
            for number, line in enumerate(iter(lambda: lines.readline(tables.ROW_LIMIT), ""), 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise self.fault(number, 'no JSON object; give one such as {"note_id": ...}')
                yield number, row

    def _json(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(_objects(self.path, self.encoding), start=1)

    def _polars(self) -> Iterator[tuple[int, dict[str, Any]]]:
        frame = _frame(self.path, [name for names in self.columns.values() for name in names])
        yield from enumerate(frame.iter_rows(named=True), start=1)


def open_table(
    path: Path,
    wanted: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]],
    encoding: str | None = None,
) -> Table:
    """Find out the form of a table.

    Args:
        path: of the file.
        wanted: for each column that must be there, the names that it may have.
        optional: the same for columns that may be missing.
        encoding: of a table that is text; by default it is found.

    Raises:
        MarnError: if the file is missing or no table, or lacks a column.
    """
    if path.is_dir():
        columns = ", ".join(names[0] for names in wanted.values())
        raise MarnError(f"{path} is a folder; give a table with the columns {columns}")
    suffix = _suffix(path)
    with tables.readable(path):
        if suffix in (".parquet", ".pq", ".feather", ".arrow", ".ipc"):
            names = _frame(path, None).columns
            return Table(path, _columns(path, names, wanted, optional), "polars")
        encoding = encoding_of(path, encoding)
        if suffix == ".json":
            names = list(dict.fromkeys(name for row in _objects(path, encoding) for name in row))
            return Table(path, _columns(path, names, wanted, optional), "json", encoding)
        is_json = suffix in (".jsonl", ".ndjson")
        with tables.open_bytes(path) as file:
            lines = io.TextIOWrapper(file, encoding)
            first = lines.readline(tables.ROW_LIMIT)
            while first.isspace() if is_json else SEPARATOR_LINE.fullmatch(first):
                first = lines.readline(tables.ROW_LIMIT)
        if not first.strip():
            raise MarnError(f"{path} is empty, or begins with an empty line; give a table")
        if is_json:
            row = json.loads(first)
            names = list(row) if isinstance(row, dict) else []
            return Table(path, _columns(path, names, wanted, optional), "jsonl", encoding)
        headers = {mark: next(csv.reader([first], delimiter=mark), []) for mark in _SEPARATORS}
        fitting = [
            mark
            for mark, header in headers.items()
            if all(_place(header, names) is not None for names in wanted.values())
        ]
        separator = (fitting or [max(_SEPARATORS, key=lambda mark: len(headers[mark]))])[0]
        found = _columns(path, headers[separator], wanted, optional)
        return Table(path, found, "csv", encoding, separator)


def encoding_of(path: Path, given: str | None = None) -> str:
    """Return the encoding of a file, perhaps zipped, as `marn.corpus.columns.encoding_of` does."""
    with tables.open_bytes(path) as file:
        return columns.encoding_of(file, path, given)


def read_text(path: Path, given: str | None = None) -> tuple[str, str]:
    """Return the text of a file, line ends included, and its encoding.

    Raises:
        MarnError: as `encoding_of` does.
    """
    with tables.readable(path):
        encoding = encoding_of(path, given)
        return path.read_bytes().decode(encoding), encoding


def _suffix(path: Path) -> str:
    """Return the ending of a file's name, in lower case and without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _objects(path: Path, encoding: str) -> list[dict[str, Any]]:
    """Read a list of JSON objects."""
    with tables.open_bytes(path) as file:
        try:
            rows = json.loads(file.read().decode(encoding))
        except (ValueError, RecursionError):
            rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MarnError(f'{path} is not a list of JSON objects; give [{{"note_id": …}}, …]')
    return rows


def _frame(path: Path, names: list[str] | None) -> pl.DataFrame:
    """Read a file that polars knows, or, without names, only its columns."""
    scan = pl.scan_parquet if path.suffix.lower() in (".parquet", ".pq") else pl.scan_ipc
    lazy = scan(path)
    return lazy.head(0).collect() if names is None else lazy.select(names).collect()


def _columns(
    path: Path,
    header: Sequence[str],
    wanted: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]],
) -> dict[str, list[str]]:
    """Return the names of each column in the header: none if it is missing, several if numbered."""
    found: dict[str, list[str]] = {}
    for key, names in {**wanted, **optional}.items():
        # "note" and "document" may be a column of ids or of texts, but one column is not both
        taken = found.get("text", []) if key == "id" else []
        free = ["" if name in taken else name for name in header]
        place = _place(free, names, key in _NUMBERED)
        if place is None:
            if key in wanted:
                # Without a header this is a row, and may hold a note: then nothing is shown.
                is_header = all(map(_HEADER.fullmatch, header))
                shown = ", ".join(header[:12]) if is_header else "not one of plain names"
                raise MarnError(
                    f"{path} has no column {names[0]} (its first line is: {shown}); name one so, "
                    f"or {', '.join(names[1:5])}"
                )
            found[key] = []
            continue
        first = header[place]
        if [*map(bare, header)].count(bare(first)) > 1:
            raise MarnError(f"{path} has more than one column {first}; rename one of them")
        found[key] = [first]
        if key in _NUMBERED:
            stem = _stem(first, names)
            found[key] += [n for n in header if n != first and _stem(n, names) == stem]
    return found


def _place(header: Sequence[str], names: Sequence[str], numbered: bool = False) -> int | None:
    """Return the index of the column with the first of these names that is there."""
    known = [_stem(name, names) if numbered else bare(name) for name in header]
    return next((known.index(name) for name in map(bare, names) if name in known), None)


def _stem(name: str, names: Sequence[str]) -> str:
    """Return a column's bare name, without the number at its end unless that is part of it."""
    written = bare(name)
    return written if written in map(bare, names) else written.rstrip("0123456789")


def _cell(value: Any) -> str:
    """Write a typed value as a CSV would hold it; the items of a list with semicolons between."""
    if isinstance(value, (list, tuple, pl.Series)):
        return "; ".join(_cell(item) for item in value)
    return "" if value is None else value if isinstance(value, str) else str(value)
