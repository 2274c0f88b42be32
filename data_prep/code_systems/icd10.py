"""Recognise ICD-10-CM diagnoses and ICD-10-PCS procedures, and give their titles and categories.

The category of a diagnosis is that of CCSR (`ccs.Ccsr`). No package has the CCSR of procedures;
but ICD-10-PCS has its own groups: the first two of the seven characters are the section and the
body system, and these are the categories here ("PCS:02", medical and surgical, heart and great
vessels). HCUP's CCSR of procedures is finer.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from data_prep.code_systems.ccs import Ccsr, read_data_file
from data_prep.tables import shipped
from marn.corpus import CodeEntry

KEY: Final = "ccsr+pcs"
"""Name that the card of a corpus has for these categories."""

# An X may stand for a missing character: T81.4XXA. No procedure has the letters I and O, which
# look like digits.
_DIAGNOSIS: Final = re.compile(r"([A-Z]\d[0-9A-Z])(?:\.?([0-9A-Z]{1,4}))?", re.ASCII)
_PROCEDURE: Final = re.compile(r"[0-9A-HJ-NP-Z]{7}", re.ASCII)


@cache
def dotted(kind: str, written: str) -> str | None:
    """Return a code with its dot, which procedures lack; None for what does not look like a code.

    Args:
        kind: "dx" for ICD-10-CM, "pr" for ICD-10-PCS.
        written: the code in either case, with or without its dot, with blanks around it.
    """
    code = written.strip().upper()
    if kind == "pr":
        return code if _PROCEDURE.fullmatch(code) else None
    match = _DIAGNOSIS.fullmatch(code)
    if match is None:
        return None
    return ".".join(part for part in match.groups() if part)


def title(kind: str, code: str) -> str:
    """Return the English title of a code of either kind, "" where none is known."""
    return Ccsr.load().title(code) if kind == "dx" else procedure_titles().get(code, "")


def categories(uses: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], CodeEntry]:
    """Return the category of each code that has one.

    No package has CCSR's own titles, so such a category is named after its body system and its
    most used member.

    Args:
        uses: how often each (kind, code) is used.
    """
    ccsr = Ccsr.load()
    found: dict[tuple[str, str], CodeEntry] = {}
    members: dict[str, list[str]] = {}
    for kind, code in uses:
        if kind == "pr" and code[:2] in procedure_systems():
            found[kind, code] = CodeEntry(f"PCS:{code[:2]}", kind, procedure_systems()[code[:2]])
        elif kind == "dx" and (category := ccsr.category(code)) is not None:
            members.setdefault(category, []).append(code)
    for category, codes in members.items():
        example = min(codes, key=lambda code: (-uses["dx", code], code))
        name = f"{ccsr.system(category)}: {ccsr.title(example)}"
        found |= {("dx", code): CodeEntry(category, "dx", name) for code in codes}
    return found


@cache
def procedure_systems() -> Mapping[str, str]:
    """Return the title of each pair of section and body system of ICD-10-PCS."""
    return {row["code"]: row["title"] for row in shipped("code_systems/pcs_systems.csv")}


@cache
def procedure_titles() -> Mapping[str, str]:
    """Return the title of every code of ICD-10-PCS (2024)."""
    text = read_data_file("ICD_10_CM_2024_release/icd10pcs-codes-2024.txt").decode()
    return {line[:7]: line[8:].strip() for line in text.splitlines()}
