"""Write ICD-9-CM codes as text, with their dot.

Raw tables write codes without a dot, so 1,593 strings are both a billable diagnosis and a
billable procedure (``9604`` is poisoning 960.4, or intubation 96.04). The table that a code comes
from therefore says which of the two ``KINDS`` it is and where its dot belongs. With its dot, a
diagnosis never looks like a procedure: it has three digits, ``V`` and two, or ``E`` and three
before the dot, and a procedure has two.

A code is always text. Read as a number, ``0331`` (spinal tap, 03.31) would become 33.1.
"""

import re
from typing import Final

from marn.errors import MarnError

KINDS: Final = ("dx", "pr")
"""The two tables of origin: diagnoses and procedures."""

# Groups: what precedes the dot, what follows it. If a dot is written, it must be in its place.
_SHAPE: Final = {
    "dx": re.compile(r"(\d{3}|V\d{2})(?:\.?(\d{1,2}))?|(E\d{3})(?:\.?(\d))?", re.ASCII),
    "pr": re.compile(r"(\d{2})(?:\.?(\d{1,2}))?", re.ASCII),
}
_NOUN: Final = {"dx": "diagnosis", "pr": "procedure"}


def dotted(kind: str, raw: str) -> str:
    """Write a code with its dot, placed according to its kind.

    Args:
        kind: ``"dx"`` for a diagnosis, ``"pr"`` for a procedure.
        raw: the code as written: with or without the dot, in either case, with blanks around it.

    Returns:
        The code in upper case.

    Raises:
        MarnError: ``kind`` is unknown, ``raw`` is not text (its zeros may already be lost), or it
            does not look like a code of that kind.

    Example:
        >>> dotted("dx", "42731"), dotted("pr", "0331"), dotted("dx", "486")
        ('427.31', '03.31', '486')
    """
    if kind not in KINDS:
        raise MarnError(f"unknown kind of code {kind!r}; use one of {', '.join(KINDS)}")
    if not isinstance(raw, str):
        raise MarnError(
            f"{_NOUN[kind]} code {raw!r} is not text and has lost its zeros; read the column as "
            "text (dtype=str)"
        )
    match = _SHAPE[kind].fullmatch(raw.strip().upper())
    if match is None:
        raise MarnError(
            f"{raw!r} is not a valid ICD-9-CM {_NOUN[kind]} code; check the table and the column "
            "that it comes from"
        )
    return ".".join(part for part in match.groups() if part)


def undotted(code: str) -> str:
    """Write a code as the raw tables do, without its dot.

    Example:
        >>> undotted("427.31")
        '42731'
    """
    return code.replace(".", "")
