"""Name codes as in CAML's published predictions.

CAML's scripts read codes as numbers, twice: first the procedures, which lose their leading zeros,
and then the table of all codes that the scripts have written. Pandas reads that table in chunks of
`CHUNK` rows and decides for each chunk whether its codes are numbers. The diagnoses come first, and
some have letters; but a chunk of procedures alone becomes numbers, which lose a trailing zero or
gain one: 99.10 becomes 99.1, and 45. becomes 45.0. So one procedure may have two labels.

References:
    Mullenbach et al. 2018 and their notebook `dataproc_mimic_III.ipynb`; for the chunks, pandas'
    C parser with ``low_memory``: the largest power of two of rows with fewer than 2**20 cells.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

from data_prep.prepare import Annotation, Coding, Pair
from marn.corpus import CodeEntry

CHUNK: Final = 1 << 17
"""Rows of CAML's table of five columns that pandas reads at once."""


class CodeRow(NamedTuple):
    """One row of a table of codes."""

    admission: str
    kind: str
    written: str
    """Code as in the table, without blanks around it; "" if the row has none."""
    code: str | None
    """Dotted; None if the row is left out."""


def caml_label(kind: str, code: str) -> str:
    """Write a code as CAML's scripts do, outside a chunk of numbers.

    They read the column of procedure codes as numbers, so that leading zeros are lost, and then
    put the dot after the second digit, even if nothing follows: 03.31 becomes "33.1", and 45
    becomes "45.". The column of diagnosis codes, which has letters, stays text.

    Of CAML's 2,003 procedure codes, none begins with 0, and 21 are stubs such as "45.". Rows
    without a code, which make one empty label there, are left out here.

    Args:
        kind: "dx" or "pr".
        code: dotted.
    """
    if kind == "dx":
        return code
    number = str(int(code.replace(".", "")))
    return f"{number[:2]}.{number[2:]}"


class CamlLabels:
    """Name codes as CAML's scripts do, including labels shared by several codes.

    Args:
        title: returns the title of a code, from its kind and dotted form.
        category: returns the category of a code, from the same.
        is_lost: returns whether a label has no category even if its code has one.
        noted: {discharge summary: its admission}; complete when `codings` is iterated.
    """

    def __init__(
        self,
        title: Callable[[str, str], str],
        category: Callable[[str, str], CodeEntry | None],
        is_lost: Callable[[str, str], bool],
        noted: Mapping[str, str],
    ) -> None:
        self._title, self._category, self._is_lost = title, category, is_lost
        self._noted = noted
        self._meant: dict[Pair, Counter[str]] = {}
        self._numbers: dict[tuple[str, str, str], str] = {}  # labels made in chunks of numbers

    def codings(self, rows: Iterable[CodeRow]) -> Iterator[Coding]:
        """Name the codes of all rows, in the order of the tables, diagnoses first.

        Rows of admissions without a summary are not in CAML's table; they are named as outside a
        chunk of numbers.
        """
        admissions = set(self._noted.values())
        rows = iter(rows)
        while chunk := list(islice(rows, CHUNK)):
            listed = [row for row in chunk if row.admission in admissions]
            while len(listed) < CHUNK and (more := list(islice(rows, CHUNK - len(listed)))):
                chunk += more
                listed += [row for row in more if row.admission in admissions]
            # pandas reads missing codes as numbers too
            is_number = all(
                not row.written or row.written.replace(".", "").isdecimal() for row in listed
            )
            for row in chunk:
                if row.code is not None:
                    yield self._coding(row, is_number and row.admission in admissions)

    def _coding(self, row: CodeRow, is_number: bool) -> Coding:
        assert row.code is not None
        name = caml_label(row.kind, row.code)
        if is_number:
            name = self._numbers[row.admission, row.kind, row.code] = repr(float(name))
        self._meant.setdefault((row.kind, name), Counter())[row.code] += 1
        return Coding(row.admission, row.kind, name)

    def passage(self, passage: Annotation) -> Annotation:
        """Return the passage with the label that its code has in the admission of its note."""
        place = self._noted.get(passage.key, ""), passage.kind, passage.code
        name = self._numbers.get(place) or caml_label(passage.kind, passage.code)
        return passage._replace(code=name)

    def title(self, kind: str, name: str) -> str:
        """Return the titles of all codes with a label."""
        return " / ".join(self._title(kind, code) for code in sorted(self._meant[kind, name]))

    def category(self, kind: str, name: str) -> CodeEntry | None:
        """Return the category of the most frequent code with a label."""
        if self._is_lost(kind, name):
            return None
        meant = self._meant[kind, name]
        return self._category(kind, min(meant, key=lambda code: (-meant[code], code)))
