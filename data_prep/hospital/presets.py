"""Sizes of the teaching hospital; a bigger one is a new row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One size of the hospital."""

    notes: int  # admissions with a discharge summary, at least
    # median of the intended length of a discharge summary, in words; sections that depend on the
    # codes make the note longer or shorter
    words: float
    sigma: float  # standard deviation of the logarithm of the length
    # index of the first tail code that exists besides the 50 of the head
    tail_first: int = 0
    tail_step: int = 1  # 1 for every tail code from there, 2 for every second one
    # share of the tail facts that are kept. In a few hundred notes, a rare code could by chance be
    # among the fifty most frequent.
    kept: float = 1.0
    slips: float = 1.0  # multiplies the usual rate of misspellings
    # multiplies the sentences that belong to no code of the stay, and the denials
    boilerplate: float = 1.0
    rare: bool = False  # whether the codes that only CMS lists exist too (`rare.py`)
    # "50" or "full" to write lists of admissions under CAML's names, for the option `--codes` of
    # that name; "" for none
    lists: str = ""
    # how many admissions the lists train, dev and test hold
    sizes: tuple[int, int, int] = (0, 0, 0)


PRESETS = {
    "tiny": Preset(200, words=110, sigma=0.35, tail_first=200, tail_step=2, kept=0.6),
    "teaching": Preset(6000, words=630, sigma=0.45),
    "mimic50": Preset(11_368, words=2700, sigma=0.64, lists="50", sizes=(8066, 1573, 1729)),
    "full": Preset(
        52_726, words=2300, sigma=0.68, rare=True, lists="full", sizes=(47_723, 1631, 3372)
    ),
}
"""For one seed and one index of a patient, these stay the same from one size to another:

* the person, the admissions, their services and dates, and all facts of the head, everywhere;
* all facts of the tail wherever the tail is whole (`teaching`, `mimic50`, `full`); `tiny` has some
  of them, and `full` adds rare ones after them;
* every byte of every row between sizes that differ in `notes`, `lists` and `sizes` alone.
"""
