"""Find notes that repeat, or nearly repeat, an earlier one.

Near duplicates are found by MinHash. The shingles of a note are its runs of `SHINGLE` words, and
the minima of 64 hash functions over them are its signature. Notes whose signatures agree in one of
16 bands of 4 are compared by their true Jaccard index, each with the first note of the band. Two
notes with an index of 0.8 share a band with probability 1 - (1 - 0.8**4)**16 > 0.999.

References:
    Broder, On the resemblance and containment of documents, 1997.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

SHINGLE: Final = 5
"""Words in a shingle."""
NEAR: Final = 0.8
"""Notes are near duplicates if the Jaccard index of their shingles is at least this."""

_BANDS, _ROWS = 16, 4
_BLOCK: Final = 256  # shingles hashed at once
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 over the golden ratio


def shingles(tokens: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return the runs of `SHINGLE` words of a note as numbers, sorted, each once.

    Args:
        tokens: (T,) indices of words; a note of fewer than `SHINGLE` words is one run.

    Returns:
        (n,) uint64, equal for equal runs; different runs collide with probability 2**-64.
    """
    return np.unique(_runs(tokens))


def _runs(tokens: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return the shingles in the order of the text, with repetitions."""
    words = _scrambled(np.asarray(tokens).astype(np.uint64))
    width = min(SHINGLE, len(words))
    runs = np.zeros(len(words) - width + 1 if width else 0, dtype=np.uint64)
    for place in range(width):
        runs = runs * _STEP + words[place : place + len(runs)]
    return _scrambled(runs)


def _scrambled(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Map each 64-bit number to another, one to one (the finaliser of SplitMix64)."""
    values = values + _STEP
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Return the Jaccard index of two sets of shingles: intersection over union."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    either = len(one) + len(other) - common
    return common / either if either else 0.0


def repeats(notes: Sequence[NDArray[np.integer]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find notes that repeat an earlier one.

    Args:
        notes: N notes as (T,) indices of words. Empty notes repeat nothing.

    Returns:
        Two arrays (N,) of indices of notes, -1 for none: the first note that is the same word for
        word, and an earlier note that is not the same and whose Jaccard index with it is at least
        `NEAR`. All near duplicates found are real, but one may be missed. A note that is a copy
        is not compared again.
    """
    copies = np.full(len(notes), -1)
    near = np.full(len(notes), -1)
    first: dict[bytes, int] = {}
    kept: list[int] = []
    for place, tokens in enumerate(notes):
        if len(tokens) == 0:
            continue
        digest = hashlib.sha256(np.asarray(tokens).astype("<i8").data).digest()
        if (original := first.setdefault(digest, place)) == place:
            kept.append(place)
        else:
            copies[place] = original
    for later, earlier in sorted(_candidates([notes[place] for place in kept])):
        if near[kept[later]] < 0:
            pair = [shingles(notes[kept[place]]) for place in (later, earlier)]
            if jaccard(*pair) >= NEAR:
                near[kept[later]] = kept[earlier]
    return copies, near


def _candidates(notes: Sequence[NDArray[np.integer]]) -> set[tuple[int, int]]:
    """Return pairs (later, earlier) of different notes that agree in a band."""
    if not notes:
        return set()
    signatures = _signatures(notes)
    pairs: set[tuple[int, int]] = set()
    for band in np.split(signatures, _BANDS, axis=1):
        _, leaders, group = np.unique(band, axis=0, return_index=True, return_inverse=True)
        leader = leaders[group.ravel()]  # the first note with the same band
        followers = np.flatnonzero(leader != np.arange(len(notes)))
        pairs.update(zip(followers.tolist(), leader[followers].tolist(), strict=True))
    return pairs


def _signatures(notes: Sequence[NDArray[np.integer]]) -> NDArray[np.uint64]:
    """Return the minimum of each of 64 hash functions over each note's shingles, (N, 64)."""
    generator = np.random.default_rng(0)
    factors, shifts = generator.integers(0, 2**63, (2, _BANDS * _ROWS), dtype=np.uint64)
    factors = factors * np.uint64(2) + np.uint64(1)
    found = np.full((len(notes), len(factors)), np.iinfo(np.uint64).max, dtype=np.uint64)
    # One buffer for all blocks: to allocate memory for each costs as much as the arithmetic.
    buffer = np.empty((_BLOCK, len(factors)), dtype=np.uint64)
    for least, tokens in zip(found, notes, strict=True):
        runs = _runs(tokens)
        for begin in range(0, len(runs), _BLOCK):
            block = runs[begin : begin + _BLOCK, None]
            values = buffer[: len(block)]
            np.multiply(block, factors, out=values)
            np.add(values, shifts, out=values)
            np.minimum(least, values.min(axis=0), out=least)
    return found
