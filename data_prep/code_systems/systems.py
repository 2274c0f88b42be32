"""Code systems: the form, title and category of a code, in the same way for all sources.

Kinds are "dx" and "pr".
"""

import re
import unicodedata
from collections import Counter
from functools import cache, cached_property

from data_prep.code_systems import icd10
from data_prep.code_systems.ccs import Ccs, Ccsr, titles
from data_prep.config import CcsConfig
from marn.corpus import CodeEntry
from marn.corpus.codes import KINDS, dotted
from marn.corpus.columns import shown
from marn.errors import MarnError

_SEPARATORS = re.compile(r"[;,|\t\r\n]+")
_NOTHING = {"", "nan", "null", "none", "na", "n/a"}
_LOST_ZEROS = re.compile(r"\d{4,5}\.0+", re.ASCII)  # no ICD code; 4280 written as 4280.0
_LOST = re.compile(r"\.(\d0)?$", re.ASCII)
_PREFIX = re.compile(
    r"(?:https?:\S*/)?\bicd[-_ ]?(?:9|10)(?:[-_ ]?(?:cm|pcs))?(?![a-z0-9])[\s:|/_-]*", re.IGNORECASE
)
_BETWEEN = str.maketrans("/^&+", ";;;;")
_DAGGERS = "*†!."  # WHO's and the German ICD-10 put them after a code
_ANY_CODE = re.compile(r"[^\s\x00-\x1f\x7f]{1,40}")


def pieces(cell: str, decimal: re.Pattern[str] | None = None) -> list[str]:
    """Return the codes that a cell holds, between semicolons, commas, bars or blanks.

    Words without a digit do not count as codes: a part that contains one stays whole.

    Args:
        cell: a cell of a table.
        decimal: pattern of an ICD code up to a comma that is written for its dot. With it, the name
            of a code system and dagger marks are removed too.

    >>> pieces("428.0; 427.31"), pieces("['V45.81', 'I10']"), pieces("heart failure|I10 E11.9")
    (['428.0', '427.31'], ['V45.81', 'I10'], ['heart failure', 'I10', 'E11.9'])
    >>> pieces("ICD-9-CM: 428,0; 427,31", Icd9.decimal), pieces("G01*, A39,0", Icd10.decimal)
    (['428.0', '427.31'], ['G01', 'A39.0'])
    """
    if decimal:
        plain = _PREFIX.sub("", unicodedata.normalize("NFKC", cell)).translate(_BETWEEN)
        return [code.rstrip(_DAGGERS) for code in pieces(decimal.sub(r"\1.", plain))]
    found: list[str] = []
    for part in _SEPARATORS.split(shown(cell).strip(" []{}()")):
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


def dotted_any(kind: str, written: str) -> str | None:
    """Return a code without the blanks around it, None if it is longer than one word."""
    code = written.strip()
    return code if _ANY_CODE.fullmatch(code) else None


class CodeSystem:
    """Codes of any system, taken as they are written; the base class of the systems below."""

    name = "their own"
    """Name of the system, for messages."""
    version = ""
    """Version of ICD: "9", "10", or "" for another system."""
    key = ""
    """What identifies a category, for the card of a corpus; "" if there are no categories."""
    procedures = ""
    """Where the categories of procedures come from, for the card."""
    other = "check the column"
    """Remedy if most codes look like those of another system (`is_other`)."""
    dotted = staticmethod(dotted_any)
    """Return a code of a kind with its dot, None for what does not look like a code."""
    decimal: re.Pattern[str] | None = None
    """See `pieces`."""

    def __init__(self) -> None:
        self.uses: Counter[tuple[str, str]] = Counter()
        """How often each (kind, code) is used; complete before the first call of `category`."""
        self.titles: dict[tuple[str, str], str] = {}
        """Titles that a source gives; they take precedence over the system's own."""
        self.categories: dict[tuple[str, str], CodeEntry] = {}
        """Categories that a source gives; they take precedence too."""

    def title(self, kind: str, code: str) -> str:
        """Return the title of a code, "" if there is none."""
        return self.titles.get((kind, code)) or self._title(kind, code)

    def category(self, kind: str, code: str) -> CodeEntry | None:
        """Return the category of a code, None if it has none."""
        return self.categories.get((kind, code)) or self._category(kind, code)

    def _title(self, kind: str, code: str) -> str:
        return ""

    def _category(self, kind: str, code: str) -> CodeEntry | None:
        return None

    def kinds(self, written: str) -> list[str]:
        """Return the kinds that a code may have, the likeliest first."""
        return ["dx"]

    def is_number(self, written: str) -> bool:
        """Return whether a code has gone through a column of numbers and lost its zeros."""
        return False

    def is_other(self, written: str) -> bool:
        """Return whether this looks like a code of the system that `other` names."""
        return False


class Icd9(CodeSystem):
    """ICD-9-CM under the categories of CCS.

    Args:
        config: how categories are found and written.

    Raises:
        MarnError: if HCUP's file of procedure categories cannot be fetched or read.
    """

    name = "ICD-9-CM"
    version = "9"
    other = "they look like ICD-10: give --system icd10"
    dotted = staticmethod(dotted_icd9)
    decimal = re.compile(r"(?<![\w.])(\d{2,3}|V\d\d|E\d{3}),(?=\d{1,2}(?![\w.]))", re.IGNORECASE)

    def __init__(self, config: CcsConfig) -> None:
        super().__init__()
        self.ccs = Ccs.load(config.ccs_procedures)
        self.key, self.procedures = config.ccs_key, self.ccs.procedures
        self._lookup = config.ccs_lookup

    def is_lost(self, kind: str, label: str) -> bool:
        """Return whether the released converter finds no category for a label.

        That is so for a procedure that is a stub ("17.") or has a zero as its second decimal
        ("93.90"), since its label changes when it is read as a number.
        """
        return self._lookup == "released" and kind == "pr" and bool(_LOST.search(label))

    def _title(self, kind: str, code: str) -> str:
        """Return CMS's title of a code, or else one made from the title of its category."""
        if code in titles(kind):
            return titles(kind)[code]
        number = self.ccs.number(kind, code)
        return "" if number is None else f"(one of: {self.ccs.title(kind, number)})"

    def _category(self, kind: str, code: str) -> CodeEntry | None:
        number = None if self.is_lost(kind, code) else self.ccs.number(kind, code)
        if number is None:
            return None
        return CodeEntry(self.ccs.key(kind, number, self.key), kind, self.ccs.title(kind, number))

    def kinds(self, written: str) -> list[str]:
        """Return the kinds that a code may have by its form and, where possible, by CMS and CCS."""
        formed = [kind for kind in KINDS if dotted_icd9(kind, written)]
        listed = [kind for kind in formed if dotted_icd9(kind, written) in known(kind)]
        return listed or formed[:1]

    def is_number(self, written: str) -> bool:
        """Return whether a code was a number: 4280.0 for 4280."""
        return _LOST_ZEROS.fullmatch(written) is not None

    def is_other(self, written: str) -> bool:
        """Return whether this looks like a code of ICD-10."""
        return any(icd10.dotted(kind, written) for kind in KINDS)


class Icd10(CodeSystem):
    """ICD-10-CM under CCSR and ICD-10-PCS under its own systems."""

    name = "ICD-10-CM and ICD-10-PCS"
    version = "10"
    other = "they look like ICD-9: give --system icd9"
    key = icd10.KEY
    procedures = "section and body system of ICD-10-PCS"
    dotted = staticmethod(icd10.dotted)
    decimal = re.compile(r"(?<![\w.])([A-Z]\d\w),(?=\d\w{0,3}(?![\w.]))", re.IGNORECASE)

    @cached_property
    def _of_uses(self) -> dict[tuple[str, str], CodeEntry]:
        return icd10.categories(self.uses)

    def _title(self, kind: str, code: str) -> str:
        return icd10.title(kind, code)

    def _category(self, kind: str, code: str) -> CodeEntry | None:
        return self._of_uses.get((kind, code))

    def kinds(self, written: str) -> list[str]:
        """Return the kind of a code: a procedure if ICD-10-PCS lists it, or its form says so."""
        code = written.strip().upper()
        if code in icd10.procedure_titles() and not Ccsr.load().has(code):
            return ["pr"]
        return [kind for kind in KINDS if icd10.dotted(kind, written)][:1]

    def is_other(self, written: str) -> bool:
        """Return whether this looks like a code of ICD-9-CM."""
        return any(dotted_icd9(kind, written) for kind in KINDS)
