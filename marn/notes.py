"""Read notes to be coded, one after the other: a text, a folder, a table, standard input, a corpus.

Only as much is held in memory as one note needs (of Parquet and Feather, some rows; of JSON, all).
An id is the name of a text file, a column of a table, or the number of the row.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

import polars as pl

from marn.corpus import Corpus
from marn.corpus.columns import ID_NAMES, SEPARATOR_LINE, TEXT_NAMES, bare, encoding_of, shown
from marn.corpus.reading import read_card
from marn.errors import MarnError

Note = tuple[str, str]
"""Id and text."""

TEXTS = (".txt", ".text", ".md", "")
_FEATHER: Final = (".feather", ".arrow", ".ipc")
_FRAMES: Final = (".parquet", ".pq", *_FEATHER)
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", *_FRAMES)
_FIELD = 1 << 26  # characters of a cell: a quote that is never closed would swallow the file
_ROWS = 512  # of Parquet at once
_LONGEST: Final = 1 << 24  # characters of a text or a line: /dev/zero has no end


def read_notes(
    source: str | Path,
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    split: str | None = None,
    encoding: str | None = None,
) -> Iterator[Note]:
    """Yield the notes of a source, in its order.

    Args:
        source: a text file; a folder of texts NAME.txt at any depth; a CSV with a header (or
            semicolons or tabs), JSONL, JSON, Parquet or Feather; `"-"` for standard input, which
            may hold a CSV, JSONL, JSON or one text; or the folder of a corpus.
        text_column: the column with the text, by default one of `TEXT_NAMES`.
        id_column: the column with the id, by default one of `ID_NAMES`, else rows are numbered.
        split: of a corpus; by default all its splits.
        encoding: of texts and tables that are text; by default it is found (of standard input,
            UTF-8).

    Raises:
        MarnError: the source is missing, of another kind, damaged or empty. No message shows a
            cell of a table.
    """
    if str(source) == "-":
        return _checked("standard input", _standard_input(text_column, id_column, encoding))
    path = Path(source)
    if not path.exists():
        raise MarnError(f"{path} does not exist; give a file or a folder of notes")
    if split and not is_corpus(path):
        raise MarnError(f"{path} is not a corpus, so it has no split {split!r}; leave out --split")
    if path.is_dir():
        found = _corpus(path, split) if is_corpus(path) else _folder(path, encoding)
        return _checked(str(path), found)
    kind = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    kind = kind.lower()
    if kind not in (*TEXTS, *TABLES):
        raise MarnError(
            f"{path} cannot be read as notes; give a text file, CSV, JSONL, JSON, Parquet or "
            "Feather, or a folder of texts"
        )
    if kind in _FRAMES:
        return _checked(str(path), _frame(path, kind in _FEATHER, text_column, id_column))
    return _checked(str(path), _file(path, kind, text_column, id_column, encoding))


def is_corpus(path: Path) -> bool:
    """Tell whether a folder is a prepared corpus."""
    return (path / "card.json").is_file() and (path / "codes.json").is_file()


def is_open(source: str | Path) -> bool:
    """Tell whether notes may be shown: not if they are of a credentialed corpus or lie in one."""
    path = Path(source).resolve()
    folders = [folder for folder in (path, *path.parents) if is_corpus(folder)]
    return str(source) == "-" or all(read_card(folder).get("text") == "open" for folder in folders)


def _checked(name: str, notes: Iterator[Note]) -> Iterator[Note]:
    """Yield notes; what reading raises is one line, and so is a source without notes."""
    empty = True
    try:
        for note in notes:
            empty = False
            yield note
    except UnicodeDecodeError:
        raise MarnError(
            f"{name} is not in the encoding expected, UTF-8 by default; give --encoding, such as "
            "cp1252"
        ) from None
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MarnError(f"{name} cannot be read ({reason}); check the file") from None
    if empty:
        raise MarnError(f"{name} holds no note; give a text, a folder of texts or a table")


def _corpus(path: Path, split: str | None) -> Iterator[Note]:
    corpus = Corpus.load(path)
    for name in [split] if split else corpus.splits:
        part = corpus[name]
        for note in range(len(part)):
            yield str(part.ids[note]), part.text(note)


def _folder(path: Path, encoding: str | None) -> Iterator[Note]:
    """Yield the texts of a folder and of the folders in it, by name."""
    for folder, inner, names in os.walk(path):
        inner.sort()
        for name in sorted(names):
            if name.lower().endswith(".txt"):
                file = Path(folder, name)
                note = file.relative_to(path).with_suffix("").as_posix()
                yield from _checked(str(file), _text(note, file, encoding))


def _text(note: str, file: Path, encoding: str | None) -> Iterator[Note]:
    with file.open(encoding=_encoding(file, open, encoding)) as opened:
        yield note, _whole(opened, str(file))


def _encoding(path: Path, opener: Any, given: str | None) -> str:
    """Find the encoding of a file; what can be read only once, such as a pipe, is UTF-8."""
    if not path.is_file():
        return given or "utf-8-sig"
    with opener(path, "rb") as file:
        return encoding_of(file, path, given)


def _whole(file: TextIO, name: str) -> str:
    """Read a note of at most `_LONGEST` characters."""
    text = file.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise MarnError(f"{name} has more than {_LONGEST:,} characters; split it into notes")
    return text


def _lines_of(file: TextIO, name: str) -> Iterator[str]:
    """Yield lines of at most `_LONGEST` characters, with their ends."""
    while line := file.readline(_LONGEST + 1):
        if len(line) > _LONGEST:
            raise MarnError(
                f"{name} has a line of more than {_LONGEST:,} characters; check that it is a table"
            )
        yield line


def _file(
    path: Path, kind: str, text: str | None, ids: str | None, encoding: str | None
) -> Iterator[Note]:
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding=_encoding(path, opener, encoding), newline="") as file:
        if kind in TEXTS:
            yield path.name.partition(".")[0], _whole(file, str(path))
        elif kind in (".csv", ".tsv"):
            yield from _table(str(path), _lines_of(file, str(path)), text, ids)
        elif kind == ".json":
            yield from _json(str(path), _whole(file, str(path)), text, ids)
        else:
            yield from _lines(str(path), _lines_of(file, str(path)), text, ids)


def _standard_input(text: str | None, ids: str | None, encoding: str | None) -> Iterator[Note]:
    """Yield the notes of standard input: JSON or a CSV if its first line says so, else one."""
    file = io.TextIOWrapper(sys.stdin.buffer, encoding or "utf-8-sig", newline="")
    try:
        name = "standard input"
        lines = _lines_of(file, name)
        first = next(lines, "")
        all_lines = itertools.chain([first], lines)
        if first.lstrip().startswith("{"):
            yield from _lines(name, all_lines, text, ids)
        elif re.match(r"\s*\[\s*(\{|$)", first):
            yield from _json(name, first + _whole(file, name), text, ids)
        elif SEPARATOR_LINE.fullmatch(first) or (
            _find(_cells(first), text, TEXT_NAMES) is not None and len(first) < 1000
        ):
            yield from _table(name, all_lines, text, ids)
        else:
            rest = _whole(file, name)
            if (first + rest).strip():
                yield "stdin", first + rest
    finally:
        file.detach()


def _delimiter(header: str) -> str:
    """Return the most frequent of comma, semicolon, tab and bar in a header."""
    return max(",;\t|", key=header.count)


def _cells(header: str) -> list[str]:
    return next(csv.reader([header], delimiter=_delimiter(header)), [])


def _find(columns: Iterable[str], given: str | None, names: Iterable[str]) -> str | None:
    """Return the column that is meant."""
    known = {bare(column): column for column in columns}
    wanted = map(bare, [given] if given else names)
    return next((known[name] for name in wanted if name in known), None)


def _columns(
    name: str, columns: list[str], text: str | None, ids: str | None
) -> tuple[str, str | None]:
    """Return the columns of text and id."""
    found = _find(columns, text, TEXT_NAMES)
    if (
        found is None
        and text is None
        and len(columns) == 1
        and re.fullmatch(r"\w{1,40}", columns[0])
    ):
        found = columns[0]
    # Where the header is missing this is a row, and may hold a note: only names are shown.
    shown = ", ".join(c if re.fullmatch(r"[\w.-]{1,40}", c) else "(a text)" for c in columns[:20])
    if found is None:
        raise MarnError(
            f"{name} has no column {text or 'text'} (its columns are: {shown}); name the column of "
            "the text with --text-column"
        )
    if [*map(bare, columns)].count(bare(found)) > 1:
        raise MarnError(f"{name} has more than one column {found}; rename one of them")
    # "note" and "document" may be either
    key = _find([c for c in columns if ids or c != found], ids, ID_NAMES)
    if ids and key is None:
        raise MarnError(f"{name} has no column {ids} (its columns are: {shown}); correct the name")
    return found, key


def _table(name: str, lines: Iterator[str], text: str | None, ids: str | None) -> Iterator[Note]:
    header = next(lines, "")
    if SEPARATOR_LINE.fullmatch(header):
        header = next(lines, "")
    mark = _delimiter(header)
    columns = _cells(header)
    body, key = _columns(name, columns, text, ids)
    place, at = columns.index(body), None if key is None else columns.index(key)
    csv.field_size_limit(_FIELD)
    rows = csv.reader(lines, delimiter=mark, strict=True)
    try:
        for number, row in enumerate(rows, start=1):
            if not any(row):  # as Excel writes below a table
                continue
            if len(row) != len(columns):
                raise MarnError(
                    f"{name}, row {number}: {len(row)} fields instead of {len(columns)}; quote "
                    "fields that hold a delimiter or a line break"
                )
            yield (str(number) if at is None else shown(row[at])), row[place]
    except csv.Error as error:
        raise MarnError(
            f"{name}, near line {rows.line_num + 1}: {error}; the file is cut, or a quote is never "
            "closed"
        ) from None


def _lines(name: str, lines: Iterator[str], text: str | None, ids: str | None) -> Iterator[Note]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise MarnError(f"{name}, line {number} is not a JSON object; write one note a line")
        yield _of_row(f"{name}, line {number}", number, row, text, ids)


def _json(name: str, written: str, text: str | None, ids: str | None) -> Iterator[Note]:
    try:
        rows = json.loads(written)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MarnError(f'{name} is not a list of JSON objects; give [{{"text": …}}, …], or JSONL')
    for number, row in enumerate(rows, start=1):
        yield _of_row(f"{name}, row {number}", number, row, text, ids)


def _of_row(
    name: str, number: int, row: Mapping[str, Any], text: str | None, ids: str | None
) -> Note:
    """Return the note of one row; the value of a text that is missing counts as empty."""
    body, key = _columns(name, list(row), text, ids)
    written = row[body]
    if not isinstance(written, str | None):
        raise MarnError(f"{name}: column {body} is not text; name another with --text-column")
    return (str(number) if key is None else str(row[key])), written or ""


def _frame(path: Path, feather: bool, text: str | None, ids: str | None) -> Iterator[Note]:
    try:
        table = pl.scan_ipc(path) if feather else pl.scan_parquet(path)
        columns = table.collect_schema().names()
        body, key = _columns(str(path), columns, text, ids)
        size = table.select(pl.len()).collect().item()
        wanted = table.select([body, *([key] if key and key != body else [])])
        for start in range(0, size, _ROWS):
            rows = wanted.slice(start, _ROWS).collect().iter_rows(named=True)
            for number, row in enumerate(rows, start=start + 1):
                yield _of_row(f"{path}, row {number}", number, row, body, key)
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise MarnError(f"{path} cannot be read ({reason:.100}); check the file") from None
