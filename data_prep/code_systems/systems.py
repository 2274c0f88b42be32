"""Code systems: the form, the title and the category of a code, for all sources alike.

Of each system a source asks its `name`, the `version` of ICD, the `key` that tells categories apart
and where the categories of `procedures` come from, all for the card; and of a code its `dotted`
form (None for what does not look like a code), its `title` where the source gives none ("" if there
is none) and its `category` (None if it has none). Kinds are "dx" and "pr".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path

from data_prep.code_systems import icd10
from data_prep.code_systems.ccs import KEY_STYLES, Ccs
from marn.corpus import CodeEntry
from marn.corpus.codes import dotted
from marn.errors import MarnError


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

    Raises:
        MarnError: if the file cannot be fetched or read.
    """

    name = "ICD-9-CM"
    version = "9"
    dotted = staticmethod(dotted_icd9)

    def __init__(self, procedures: Path | None = None, key: str = KEY_STYLES[0]) -> None:
        self.ccs = Ccs.load(procedures)
        self.key, self.procedures = key, self.ccs.procedures

    def title(self, kind: str, code: str) -> str:
        """Return what the category of a code says about it."""
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
        uses: how often each (kind, code) is used; must be complete before the first call of
            `category`.
    """

    name = "ICD-10-CM and ICD-10-PCS"
    version = "10"
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


CodeSystem = Icd9 | Icd10
