"""The codes of the head and the tail, as `head.csv` and `tail.csv` state them."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from data_prep.code_systems.ccs import Ccs
from data_prep.hospital.portable_random import PortableRandom
from data_prep.tables import shipped

Key = tuple[str, str]
"""Kind ("dx" or "pr") and dotted code."""

HEAD = 50
"""Codes in the head: their ranks are 0 to 49."""

OFTEN = 0.35
"""A tail code that a feature brings with a higher share belongs to that feature. If all shares of
a code are lower, they are multiplied by a random factor that is fixed for the code, so that some
codes are common and others rare, as in real data."""

LUCK = (0.3, 1.7)
"""Median and sigma of that factor, which is log-normal."""

NEWBORN, MOTHER = (0, 0), (16, 45)
"""Lowest and highest age, in years, for codes of birth: the newborn's and the mother's."""


@dataclass(frozen=True, eq=False)
class Code:
    """A code, and when an admission has it."""

    kind: str  # "dx" or "pr"
    code: str  # dotted
    # number of its CCS category within the kind; of a rare procedure, for which the project states
    # none, its rubric
    ccs: str
    rank: int  # 0 to 49 for the head, then on in the order of the tail, from 1000 for the rare ones
    base: float = 0.0  # log-odds before any feature (head only)
    odds: tuple[tuple[str, float], ...] = ()  # log-odds that features add (head only)
    # features, each of which brings the code with its own probability (tail only)
    given: tuple[tuple[str, float], ...] = ()
    # services that see it most; empty for all but newborn and obstetric ones (tail only)
    services: tuple[str, ...] = ()
    sex: str = ""  # "M", "F" or "" for both
    ages: tuple[int, int] = (1, 120)  # lowest and highest age in years
    without: frozenset[str] = frozenset()  # dotted codes of the same admission that exclude it
    names: tuple[str, ...] = ()  # noun phrases for it (tail only)
    pre: tuple[str, ...] = ()  # qualifiers that precede a name
    post: tuple[str, ...] = ()  # qualifiers that follow it
    share: float = 0.0  # of the admissions that have it, as published (head only)
    lasting: bool = False  # whether this is a rare code of a chronic condition

    @property
    def key(self) -> Key:
        """Kind and dotted code."""
        return self.kind, self.code

    def suits(self, sex: str, age: int) -> bool:
        """Return whether a patient of that sex and age can have it."""
        return self.sex in ("", sex) and self.ages[0] <= age <= self.ages[1]


def category(kind: str, code: str) -> str:
    """Return the CCS category of a code; without one, the rubric of a procedure, otherwise ""."""
    number = Ccs.load().number(kind, code)
    if number is not None:
        return str(number)
    return f"rubric {code[:2]}" if kind == "pr" else ""


@cache
def head_and_tail() -> tuple[tuple[Code, ...], tuple[Code, ...]]:
    """Return all codes of `head.csv` and `tail.csv`, in the order of the files."""
    head, tail = shipped("hospital/head.csv"), shipped("hospital/tail.csv")
    by_share = sorted(head, key=lambda row: -float(row["rate"]))
    rank = {(row["kind"], row["code"]): place for place, row in enumerate(by_share)}
    return (
        tuple(
            Code(
                **_common(row),
                rank=rank[row["kind"], row["code"]],
                base=float(row["base"]),
                odds=_pairs(row["odds"]),
                share=float(row["rate"]) / 100,
            )
            for row in head
        ),
        tuple(_tail_code(row, HEAD + place) for place, row in enumerate(tail)),
    )


def _common(row: dict[str, str]) -> dict[str, Any]:
    kind, code = row["kind"], row["code"]
    without = frozenset(row["without"].split())
    return {"kind": kind, "code": code, "ccs": category(kind, code), "without": without}


def _tail_code(row: dict[str, str], rank: int) -> Code:
    given = _pairs(row["given"])
    brought = {name for name, _ in given}
    lucky = row["kind"] == "dx" and not brought & {"NB", "OBS"}
    if lucky and all(share <= OFTEN for _, share in given):
        luck = PortableRandom("prior", row["code"]).lognormal(*LUCK)
        given = tuple((name, share * min(1.1, luck)) for name, share in given)
    who: dict[str, Any] = {}
    if "NB" in brought:
        who["ages"] = NEWBORN
    elif "OBS" in brought:
        who |= {"sex": "F", "ages": MOTHER}
    for word in row["who"].split():
        if "-" in word:
            low, high = word.split("-")
            who["ages"] = (int(low or 0), int(high or 120))
        else:
            who["sex"] = word
    phrases: dict[str, Any] = {
        name: tuple(phrase for phrase in row[name].split("|") if phrase)
        for name in ("names", "pre", "post")
    }
    services = tuple(row["services"].split())
    return Code(**_common(row), rank=rank, given=given, services=services, **who, **phrases)


def _pairs(cell: str) -> tuple[tuple[str, float], ...]:
    """Read a cell such as "diabetes .3;old .1": names with numbers."""
    pairs = (item.rsplit(" ", 1) for item in cell.split(";") if item.strip())
    return tuple((name.strip(), float(number)) for name, number in pairs)
