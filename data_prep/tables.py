"""Read the rows of a raw MIMIC CSV file, or report in one line what is wrong with it.

Columns and files are found by name in upper or lower case, files with or without `.gz`. The sources
interpret the rows.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import polars as pl

from marn.corpus.columns import open_bytes
from marn.corpus.loose_tables import DAMAGED, ROW_LIMIT, csv_rows, fault_on, readable
from marn.errors import MarnError

PIECE = 1 << 21
"""Number of bytes of a table that are parsed at once."""

ID_DIGITS = 18
"""Maximum number of digits in an id, so that it fits into eight bytes."""

_NULLS = {"", "null", "nan", "none", "na", "\\n"}
_PLAIN = re.compile(r"[1-9]\d{0,9}", re.ASCII)
_WHOLE = re.compile(r"(\d+)(?:\.0+)?", re.ASCII)
_NUMBER_LIKE = re.compile(r"[+-]?[\d.]{1,40}(?:[eE][+-]?\d{1,4})?", re.ASCII)


def folder(path: Path, option: str = "--raw") -> Path:
    """Return a folder of raw tables given with a command-line option.

    Raises:
        MarnError: if it does not exist or is a file.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise MarnError(f"{path} {what}; give the folder of the raw tables with {option}")
    return path


def find(raw: Path, name: str) -> Path | None:
    """Return the file of a table in a folder, plain or gzipped, or None if it is missing.

    Args:
        raw: the folder of the tables.
        name: of the table, such as "NOTEEVENTS".

    Raises:
        MarnError: if several files match.
    """
    wanted = {f"{name}.csv".casefold(), f"{name}.csv.gz".casefold()}
    try:
        found = sorted(entry for entry in folder(raw).iterdir() if entry.name.casefold() in wanted)
    except OSError as error:
        raise MarnError(f"{raw} cannot be read: {error.strerror or error}") from None
    if len(found) > 1:
        raise MarnError(f"{raw} holds both {found[0].name} and {found[1].name}; remove one of them")
    return found[0] if found else None


def require(raw: Path, name: str) -> Path:
    """Return the file of a required table.

    Raises:
        MarnError: if it is missing.
    """
    path = find(raw, name)
    if path is None:
        raise MarnError(
            f"{raw} has no {name}.csv or {name}.csv.gz; copy it there as PhysioNet provides it "
            "(python -m data_prep teaching makes tables like MIMIC-III's)"
        )
    return path


def read(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Read the rows of a table, a piece of the file at a time.

    The dialect is that of the MIMIC files: commas, quotes around fields where needed, quotes
    within a quoted field doubled, line breaks within it kept. A byte order mark, CRLF and empty
    lines are accepted.

    Args:
        path: a CSV file, gzipped if its name ends in `.gz`.
        columns: names of the columns to return, two or more, in any case.

    Yields:
        The index of a row (the header has 0), from which `fault` finds its line, and its fields
        in the order of `columns`.

    Raises:
        MarnError: naming file and line, if the file is empty, lacks a column, is not UTF-8,
            contains a NUL, is cut off, has a row of another width, an unclosed quote or a row of
            more than `ROW_LIMIT` characters.
    """
    header = next(_csv_rows(path), (1, []))[1]
    if not header:
        raise MarnError(f"{path} is empty; get a fresh copy")
    indices = _indices(path, header, columns)
    done = 0
    with readable(path):
        try:
            for frame in _frames(path, len(header), sorted({*indices})):
                rows = zip(*(frame[str(index)].to_list() for index in indices), strict=True)
                numbered = enumerate(rows, start=done)
                yield from numbered if done else islice(numbered, 1, None)
                done += len(frame)
        except pl.exceptions.PolarsError:  # the csv module reads the rest, or names the line
            for number, (line, row) in enumerate(_csv_rows(path)):
                if number < max(done, 1) or not row:
                    continue
                if len(row) != len(header):
                    what = f"{len(row)} fields instead of {len(header)}: {DAMAGED}"
                    raise fault_on(path, line, what) from None
                yield number, tuple(row[index] for index in indices)


def _frames(path: Path, width: int, wanted: Sequence[int]) -> Iterator[pl.DataFrame]:
    """Yield the rows of a table, header included, or raise where they are not plain.

    Polars does not refuse a short row, a lone carriage return or a NUL, and never names a line. So
    each piece is matched against the grammar first, without its quoted parts: it is then short, and
    every comma, quote and line end in it is part of the syntax.
    """
    grammar = _grammar(width)
    schema = {str(index): pl.String for index in range(width)}
    with open_bytes(path) as file:
        rest = file.read(PIECE).removeprefix(codecs.BOM_UTF8)
        while rest:
            skeleton, end = _whole_rows(rest)
            piece, rest = rest[:end], rest[end:]
            if (
                len(piece) + len(rest) > ROW_LIMIT
                or b"\0" in piece
                or not grammar.fullmatch(skeleton)
            ):
                raise pl.exceptions.ComputeError("not plain")
            if piece:
                yield pl.read_csv(
                    piece,
                    has_header=False,
                    schema=schema,
                    columns=wanted,
                    empty_string_is_null=False,
                )
            more = file.read(PIECE)
            if rest and not more:
                raise pl.exceptions.ComputeError("a last row without its line end, or cut")
            rest += more


def _grammar(width: int) -> re.Pattern[bytes]:
    """Return the pattern of rows with this many fields, where a quote stands for a quoted part.

    Adjacent quoted parts are one field with a quote in it. Repetitions are possessive, so that
    matching takes linear time.
    """
    field = rb'(?:"++|[^",\r\n]*+)'
    return re.compile(rb"(?:%b(?:,%b){%d}\r?\n)*+" % (field, field, width - 1))


def _whole_rows(data: bytes) -> tuple[bytes, int]:
    """Find the whole rows at the beginning of some data.

    Returns:
        The rows up to the last line end outside quotes, without the contents of their quoted parts,
        and the position after that line end; b"" and 0 if there is none.
    """
    if b"\n" not in data:
        return b"", 0
    parts = data.split(b'"')  # those at even places are outside quotes
    end = len(data)
    for place in range(len(parts) - 1, -1, -1):
        line_end = parts[place].rfind(b"\n") + 1 if place % 2 == 0 else 0
        if line_end:
            outside = [*parts[:place:2], parts[place][:line_end]]
            return b'"'.join(outside), end - len(parts[place]) + line_end
        end -= len(parts[place]) + 1
    return b"", 0


def _csv_rows(path: Path, *, lenient: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield each row of a table with the line it begins on, by the strict csv module.

    With `lenient`, NULs and bytes that are not UTF-8 are accepted, to reach a row before them.
    """
    with readable(path), open_bytes(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", "replace" if lenient else "strict", newline="")
        lines = iter(lambda: text.readline(ROW_LIMIT + 1), "")
        try:
            yield from csv_rows(path, lines, lenient=lenient)
        except UnicodeError:
            raise _unreadable_bytes(path) from None


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8 unchanged, line ends included.

    Raises:
        MarnError: naming the file, if it cannot be read, contains a NUL or is not UTF-8.
    """
    with readable(path):
        data = path.read_bytes()
        if b"\0" in data:
            raise MarnError(
                f"{path} contains a NUL byte, so it is not text or is damaged; get a fresh copy"
            )
        try:
            return data.removeprefix(codecs.BOM_UTF8).decode()
        except UnicodeDecodeError:
            raise _unreadable_bytes(path) from None


def fault(path: Path, index: int, what: str) -> MarnError:
    """Return the error that names a row of a table by the line it begins on.

    The table is read again to count its lines, so that reading itself need not count them.

    Args:
        path: the table.
        index: index of the row, as `read` yields it.
        what: what is wrong, and the remedy.
    """
    line = next(islice(_csv_rows(path, lenient=True), index, None))[0]
    return fault_on(path, line, what)


def identifier(path: Path, index: int, value: str) -> str | None:
    """Parse an id (ROW_ID, SUBJECT_ID, HADM_ID).

    Args:
        path: the table, for the error.
        index: index of the row, for the error.
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
    what = (
        f"{shown(value)} is not a valid id; expected a whole number of at most {ID_DIGITS} digits"
    )
    raise fault(path, index, what)


@cache
def shipped(name: str) -> list[dict[str, str]]:
    """Return the rows of a table that comes with `data_prep`, such as "audit/findings.csv"."""
    return list(csv.DictReader((Path(__file__).parent / name).read_text("utf-8").splitlines()))


def shown(value: str) -> str:
    """Return how an error shows a field: unchanged only if it looks like a number.

    If columns have shifted, any field may contain a note, and not every language uses blanks.
    """
    return repr(value) if _NUMBER_LIKE.fullmatch(value) else "a text"


def _indices(path: Path, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Return the index of each column in the header."""
    names = [name.strip().upper() for name in header]
    for column in columns:
        if (count := names.count(column.upper())) != 1:
            # Without a header this is a row, which may hold a note: only names are shown.
            found = ", ".join(
                name[:200] if re.fullmatch(r"[\w.;\t-]*", name) else "(a text)"
                for name in names[:20]
            )
            raise MarnError(
                f"{path} has {'more than one' if count else 'no'} column {column} (the header is: "
                f"{found[:300]}); give a table with these column names, separated by commas"
            )
    return [names.index(column.upper()) for column in columns]


def _unreadable_bytes(path: Path) -> MarnError:
    """Return the error that names the first line of a table with a NUL or without UTF-8."""
    with open_bytes(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(ROW_LIMIT), b""), start=1):
            if b"\0" in line:
                return fault_on(path, number, f"a NUL byte: {DAMAGED}")
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return fault_on(
                    path,
                    number,
                    f"byte 0x{line[error.start]:02x} is not UTF-8 (perhaps Latin-1); convert the "
                    f"file with: iconv -f latin1 -t utf-8 {path.name}",
                )
    raise AssertionError("a file that failed to decode decodes")
