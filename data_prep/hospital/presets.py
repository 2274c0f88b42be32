"""Sizes of the teaching hospital; a bigger one is a new row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One size.

    Attributes:
        notes: admissions with a discharge summary, at least.
        tail: which ranks of the tail codes exist beside the 50 of the head.
        kept: share of the tail facts that are kept: in a few hundred notes a lucky rare code would
            else stand among the fifty commonest.
        words: median of the length that a discharge summary aims at, in words; sections that
            depend on the codes come on top or stay away.
        sigma: spread of the logarithm of the length.
        rare: whether the codes that only CMS lists exist too (`rare.py`).
        lists: "50" or "full": write lists of admissions under CAML's names for the option
            `--codes` of that name; "" for none.
        sizes: how many admissions the lists train, dev and test hold.
    """

    notes: int
    tail: slice
    kept: float
    words: float
    sigma: float
    rare: bool = False
    lists: str = ""
    sizes: tuple[int, int, int] = (0, 0, 0)


PRESETS = {
    "tiny": Preset(notes=200, tail=slice(200, None, 2), kept=0.6, words=110, sigma=0.35),
    "teaching": Preset(notes=6000, tail=slice(None), kept=1.0, words=630, sigma=0.45),
    "mimic50": Preset(
        notes=11_368,
        tail=slice(None),
        kept=1.0,
        words=2700,
        sigma=0.64,
        lists="50",
        sizes=(8066, 1573, 1729),
    ),
    "full": Preset(
        notes=52_726,
        tail=slice(None),
        kept=1.0,
        words=2300,
        sigma=0.68,
        rare=True,
        lists="full",
        sizes=(47_723, 1631, 3372),
    ),
}
"""What stays the same from one size to another, for one seed and one index of a patient:

* the person, the admissions, their services and dates, and all facts of the head, everywhere;
* all facts of the tail wherever the tail is whole (`teaching`, `mimic50`, `full`); `tiny` has some
  of them, and `full` adds rare ones behind them;
* every byte of every row between sizes that differ in `notes`, `lists` and `sizes` alone.
"""
