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
        words: median length of a discharge summary, in words.
        sigma: spread of the logarithm of the length.
    """

    notes: int
    tail: slice
    kept: float
    words: float
    sigma: float


PRESETS = {
    "tiny": Preset(notes=200, tail=slice(200, None, 2), kept=0.3, words=110, sigma=0.35),
    "teaching": Preset(notes=6000, tail=slice(None), kept=1.0, words=600, sigma=0.45),
}
"""A patient has the same admissions and the same head codes in every preset; the tail codes of a
small preset are some of those of a large one, and the wording follows the length."""
