"""The codes that exist in one size of the hospital, and how often each occurs in each service."""

from dataclasses import dataclass, field
from functools import cache

from data_prep.hospital.codes import Code, Key, head_and_tail
from data_prep.hospital.data_files import settings
from data_prep.hospital.portable_random import running_sums
from data_prep.hospital.presets import Preset
from data_prep.hospital.rare import RAREST, rare_codes, rare_lottery

Lottery = dict[str, tuple[tuple[Code, ...], list[float]]]
"""For each service, codes and the running sums of their weights."""

FLAT, STEEPNESS = 200, -6.6
"""The weight of the tail code in place n is (FLAT + n) ** STEEPNESS, Mandelbrot's form of Zipf's
law. The first of the 327 codes are nearly equally frequent, so that none overtakes the head, and
the last is 580 times rarer than the first."""

OWN_SERVICE, OTHER_SERVICE, ANY_SERVICE = 3.0, 0.06, 0.75
"""Factors of that weight: for a code that names services, in these and in all others; and for a
code that names none."""

BROUGHT_TOO = 0.1
"""Factor of that weight for a code that features bring too."""


@dataclass(frozen=True)
class CodeCatalogue:
    """All codes of a preset."""

    head: tuple[Code, ...]  # the 50 codes in the order in which they are decided
    tail: tuple[Code, ...]  # the tail codes that are brought by a feature, in file order
    lottery: Lottery  # the tail codes that any patient of a service may have
    # key → keys of the same category; a common code has common ones only, so that rare ones change
    # nothing for it
    siblings: dict[Key, tuple[Key, ...]]
    codes: dict[Key, Code]
    # keys that exist in this preset; the rest are left out after the draws
    known: frozenset[Key] = field(repr=False)
    kept: float  # share of the tail facts that are kept
    # the codes that only CMS lists, or empty
    rare: Lottery = field(default_factory=dict, repr=False)


@cache
def code_catalogue(preset: Preset) -> CodeCatalogue:
    """Return the codes of a preset, made once."""
    head, tail = head_and_tail()
    more = rare_codes() if preset.rare else ()
    known = [*head, *tail[preset.tail_first :: preset.tail_step], *more]
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
    return CodeCatalogue(
        head=head,
        tail=tuple(code for code in tail if code.given),
        lottery=_tail_lottery(tail),
        siblings=siblings,
        codes=codes,
        known=frozenset(code.key for code in known),
        kept=preset.kept,
        rare=rare_lottery() if preset.rare else {},
    )


def _tail_lottery(tail: tuple[Code, ...]) -> Lottery:
    drawn = tuple(code for code in tail if code.services or not code.given)

    def weight(place: int, code: Code, service: str) -> float:
        share: float = (FLAT + place) ** STEEPNESS
        if code.services:
            share *= OWN_SERVICE if service in code.services else OTHER_SERVICE
        else:
            share *= ANY_SERVICE
        return share * BROUGHT_TOO if code.given else share

    lottery: Lottery = {service: ((), []) for service in ("NB", "OBS")}  # these draw none
    for service in settings()["services"].keys() - lottery.keys():
        weights = [weight(place, code, service) for place, code in enumerate(drawn, 1)]
        lottery[service] = (drawn, running_sums(weights))
    return lottery
