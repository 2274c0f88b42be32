"""Code systems: the form, the title and the category of a code, for all sources alike.

Of each system a source asks its `name`, the `version` of ICD, the `key` that tells categories apart
and where the categories of `procedures` come from, all for the card; and of a code its `dotted`
form (None for what does not look like a code), its `title` where the source gives none ("" if there
is none) and its `category` (None if it has none). Kinds are "dx" and "pr".

Of what people write it is asked which codes a cell holds (`pieces`), which kinds a code may have,
the likeliest first (`kinds`), whether it `is_number` that was text before, and whether it
`is_other`, of the system that the advice `other` names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path

from data_prep.code_systems import icd10
from data_prep.code_systems.ccs import KEY_STYLES, Ccs, Ccsr, titles
from marn.corpus import CodeEntry
from marn.corpus.codes import KINDS, dotted
from marn.errors import MarnError

_SEPARATORS = re.compile(r"[;,|\t\r\n]+")
_NOTHING = {"", "nan", "null", "none", "na", "n/a"}
_LOST_ZEROS = re.compile(r"\d{4,5}\.0+", re.ASCII)  # no ICD code; 4280 written as 4280.0
_LOST = re.compile(r"\.(\d0)?$", re.ASCII)
_ANY_CODE = re.compile(r"[^\s\x00-\x1f\x7f]{1,40}")


def pieces(cell: str) -> list[str]:
    """Return the codes that a cell holds, between semicolons, commas, bars or blanks.

    Words without a digit do not count as codes: a part that contains one stays whole.

    >>> pieces("428.0; 427.31"), pieces("['V45.81', 'I10']"), pieces("heart failure|I10 E11.9")
    (['428.0', '427.31'], ['V45.81', 'I10'], ['heart failure', 'I10', 'E11.9'])
    """
    found: list[str] = []
    for part in _SEPARATORS.split(cell.strip(" []{}()")):
        words = [word.strip("'\"") for word in part.split()]
        coded = all(any(mark.isdigit() for mark in word) for word in words)
        found += words if coded else [part.strip(" '\"")]
    return [code for code in found if code.casefold() not in _NOTHING]


@cache
def known(kind: str) -> frozenset[str]:
    """Return the ICD-9-CM codes that CMS (2014) or CCS (2015) lists, with retired diagnoses."""
    return frozenset(titles(kind)) | frozenset(Ccs.load().numbers[kind])


@cache
def dotted_icd9(kind: str, written: str) -> str | None:
    """Return an ICD-9-CM code with its dot, None for what does not look like a code."""
    try:
        return dotted(kind, written)
    except MarnError:
        return None


class Icd9:
    """ICD-9-CM under the categories of CCS.

    Args:
        procedures: HCUP's file of procedure categories, or "hcup" to fetch it; None for the
            procedures that the project states itself.
        key: how categories are written as labels, "kind:number" or "number".
        lookup: "all", or "released" to find no category for `is_lost`.

    Raises:
        MarnError: if the file cannot be fetched or read.
    """

    name = "ICD-9-CM"
    version = "9"
    other = "they look like ICD-10: give --system icd10"
    dotted = staticmethod(dotted_icd9)
    pieces = staticmethod(pieces)

    def __init__(
        self, procedures: Path | None = None, key: str = KEY_STYLES[0], lookup: str = "all"
    ) -> None:
        self.ccs = Ccs.load(procedures)
        self.key, self.procedures, self.lookup = key, self.ccs.procedures, lookup

    def is_lost(self, kind: str, label: str) -> bool:
        """Return whether the released converter finds no category for a label.

        That is so for a procedure that is a stub ("17.") or has a zero as its second decimal
        ("93.90"): as a number it is written in another way.
        """
        return self.lookup == "released" and kind == "pr" and bool(_LOST.search(label))

    def title(self, kind: str, code: str) -> str:
        """Return CMS's title of a code, or else what its category says about it."""
        if code in titles(kind):
            return titles(kind)[code]
        number = self.ccs.number(kind, code)
        return "" if number is None else f"(one of: {self.ccs.title(kind, number)})"

    def category(self, kind: str, code: str) -> CodeEntry | None:
        """Return the CCS category of a code."""
        number = None if self.is_lost(kind, code) else self.ccs.number(kind, code)
        if number is None:
            return None
        return CodeEntry(self.ccs.key(kind, number, self.key), kind, self.ccs.title(kind, number))

    def kinds(self, written: str) -> list[str]:
        """Return the kinds that a code may have: the dot tells, or else what CMS and CCS list."""
        formed = [kind for kind in KINDS if dotted_icd9(kind, written)]
        listed = [kind for kind in formed if dotted_icd9(kind, written) in known(kind)]
        return listed or formed[:1]

    def is_number(self, written: str) -> bool:
        """Return whether a code has gone through a column of numbers: 4280.0 for 4280."""
        return _LOST_ZEROS.fullmatch(written) is not None

    def is_other(self, written: str) -> bool:
        """Return whether this looks like a code of ICD-10."""
        return any(icd10.dotted(kind, written) for kind in KINDS)


class Icd10:
    """ICD-10-CM under CCSR and ICD-10-PCS under its own systems.

    Args:
        uses: how often each (kind, code) is used; must be complete before the first call of
            `category`.
    """

    name = "ICD-10-CM and ICD-10-PCS"
    version = "10"
    other = "they look like ICD-9: give --system icd9"
    pieces = staticmethod(pieces)
    key = icd10.KEY
    procedures = "section and body system of ICD-10-PCS"
    dotted = staticmethod(icd10.dotted)
    title = staticmethod(icd10.title)

    def __init__(self, uses: Mapping[tuple[str, str], int]) -> None:
        self._uses = uses

    @cached_property
    def _categories(self) -> dict[tuple[str, str], CodeEntry]:
        return icd10.categories(self._uses)

    def category(self, kind: str, code: str) -> CodeEntry | None:
        """Return the category of a code."""
        return self._categories.get((kind, code))

    def kinds(self, written: str) -> list[str]:
        """Return the kind of a code: a procedure if ICD-10-PCS lists it, or its form says so."""
        code = written.strip().upper()
        if code in icd10.procedure_titles() and not Ccsr.load().has(code):
            return ["pr"]
        return [kind for kind in KINDS if icd10.dotted(kind, written)][:1]

    def is_number(self, written: str) -> bool:
        """Return False: every code begins with a letter, or has seven places."""
        return False

    def is_other(self, written: str) -> bool:
        """Return whether this looks like a code of ICD-9-CM."""
        return any(dotted_icd9(kind, written) for kind in KINDS)


class AnySystem:
    """Codes of a system of their own: taken as they are written, without titles or categories."""

    name = "their own"
    version = ""
    key = ""
    procedures = ""
    other = "check the column"
    pieces = staticmethod(pieces)

    def dotted(self, kind: str, written: str) -> str | None:
        """Return a code without the blanks around it, None if it is longer than one word."""
        code = written.strip()
        return code if _ANY_CODE.fullmatch(code) else None

    def title(self, kind: str, code: str) -> str:
        """Return nothing."""
        return ""

    def category(self, kind: str, code: str) -> CodeEntry | None:
        """Return nothing."""
        return None

    def kinds(self, written: str) -> list[str]:
        """Return "dx" for every code."""
        return ["dx"]

    def is_number(self, written: str) -> bool:
        """Return False: a number may be a code."""
        return False

    def is_other(self, written: str) -> bool:
        """Return False."""
        return False


CodeSystem = Icd9 | Icd10 | AnySystem
