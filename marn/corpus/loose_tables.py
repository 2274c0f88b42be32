"""Read tables and texts of users, for both `marn` and `data_prep`.

Tables are CSV with commas, semicolons, tabs or bars, JSONL, JSON, Parquet or Feather, in UTF-8,
UTF-16, UTF-32 or Windows-1252, with columns under any of their common names. Whatever cannot be
recognised is reported in one line that says what to do and never shows a cell. Only one row at a
time is kept in memory (for Parquet and Feather, some thousands; for JSON, all).
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import polars as pl

from marn import lifeline
from marn.corpus.columns import SEPARATOR_LINE, TEXT_NAMES, bare, encoding_of, open_bytes
from marn.errors import MarnError
from marn.settings import read_json

Names = Mapping[str, Sequence[str]]
"""Names that each column may have, most likely first."""
_Records = Iterator[tuple[int, int, Mapping[str, Any]]]

ROW_LIMIT = 1 << 24
"""Maximum number of characters in one row or text. The longest note of MIMIC-III has under 2 ** 20;
without a limit, an unclosed quote would read the rest of a huge file into one field."""
_JSON_LIMIT: Final = 1 << 28  # characters of JSON, which is read as a whole
DAMAGED: Final = "the file is cut off or damaged; get a fresh copy"
FRAMES: Final = (".parquet", ".pq", ".feather", ".arrow", ".ipc")
JSON_LINES: Final = (".jsonl", ".ndjson")
_FRAME_LIMIT: Final = 1 << 31  # bytes of memory that reading Parquet or Feather may take
_ROWS: Final = (1 << 12, 1 << 16)  # fewest and most rows of Parquet or Feather read at once
_PIECE: Final = 1 << 25  # bytes of the file that these rows should take, within those bounds
_NUMBERED: Final = ("code", "dx", "pr")  # may have several columns, such as code_1 and code_2
_SEPARATORS: Final = ",;\t|"
_HALVES: Final = re.compile("[\ud800-\udfff]")
_HEADER: Final = re.compile(r"[A-Za-z_][\w.-]{0,30}", re.ASCII)


@dataclass(frozen=True)
class Table:
    """A table whose format has been recognised; `rows` reads it once."""

    name: str
    """Name of the table in errors, such as its path."""
    columns: Names
    """For each column looked for, its names in the table; empty if it is missing."""
    encoding: str
    """Encoding of a text table; "" for Parquet and Feather."""
    _header: tuple[str, ...]  # of JSON, whose objects may have other keys; else empty
    _records: _Records
    _names: Names

    def rows(self) -> Iterator[tuple[int, int, dict[str, str]]]:
        """Yield the line (or number) of each row, its number, and its fields.

        A missing column is "". The fields of several columns, such as code_1 and code_2, and the
        items of a list are joined by semicolons.

        Raises:
            MarnError: naming table and row, if it cannot be read, or a note is not a string.
        """
        find = lru_cache(64)(lambda header: find_columns(self.name, header, (), self._names))
        for place, number, record in self._records:
            columns = self.columns
            if self._header and (header := tuple(record)) != self._header:
                columns = find(header)
            for name in columns.get("text", ()):
                if not isinstance(text := record[name], str | None):
                    raise self.fault(place, f"column {name} is not text; name the column of texts")
                if len(text or "") > ROW_LIMIT:
                    raise self.fault(place, f"more than {ROW_LIMIT:,} characters; split it")
            yield (
                place,
                number,
                {
                    key: _cell(record[names[0]] if len(names) == 1 else [record[n] for n in names])
                    for key, names in columns.items()
                },
            )

    def fault(self, place: int, what: str) -> MarnError:
        """Return the error that names a row, as `rows` numbers it."""
        return fault_on(self.name, place, what)


def open_table(
    path: Path,
    wanted: Names,
    optional: Names,
    encoding: str | None = None,
    remedy: str | None = None,
) -> Table:
    """Recognise the format of a table by the ending of its name; an unknown one is CSV.

    Args:
        path: the file.
        wanted: columns that must be present.
        optional: columns that may be missing.
        encoding: encoding of a text table; by default it is detected.
        remedy: advice for a missing column; by default, to rename one.

    Raises:
        MarnError: if the file is missing, is not a table, or lacks a column.
    """
    if path.is_dir():
        columns = ", ".join(names[0] for names in wanted.values())
        raise MarnError(f"{path} is a folder; give a table with the columns {columns}")
    suffix = suffix_of(path)
    with readable(path):
        if suffix in FRAMES:
            names = {**wanted, **optional}
            header = _scan(path).collect_schema().names()
            found = find_columns(str(path), header, wanted, names, remedy)
            used = list(dict.fromkeys(itertools.chain(*found.values())))
            check_unfolds(path, *used)
            frames = _frames(path, used)
            rows = (row for frame in frames for row in frame.iter_rows(named=True, buffer_size=1))
            records: _Records = ((at, at, row) for at, row in enumerate(rows, start=1))
            return Table(str(path), found, "", (), records, names)
        encoding = encoding_of(path, encoding)
    form = "json" if suffix == ".json" else "jsonl" if suffix in JSON_LINES else "csv"
    return table_of(str(path), form, _lines(path, encoding), wanted, optional, remedy, encoding)


def table_of(
    name: str,
    form: str,
    lines: Iterator[str],
    wanted: Names,
    optional: Names,
    remedy: str | None = None,
    encoding: str = "utf-8-sig",
) -> Table:
    """Return the table in lines of text; `open_table` describes the arguments not listed here.

    Args:
        name: name of the table in errors.
        form: "csv", "jsonl" or "json".
        lines: lines with their ends.
        wanted: see `open_table`.
        optional: see `open_table`.
        remedy: see `open_table`.
        encoding: the encoding that the lines had.

    Raises:
        MarnError: if the table is empty, is not of that format, or lacks a column.
    """
    header: Sequence[str]
    if form == "json":
        objects = _objects(name, _whole(name, lines))
        header = list({bare(key): key for row in objects for key in row}.values())
        records: _Records = ((at, at, row) for at, row in enumerate(objects, start=1))
    elif form == "jsonl":
        first = next(records := _json_lines(name, lines), None)
        header = list(first[2]) if first else []
        records = itertools.chain([first] if first else [], records)
    else:
        header, records = _csv(name, lines, wanted)
    if not header:
        raise MarnError(f"{name} is empty, or begins with an empty line; give a table")
    names = {**wanted, **optional}
    found = find_columns(name, header, wanted, names, remedy)
    return Table(name, found, encoding, () if form == "csv" else tuple(header), records, names)


def read_text(path: Path, given: str | None = None) -> tuple[str, str]:
    """Return the text of a file, line ends included, and its encoding.

    Args:
        path: the file.
        given: the encoding, if known; by default it is detected.

    Raises:
        MarnError: if the file cannot be read, is not text, or has more than `ROW_LIMIT` characters.
    """
    with readable(path):
        encoding = encoding_of(path, given)
        with io.TextIOWrapper(open_bytes(path), encoding, newline="") as file:
            text = file.read(ROW_LIMIT + 1)
    if len(text) > ROW_LIMIT:
        raise MarnError(f"{path} has more than {ROW_LIMIT:,} characters; split it into notes")
    return text, encoding


def suffix_of(path: Path) -> str:
    """Return the suffix of a file name, in lower case and without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def header_of(line: str, wanted: Names) -> tuple[str, list[str]]:
    """Return the separator of a table and its header, read from its first line.

    Among the separators that give all wanted columns (or all separators, if none does), it is the
    one that gives the most columns.
    """
    csv.field_size_limit(ROW_LIMIT)  # one limit for the whole process
    headers = {mark: next(csv.reader([line], delimiter=mark), []) for mark in _SEPARATORS}
    fitting = [
        mark
        for mark, header in headers.items()
        if all(find_column(header, names) is not None for names in wanted.values())
    ]
    mark = max(fitting or _SEPARATORS, key=lambda mark: len(headers[mark]))
    return mark, headers[mark]


def find_column(header: Sequence[str], names: Sequence[str], numbered: bool = False) -> str | None:
    """Return the first of these names that the header has, as written there, or None.

    Args:
        header: columns of the table.
        names: names that the column may have, most likely first.
        numbered: match names without the number at their end, such as code_1.
    """
    known = [_stem(name, names) if numbered else bare(name) for name in header]
    return next((header[known.index(name)] for name in map(bare, names) if name in known), None)


def find_columns(
    table: str,
    header: Sequence[str],
    wanted: Iterable[str],
    names: Names,
    remedy: str | None = None,
) -> dict[str, list[str]]:
    """Return the names of each column in the header: none if it is missing, several if numbered.

    Raises:
        MarnError: if a wanted column is missing, or a column occurs twice.
    """
    found: dict[str, list[str]] = {}
    for key, known in names.items():
        # "note" and "document" may be a column of ids or of texts, but one column is not both
        free = [name for name in header if key != "id" or name not in found.get("text", ())]
        first = find_column(free, known, key in _NUMBERED)
        is_header = all(map(_HEADER.fullmatch, header))
        if first is None and key in wanted and known is TEXT_NAMES and len(header) == 1:
            first = header[0] if re.fullmatch(r"\w{1,40}", header[0]) else None
        if first is None:
            if key in wanted:
                # A file without a header begins with a row, which may hold a note: show nothing.
                shown = f"its columns are: {', '.join(header[:12])}"
                shown = shown if is_header else "its first line is not one of plain names"
                rename = f"name one so, or {', '.join(known[1:5])}"
                raise MarnError(
                    f"{table} has no column {known[0]} ({shown}); "
                    + ("correct the name" if len(known) == 1 else remedy or rename)
                )
            found[key] = []
            continue
        if [*map(bare, header)].count(bare(first)) > 1:
            raise MarnError(f"{table} has more than one column {first}; rename one of them")
        stem = _stem(first, known)
        found[key] = [first]
        if key in _NUMBERED:
            found[key] += [n for n in header if n != first and _stem(n, known) == stem]
    return found


def csv_rows(
    name: str | Path, lines: Iterable[str], separator: str = ",", *, lenient: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row of a table with the line it begins on, by the strict csv module.

    Args:
        name: name of the table, for errors.
        lines: lines with their ends, a long one in pieces of up to `ROW_LIMIT` + 1 characters.
        separator: the character between fields.
        lenient: accept NUL characters.

    Raises:
        MarnError: naming the line, if the csv module refuses a row, or a row is too long.
    """
    csv.field_size_limit(ROW_LIMIT)  # one limit for the whole process
    size = 0  # characters of the row so far

    def limited() -> Iterator[str]:
        nonlocal size
        for text in lines:
            size += len(text)
            if size > ROW_LIMIT:
                raise csv.Error(
                    f"a quote is never closed, or a row of more than {ROW_LIMIT:,} characters"
                )
            if "\0" in text and not lenient:
                raise fault_on(name, reader.line_num + 1, f"a NUL byte: {DAMAGED}")
            yield text

    reader = csv.reader(limited(), strict=True, delimiter=separator)
    line = 1
    try:
        for row in reader:
            yield line, row
            line, size = reader.line_num + 1, 0
    except csv.Error as error:
        what = str(error)
        if "unexpected end" in what:
            what = "a quote is opened and never closed"
        elif "new-line character" in what:
            what = "a carriage return outside quotes"
        raise fault_on(name, line, f"{what}: {DAMAGED}") from None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into one-line errors."""
    try:
        yield
    except MarnError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise MarnError(
            f"{path} cannot be unpacked ({error}), so it was cut off or damaged; get a fresh copy"
        ) from None
    except OSError as error:
        raise MarnError(f"{path} cannot be read: {error.strerror or 'it is damaged'}") from None
    except (RecursionError, ValueError, pl.exceptions.PolarsError) as error:
        raise MarnError(
            f"{path} cannot be read ({type(error).__name__}): it is damaged, or in another format "
            "than its name says; get a fresh copy"
        ) from None


def fault_on(name: str | Path, line: int, what: str) -> MarnError:
    """Return the error that names a row by its line."""
    return MarnError(f"{name}, row at line {line}: {what}")


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a file, which may be a pipe, with their ends; a long one in pieces."""
    with readable(path), io.TextIOWrapper(open_bytes(path), encoding, newline="") as file:
        yield from iter(lambda: file.readline(ROW_LIMIT + 1), "")


def _csv(name: str, lines: Iterator[str], wanted: Names) -> tuple[list[str], _Records]:
    """Return the header of a CSV (empty if there is none) and its rows, without blank ones."""
    seen = [next(lines, "")]
    while SEPARATOR_LINE.fullmatch(seen[-1]):
        seen.append(next(lines, ""))
    if not seen[-1].strip():
        return [], iter(())
    separator = "," if len(seen[-1]) > ROW_LIMIT else header_of(seen[-1], wanted)[0]
    rows = csv_rows(name, itertools.chain(seen, lines), separator)
    header = next(row for line, row in rows if line == len(seen))

    def records() -> _Records:
        for number, (line, row) in enumerate(rows, start=1):
            if not any(row):  # Excel writes such rows below a table
                continue
            if len(row) != len(header):
                raise fault_on(
                    name,
                    line,
                    f"{len(row)} fields instead of {len(header)}; put quotes around a field that "
                    f"holds the separator {separator!r} or a line end",
                )
            yield line, number, dict(zip(header, row, strict=True))

    return header, records()


def _json_lines(name: str, lines: Iterator[str]) -> _Records:
    for number, line in enumerate(lines, start=1):
        if len(line) > ROW_LIMIT:
            raise fault_on(name, number, f"more than {ROW_LIMIT:,} characters; check the table")
        if line.strip():
            row = _parsed(f"{name}, row at line {number}", line)
            if not isinstance(row, dict):
                what = 'it is not a JSON object; write one such as {"note_id": …} a line'
                raise fault_on(name, number, what)
            yield number, number, row


def _whole(name: str, lines: Iterator[str]) -> str:
    """Join lines; refuse more than `_JSON_LIMIT` characters."""
    read, size = [], 0
    for line in lines:
        read.append(line)
        size += len(line)
        if size > _JSON_LIMIT:
            raise MarnError(f"{name} has more than {_JSON_LIMIT:,} characters; write it as JSONL")
    return "".join(read)


def _objects(name: str, written: str) -> list[dict[str, Any]]:
    """Read a list of JSON objects."""
    rows = _parsed(name, written)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MarnError(
            f'{name} is not a list of JSON objects; give [{{"note_id": …}}, …], or JSONL'
        )
    return rows


def _parsed(where: str, written: str) -> Any:
    """Parse JSON; return None if it is invalid."""
    try:
        return read_json(written)
    except MarnError as error:
        raise MarnError(f"{where}: {error}") from None
    except ValueError:
        return None


def check_unfolds(path: Path, *columns: str) -> None:
    """Refuse Parquet or Feather that would take more memory than `_FRAME_LIMIT`, or is damaged.

    A few kB can expand to any number of bytes, and polars aborts the process when memory runs out.
    So another process, with limited memory, reads the table first.

    Args:
        path: the table.
        columns: columns that are read some rows at a time; without any, the whole table is read
            at once.

    Raises:
        MarnError: if that process fails.
    """
    code = f"import sys, {__name__} as here; here._try(sys.argv)"
    paths = os.pathsep.join(filter(None, sys.path))
    about = {**os.environ, "PYTHONPATH": paths, lifeline.PARENT: str(os.getpid())}
    given = [str(_FRAME_LIMIT), str(path), *columns]
    command = [sys.executable, "-c", code, *given]
    if subprocess.run(command, env=about, stderr=subprocess.DEVNULL).returncode:
        raise MarnError(
            f"{path} is damaged, or expands to more than {_FRAME_LIMIT:,} bytes; get a fresh copy, "
            "or save it as CSV"
        )


def _try(arguments: Sequence[str]) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (int(arguments[1]),) * 2)
    path = Path(arguments[2])
    for _ in _frames(path, arguments[3:]) if arguments[3:] else [_scan(path).collect()]:
        pass


def _scan(path: Path) -> pl.LazyFrame:
    return (pl.scan_parquet if suffix_of(path)[1] == "p" else pl.scan_ipc)(path)


def _frames(path: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield the rows of Parquet or Feather, some thousands at a time."""
    with readable(path):
        table = _scan(path).select(columns)
        size = table.select(pl.len()).collect().item()
        # each piece unpacks the whole block of Feather that it is part of: make few pieces
        rows = min(max(size * _PIECE // path.stat().st_size, _ROWS[0]), _ROWS[1])
        for start in range(0, size, rows):
            yield table.slice(start, rows).collect()


def _stem(name: str, names: Sequence[str]) -> str:
    """Return a column's bare name, without the number at its end unless that is part of it."""
    written = bare(name)
    return written if written in map(bare, names) else written.rstrip("0123456789")


def _cell(value: Any) -> str:
    """Write a typed value as in a CSV."""
    if isinstance(value, (list, tuple, pl.Series)):
        return "; ".join(_cell(item) for item in value)
    text = "" if value is None else value if isinstance(value, str) else str(value)
    # JSON may hold half of a surrogate pair, where a program cut a text in the middle of an emoji
    return text if text.isascii() else _HALVES.sub("\N{REPLACEMENT CHARACTER}", text)
