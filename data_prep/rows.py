"""The rows of a CSV file: what `csv.reader` gives, several times as fast where fields are long.

A piece of the file is parted at its quotes. Parts at even places stand outside of quotes; joined,
with a mark for each quoted part between them, they are short, and hold every comma and line end
that means something. A quoted field, however long, is never looked into. The rest of the file is
left to the csv module, whose word on it is final, where fields are short or anything is out of the
ordinary: a quote within an unquoted field, text behind a closed quote, a carriage return by itself,
a last row without its line end, a field without end.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain

_PIECE = 1 << 18  # characters read at once: they stay in a processor's cache
_SHORT = 64  # with fewer characters between quotes the csv module is the faster one
_MARK = "\0"  # of a quoted part; no table holds this character (`data_prep.tables`)


class Rows:
    """The rows of a file, gone through once.

    Args:
        file: opened with `newline=""`, without a NUL.
        limit: characters in a field at most.
    """

    def __init__(self, file: io.TextIOWrapper, limit: int) -> None:
        self._file, self._limit = file, limit
        self.passed = 0
        """Rows that were yielded."""

    def __iter__(self) -> Iterator[list[str]]:
        """Yield the fields of each row.

        Raises:
            csv.Error: if the file breaks the rules of the strict dialect.
        """
        text = self._file.read(_PIECE).removeprefix("\ufeff")
        if text.count('"') * _SHORT > len(text):
            yield from self._left_to_csv(text)
            return
        while text:
            found = _whole_rows(text)
            if found is None or len(text) > self._limit:
                yield from self._left_to_csv(text)
                return
            rows, used = found
            for row in rows:
                yield row
                self.passed += 1
            text = text[used:]
            more = self._file.read(_PIECE)
            if text and not more:
                yield from self._left_to_csv(text)
                return
            text += more

    def _left_to_csv(self, text: str) -> Iterator[list[str]]:
        """Read the rest of the file, of which the beginning is given, with the csv module."""
        begun = io.StringIO(text + self._file.readline(), newline="")
        # The csv module has a limit of its own, which is the process's and may be larger.
        is_long = len(text) > self._limit
        for row in csv.reader(chain(begun, self._file), strict=True):
            if is_long and max(map(len, row), default=0) > self._limit:
                raise csv.Error(f"field larger than field limit ({self._limit})")
            yield row
            self.passed += 1


def line_of(file: io.TextIOWrapper, row: int) -> int:
    """Return the line, counted from 1, that a row of a file begins on.

    Args:
        file: from its beginning, opened with `newline=""`.
        row: counted from 0; those before it can be read.
    """
    reader = csv.reader(file, strict=True)
    for _ in range(row):
        next(reader)
    return reader.line_num + 1


def _whole_rows(text: str) -> tuple[list[list[str]], int] | None:
    """Read the rows that lie in a piece of a file as a whole.

    Args:
        text: begins where a row does.

    Returns:
        The rows, and how many characters they take up; None if the csv module must read the piece.
    """
    parts = text.split('"')
    quoted = parts[1::2]
    skeleton = _MARK.join(parts[0::2])
    if len(parts) % 2 == 0:
        skeleton += _MARK  # the last quote is open: its part is in the row that is not whole
    end = skeleton.rfind("\n") + 1
    # What lies behind the last whole row: its characters outside of quotes, each quoted part and
    # the quotes of it, of which the last may lack the closing one.
    marks = skeleton.count(_MARK, end)
    behind = len(skeleton) - end + marks + sum(map(len, quoted[len(quoted) - marks :]))
    behind -= len(parts) % 2 == 0
    skeleton = skeleton[:end]
    if "\r" in skeleton:
        skeleton = skeleton.replace("\r\n", "\n")
        if "\r" in skeleton:
            return None
    given = iter(quoted)
    rows = []
    for line in skeleton.split("\n")[:-1]:
        row = line.split(",") if line else []
        if _MARK in line:
            for place, field in enumerate(row):
                if field == _MARK:
                    row[place] = next(given)
                elif _MARK in field:
                    marks = len(field)
                    if field != _MARK * marks:
                        return None
                    # Two quotes in a quoted field, which stand for one.
                    row[place] = '"'.join([next(given) for _ in range(marks)])
        rows.append(row)
    return rows, len(text) - behind
