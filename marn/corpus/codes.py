"""ICD-9-CM codes as text: where the dot goes, the category above a code, the chapter above that.

A raw table writes codes without their dot, and so 1,593 strings are a billable diagnosis and a
billable procedure as well (``9604`` is poisoning 960.4, or intubation 96.04). The table that a code
comes from therefore says which of the two ``KINDS`` it is and where the dot belongs; once dotted, a
diagnosis and a procedure never look alike: three digits, ``V`` and two or ``E`` and three stand
before the dot of a diagnosis, two digits before that of a procedure.

A code is always text. Read as a number, ``0331`` (spinal tap, 03.31) turns into 33.1.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from marn.errors import MarnError

KINDS: Final = ("dx", "pr")
"""The two tables of origin: diagnoses and procedures."""

# Groups: what stands before the dot, what stands behind it. A dot already there must stand there.
_SHAPE: Final = {
    "dx": re.compile(r"(\d{3}|V\d{2})(?:\.?(\d{1,2}))?|(E\d{3})(?:\.?(\d))?", re.ASCII),
    "pr": re.compile(r"(\d{2})(?:\.?(\d{1,2}))?", re.ASCII),
}
_NOUN: Final = {"dx": "diagnosis", "pr": "procedure"}


class Chapter(NamedTuple):
    """A chapter of ICD-9-CM, such as ``("dx:7", "Diseases of the circulatory system")``.

    Attributes:
        id: The kind and the number that the classification gives the chapter; the supplementary
            classifications are ``dx:V`` and ``dx:E``.
        title: In English, shortened where the official title runs long.
    """

    id: str
    title: str


# (kind, last category) -> chapter; each begins where the one before it ends. The ranges are those
# of the tabular lists of ICD-9-CM, volumes 1 and 3.
_CHAPTERS: Final[dict[str, tuple[tuple[str, Chapter], ...]]] = {
    "dx": (
        ("139", Chapter("dx:1", "Infectious and parasitic diseases")),
        ("239", Chapter("dx:2", "Neoplasms")),
        ("279", Chapter("dx:3", "Endocrine, nutritional, metabolic and immunity disorders")),
        ("289", Chapter("dx:4", "Diseases of the blood and blood-forming organs")),
        ("319", Chapter("dx:5", "Mental disorders")),
        ("389", Chapter("dx:6", "Diseases of the nervous system and sense organs")),
        ("459", Chapter("dx:7", "Diseases of the circulatory system")),
        ("519", Chapter("dx:8", "Diseases of the respiratory system")),
        ("579", Chapter("dx:9", "Diseases of the digestive system")),
        ("629", Chapter("dx:10", "Diseases of the genitourinary system")),
        ("679", Chapter("dx:11", "Complications of pregnancy, childbirth and the puerperium")),
        ("709", Chapter("dx:12", "Diseases of the skin and subcutaneous tissue")),
        ("739", Chapter("dx:13", "Diseases of the musculoskeletal system and connective tissue")),
        ("759", Chapter("dx:14", "Congenital anomalies")),
        ("779", Chapter("dx:15", "Conditions originating in the perinatal period")),
        ("799", Chapter("dx:16", "Symptoms, signs and ill-defined conditions")),
        ("999", Chapter("dx:17", "Injury and poisoning")),
        ("E999", Chapter("dx:E", "External causes of injury and poisoning")),
        ("V99", Chapter("dx:V", "Factors influencing health status and contact with services")),
    ),
    "pr": (
        ("00", Chapter("pr:0", "Procedures and interventions, not elsewhere classified")),
        ("05", Chapter("pr:1", "Operations on the nervous system")),
        ("07", Chapter("pr:2", "Operations on the endocrine system")),
        ("16", Chapter("pr:3", "Operations on the eye")),
        ("17", Chapter("pr:3A", "Other miscellaneous diagnostic and therapeutic procedures")),
        ("20", Chapter("pr:4", "Operations on the ear")),
        ("29", Chapter("pr:5", "Operations on the nose, mouth and pharynx")),
        ("34", Chapter("pr:6", "Operations on the respiratory system")),
        ("39", Chapter("pr:7", "Operations on the cardiovascular system")),
        ("41", Chapter("pr:8", "Operations on the hemic and lymphatic system")),
        ("54", Chapter("pr:9", "Operations on the digestive system")),
        ("59", Chapter("pr:10", "Operations on the urinary system")),
        ("64", Chapter("pr:11", "Operations on the male genital organs")),
        ("71", Chapter("pr:12", "Operations on the female genital organs")),
        ("75", Chapter("pr:13", "Obstetrical procedures")),
        ("84", Chapter("pr:14", "Operations on the musculoskeletal system")),
        ("86", Chapter("pr:15", "Operations on the integumentary system")),
        ("99", Chapter("pr:16", "Miscellaneous diagnostic and therapeutic procedures")),
    ),
}


def dotted(kind: str, raw: str) -> str:
    """Write a code with its dot, placed by the table that the code comes from.

    Args:
        kind: ``"dx"`` for a diagnosis, ``"pr"`` for a procedure.
        raw: The code as a table or a reader writes it: with or without the dot, in either case,
            with blanks around it.

    Returns:
        The code in upper case: ``dotted("dx", "42731")`` is ``"427.31"``, ``dotted("pr", "0331")``
        is ``"03.31"``, ``dotted("dx", "486")`` is ``"486"``.

    Raises:
        MarnError: If ``kind`` is unknown, ``raw`` is no text (zeros may be lost already), or
            ``raw`` has not the shape of a code of that kind.

    Example:
        >>> dotted("dx", "42731"), dotted("pr", "0331"), dotted("dx", "486")
        ('427.31', '03.31', '486')
    """
    before, behind = _parts(kind, raw)
    return f"{before}.{behind}" if behind else before


def undotted(code: str) -> str:
    """Write a code as the raw tables do: ``"427.31"`` becomes ``"42731"``."""
    return code.replace(".", "")


def category(kind: str, code: str) -> str:
    """Return the category of a code: what stands before its dot.

    Args:
        kind: ``"dx"`` or ``"pr"``.
        code: With or without its dot.

    Returns:
        Three characters for a diagnosis (``"427"``, ``"V58"``), ``E`` and three digits for an
        external cause (``"E849"``), two digits for a procedure (``"96"``).

    Raises:
        MarnError: As ``dotted`` does.

    Example:
        >>> category("dx", "427.31"), category("pr", "96.04")
        ('427', '96')
    """
    return _parts(kind, code)[0]


def chapter(kind: str, code: str) -> Chapter:
    """Return the chapter of ICD-9-CM that a code stands in.

    Args:
        kind: ``"dx"`` or ``"pr"``.
        code: With or without its dot.

    Returns:
        The chapter's id and English title, which unpack as a pair.

    Raises:
        MarnError: As ``dotted`` does, and for category 000, which no chapter holds.

    Example:
        >>> chapter("dx", "427.31").title
        'Diseases of the circulatory system'
    """
    found = category(kind, code)
    if (kind, found) == ("dx", "000"):
        raise MarnError(f"diagnosis code {code!r} stands in no chapter: ICD-9-CM begins at 001")
    # Digits sort before E and E before V, so that text order is the order of the chapters.
    return next(entry for last, entry in _CHAPTERS[kind] if found <= last)


def _parts(kind: str, raw: str) -> tuple[str, str]:
    """Split a code into what stands before and behind its dot; "" where nothing stands behind."""
    if kind not in KINDS:
        raise MarnError(f"unknown kind of code {kind!r}: use one of {', '.join(KINDS)}")
    if not isinstance(raw, str):
        raise MarnError(
            f"{_NOUN[kind]} code {raw!r} is no text: read the column as text (dtype=str), "
            "a number has lost its zeros"
        )
    match = _SHAPE[kind].fullmatch(raw.strip().upper())
    if match is None:
        raise MarnError(
            f"{raw!r} is no ICD-9-CM {_NOUN[kind]} code: check the table and the column it "
            "comes from"
        )
    before, *behind = (part for part in match.groups() if part)
    return before, "".join(behind)
