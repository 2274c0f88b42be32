"""Schemes of codes: what a code looks like, what it is called, and which category it stands under.

A source says which scheme its codes belong to; what is the same for MIMIC-III, MIMIC-IV and notes
of one's own is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Final, Protocol

from data_prep.code_systems import icd10
from data_prep.code_systems.ccs import KEY_STYLES, Ccs
from marn.corpus import CodeEntry
from marn.corpus.codes import dotted
from marn.errors import MarnError


class Scheme(Protocol):
    """What a source asks of the scheme of its codes; kinds are "dx" and "pr"."""

    @property
    def name(self) -> str:
        """Name of the scheme, such as "ICD-9-CM"."""

    @property
    def version(self) -> str:
        """Of ICD: "9" or "10"."""

    @property
    def key(self) -> str:
        """How the categories are told apart, for the card."""

    @property
    def procedures(self) -> str:
        """Where the categories of procedures come from, for the card."""

    def dotted(self, kind: str, written: str) -> str | None:
        """Return a code with its dot, None if what is written has not the form of a code."""

    def title(self, kind: str, code: str) -> str:
        """Return the English title of a code that its source gives none for, "" for none."""

    def category(self, kind: str, code: str) -> CodeEntry | None:
        """Return the category of a code, None if it has none."""


@cache
def _dotted_icd9(kind: str, written: str) -> str | None:
    try:
        return dotted(kind, written)
    except MarnError:
        return None


class Icd9:
    """ICD-9-CM under the categories of CCS.

    Args:
        procedures: HCUP's file of procedure categories, or "hcup" to fetch it; None for the
            procedures that the project states itself.
        key: how categories are told apart, "kind:number" or "number".

    Raises:
        MarnError: if the file cannot be had or read.
    """

    name: Final = "ICD-9-CM"
    version: Final = "9"
    dotted = staticmethod(_dotted_icd9)

    def __init__(self, procedures: Path | None = None, key: str = KEY_STYLES[0]) -> None:
        self.ccs = Ccs.load(procedures)
        self.key, self.procedures = key, self.ccs.procedures

    def title(self, kind: str, code: str) -> str:
        """Return what the category of a code says of it."""
        number = self.ccs.number(kind, code)
        return "" if number is None else f"(one of: {self.ccs.title(kind, number)})"

    def category(self, kind: str, code: str) -> CodeEntry | None:
        """Return the CCS category of a code."""
        number = self.ccs.number(kind, code)
        if number is None:
            return None
        return CodeEntry(self.ccs.key(kind, number, self.key), kind, self.ccs.title(kind, number))


class Icd10:
    """ICD-10-CM under CCSR and ICD-10-PCS under its own systems.

    Args:
        uses: of each code with its kind; must be complete when the first category is asked for.
    """

    name: Final = "ICD-10-CM and ICD-10-PCS"
    version: Final = "10"
    key: Final = icd10.KEY
    procedures: Final = "section and body system of ICD-10-PCS"
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
