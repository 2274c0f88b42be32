"""Reader of the raw tables: the rows of a MIMIC CSV file, or one clear line on what is wrong.

Columns are found by name in any case, files in any case and with or without `.gz`. What the rows
mean is the matter of the sources.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import IO, cast

from data_prep.rows import Rows, line_of
from marn.errors import MarnError

FIELD_LIMIT = 1 << 24
"""Characters in one field at most. The longest note of MIMIC-III has under 2 ** 20; a quote that
is never closed would otherwise draw the rest of a file of gigabytes into one field."""

ID_DIGITS = 18
"""Digits in an id at most: what a column of eight bytes can hold."""

_NULLS = {"", "null", "nan", "none", "na", "\\n"}
_PLAIN = re.compile(r"[1-9]\d{0,9}", re.ASCII)
_WHOLE = re.compile(r"(\d+)(?:\.0+)?", re.ASCII)


def folder(path: Path) -> Path:
    """Return a folder of raw tables, or say why it is none.

    Raises:
        MarnError: if it does not exist or is a file.
    """
    if not path.exists():
        raise MarnError(f"No folder {path}. Give the folder of the raw tables with --raw.")
    if not path.is_dir():
        raise MarnError(
            f"{path} is a file. Give the folder that holds the raw tables (NOTEEVENTS.csv.gz, ...)."
        )
    return path


def find(raw: Path, name: str) -> Path | None:
    """Return the file of a table in a folder, whether plain or gzipped, or None.

    Args:
        raw: the folder of the tables.
        name: of the table, such as "NOTEEVENTS".

    Raises:
        MarnError: if several files could be meant.
    """
    wanted = {f"{name}.csv".casefold(), f"{name}.csv.gz".casefold()}
    try:
        found = sorted(entry for entry in folder(raw).iterdir() if entry.name.casefold() in wanted)
    except OSError as error:
        raise MarnError(f"{raw} cannot be read: {error.strerror or error}.") from None
    if len(found) > 1:
        raise MarnError(
            f"{raw} holds both {found[0].name} and {found[1].name}. Remove one of them."
        )
    return found[0] if found else None


def require(raw: Path, name: str) -> Path:
    """Return the file of a table that must be there.

    Raises:
        MarnError: if it is not.
    """
    path = find(raw, name)
    if path is None:
        raise MarnError(
            f"{raw} has no {name}.csv or {name}.csv.gz. Put the table there, as PhysioNet gives "
            "it, or write a synthetic one with: python -m data_prep teaching"
        )
    return path


def read(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, tuple[str, ...]]]:
    r"""Go through the rows of a table.

    The dialect is that of the MIMIC files: commas, fields quoted where need be, quotes within
    doubled, line breaks within kept as they are. A byte order mark and CRLF are taken as well;
    empty lines are passed over. Only one row is in memory.

    Args:
        path: a CSV file, gzipped if its name ends in `.gz`.
        columns: names of the columns to return, two or more, in any case.
        optional: names of columns that may be absent; then their fields are empty.

    Yields:
        The place of a row (0 is the header), by which `fault` finds its line, and its fields in the
        order of `columns`, then of `optional`.

    Raises:
        MarnError: naming file and line, if the file is empty, lacks a column, is not UTF-8, holds
            a NUL, is cut, has a row of another width or a quote that is never closed.
    """
    # The csv module keeps one limit for the whole process; a smaller one would refuse long notes.
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))
    try:
        with _open(path) as binary:
            checked = cast("IO[bytes]", io.BufferedReader(_WithoutNul(binary), 1 << 18))
            reader = Rows(io.TextIOWrapper(checked, encoding="utf-8", newline=""), FIELD_LIMIT)
            rows = iter(reader)
            header = next(rows, [])
            if not header:
                raise MarnError(f"{path} is empty. Get a fresh copy of it.")
            places = _places(path, header, columns, optional)
            pick = itemgetter(*[len(header) if place is None else place for place in places])
            absent = [""] if None in places else []
            width = len(header)
            for place, row in enumerate(rows, start=1):
                if len(row) == width:
                    yield place, pick(row + absent if absent else row)
                elif row:
                    raise fault(
                        path,
                        place,
                        f"{len(row)} fields instead of {width}. The file is cut or a quote is "
                        "missing; get a fresh copy of it.",
                    )
    except csv.Error as error:
        what = str(error)
        if "unexpected end" in what:
            what = "a quote is opened and never closed"
        elif "field larger" in what:
            what = f"a quote is never closed, or a field of more than {FIELD_LIMIT:,} characters"
        elif "new-line character" in what:
            what = "a carriage return outside quotes"
        raise fault(
            path, reader.passed, f"{what}. The file is cut or damaged; get a fresh copy of it."
        ) from None
    except UnicodeDecodeError:
        raise _undecodable(path) from None
    except _NulError:
        line = next(number for number, line in _lines(path) if b"\0" in line)
        raise _fault_on(
            path, line, "a NUL byte. The file is damaged; get a fresh copy of it."
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MarnError(
            f"{path} cannot be unpacked ({error}). Its download was cut or damaged; get it again."
        ) from None
    except OSError as error:
        raise MarnError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_text(path: Path) -> str:
    """Return the text of a file to the character: its line ends stay.

    Raises:
        MarnError: naming the file, if it cannot be read, holds a NUL or is not UTF-8.
    """
    try:
        data = path.read_bytes()
        if b"\0" in data:
            raise MarnError(f"{path} holds a NUL byte. It is no text, or damaged.")
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        raise _undecodable(path) from None
    except OSError as error:
        raise MarnError(f"{path} cannot be read: {error.strerror or error}.") from None


def fault(path: Path, place: int, what: str) -> MarnError:
    """Return the error that names a row of a table, by the line it begins on.

    Lines are counted now, by reading the table again: seldom, so that reading need not count them.

    Args:
        path: the table.
        place: of the row, as `read` yields it.
        what: is wrong, and the remedy.
    """
    with _open(path) as binary:
        whole = io.BufferedReader(cast("io.RawIOBase", binary))
        text = io.TextIOWrapper(
            cast("IO[bytes]", whole), encoding="utf-8-sig", errors="replace", newline=""
        )
        return _fault_on(path, line_of(text, place), what)


def _fault_on(path: Path, line: int, what: str) -> MarnError:
    return MarnError(f"{path}, row at line {line}: {what}")


def identifier(path: Path, place: int, value: str) -> str | None:
    """Read an id (ROW_ID, SUBJECT_ID, HADM_ID).

    Args:
        path: the table, for the error.
        place: of the row, for the error.
        value: the field; "145834.0", as a data frame writes it, means 145834.

    Returns:
        The id without leading zeros, or None for an empty field.

    Raises:
        MarnError: if it is not a whole number.
    """
    if _PLAIN.fullmatch(value):  # as nearly all are
        return value
    value = value.strip()
    match = _WHOLE.fullmatch(value)
    if match and len(match[1]) <= ID_DIGITS:
        return match[1].lstrip("0") or "0"
    if value.casefold() in _NULLS:
        return None
    # Where columns have slipped this may be a piece of a note, which an error must not show.
    shown = repr(value[:40]) if re.fullmatch(r"\S{1,5000}", value) else "a text"
    raise fault(
        path, place, f"{shown} is no id. Expected a whole number of at most {ID_DIGITS} digits."
    )


def _places(
    path: Path, header: Sequence[str], columns: Sequence[str], optional: Sequence[str]
) -> list[int | None]:
    """Return the place of each column in the header, None for an optional one that is absent."""
    names = [name.strip().upper() for name in header]
    for column in (*columns, *optional):
        count = names.count(column.upper())
        if count > 1 or (count == 0 and column in columns):
            # Where the header is missing this is a row, and may hold a note: only names are shown.
            found = ", ".join(
                name[:200] if re.fullmatch(r"[\w.;\t-]*", name) else "(a text)"
                for name in names[:20]
            )
            raise MarnError(
                f"{path} has {'more than one' if count else 'no'} column {column}. Its header is: "
                f"{found[:300]}. Expected a table whose columns are named so, separated by commas."
            )
    return [
        names.index(column.upper()) if column.upper() in names else None
        for column in (*columns, *optional)
    ]


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb", buffering=0)


class _NulError(Exception):
    """A NUL byte went by."""


class _WithoutNul(io.RawIOBase):
    """Passes bytes on and stops at a NUL, which the csv module would take for text."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        chunk = self._inner.read(len(buffer))
        if b"\0" in chunk:
            raise _NulError
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with _open(path) as binary:
        yield from enumerate(io.BufferedReader(cast("io.RawIOBase", binary)), start=1)


def _undecodable(path: Path) -> MarnError:
    for number, line in _lines(path):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            return _fault_on(
                path,
                number,
                f"byte 0x{byte:02x} is not UTF-8 (Latin-1, it seems). Convert the file with: "
                f"iconv -f latin1 -t utf-8 {path.name}",
            )
    raise AssertionError("a file that failed to decode decodes")
