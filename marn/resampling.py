"""Compute intervals over notes and seeds, and paired tests of two systems.

A score is computed from sums over units: notes, or patients with all their notes. A table (U, K)
has each unit's contribution to K sums; a measure turns the sums of B samples into scores,
(B, K) -> {score: (B,)}.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marn.errors import MarnError

Floats = NDArray[np.floating]
Measure = Callable[[Floats], Mapping[str, Floats]]

_BLOCK = 50  # samples at once: 50 x 3 x 8,921 float64 are 11 MB


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference between two scores, with its 95 % interval."""

    value: float
    low: float
    high: float
    p: float = math.nan
    """p-value of the paired test; nan without one."""


def interval(
    tables: Sequence[Any], measure: Measure, draws: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the mean of scores over seeds, with bootstrap intervals.

    Both units and seeds are drawn with replacement.

    Args:
        tables: one table (U, K), dense or of scipy.sparse, for each of S seeds (S may be 1).
        measure: turns sums into scores.
        draws: number of bootstrap samples.
        seed: seed of the draws.

    Returns:
        {score: its mean over seeds, with the interval}.

    Example:
        >>> found = interval([np.array([[0.0], [1.0]])], lambda sums: {"mean": sums[:, 0] / 2})
        >>> found["mean"].value, found["mean"].low, found["mean"].high
        (0.5, 0.0, 1.0)
    """
    rng = np.random.default_rng(seed)

    def figures(weights: Floats) -> dict[str, Floats]:
        """Return {score: (S, B)} for samples given by how often each unit is in them, (B, U)."""
        each = [measure(weights @ table) for table in tables]
        return {name: np.stack([of[name] for of in each]) for name in each[0]}

    units = tables[0].shape[0]
    drawn = [_over_seeds(figures(weights), rng) for weights in _weights(units, draws, rng)]
    return {
        name: Estimate(float(value.mean()), *_bounds([of[name] for of in drawn]))
        for name, value in figures(np.ones((1, units))).items()
    }


def difference(
    ours: Sequence[Any], theirs: Sequence[Any], measure: Measure, draws: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the difference between the scores of two systems on the same seeds and units.

    For the interval, units and seeds are drawn with replacement. For the test, the predictions of
    the two systems are exchanged for each unit with probability 1/2; p is the share of such
    exchanges (the observed assignment included) whose difference is at least as large in size.

    Args:
        ours: a table (U, K) for each seed; see `interval`.
        theirs: those of the other system, for the same seeds and units.
        measure: turns sums into scores.
        draws: number of bootstrap samples, and of exchanges in the test.
        seed: seed of the draws.

    Returns:
        {score: ours minus theirs, averaged over seeds, with the interval and p}.

    Raises:
        MarnError: the tables differ in number or shape, so they are not of the same seeds and
            units.

    References:
        Noreen 1989 and Yeh 2000, approximate randomisation; Berg-Kirkpatrick et al. 2012, the
        paired bootstrap.
    """
    if len({table.shape for table in (*ours, *theirs)}) > 1 or len(ours) != len(theirs):
        raise MarnError("both systems must have the same seeds and notes; score both on one split")
    rng, units = np.random.default_rng(seed), ours[0].shape[0]

    def gaps(one: Sequence[Floats], other: Sequence[Floats]) -> dict[str, Floats]:
        """Return the differences {score: (S, B)}, given the sums (B, K) of each seed."""
        pairs = [(measure(a), measure(b)) for a, b in zip(one, other, strict=True)]
        return {name: np.stack([a[name] - b[name] for a, b in pairs]) for name in pairs[0][0]}

    everyone = np.ones((1, units))
    totals = [[everyone @ table for table in tables] for tables in (ours, theirs)]
    observed = {name: float(gap.mean()) for name, gap in gaps(*totals).items()}
    drawn, exchanged = [], []
    for weights in _weights(units, draws, rng):
        found = gaps([weights @ table for table in ours], [weights @ table for table in theirs])
        drawn.append(_over_seeds(found, rng))
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    for size in _blocks(draws):
        kept = rng.integers(0, 2, (size, units)).astype(float)
        moved = [kept @ table for table in apart]
        found = gaps(
            [total - move for total, move in zip(totals[0], moved, strict=True)],
            [total + move for total, move in zip(totals[1], moved, strict=True)],
        )
        exchanged.append({name: np.abs(gap.mean(0)) for name, gap in found.items()})
    estimates = {}
    for name, value in observed.items():
        chance = np.concatenate([of[name] for of in exchanged])
        p = (1 + int((chance >= abs(value) - 1e-12).sum())) / (1 + draws)
        estimates[name] = Estimate(value, *_bounds([of[name] for of in drawn]), p)
    return estimates


def holm(p: ArrayLike) -> Floats:
    """Correct p-values for the number of comparisons, by Holm's step-down method.

    Returns:
        Values of the same shape, in [0, 1]. Rejecting those up to alpha keeps the probability of
        any false rejection at or below alpha.

    References:
        Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    Example:
        >>> holm([0.25, 0.125, 0.0]).tolist()
        [0.25, 0.25, 0.0]
    """
    values = np.asarray(p, float)
    order = np.argsort(values)
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def _blocks(draws: int) -> Iterator[int]:
    yield from (min(_BLOCK, draws - start) for start in range(0, draws, _BLOCK))


def _weights(units: int, draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each unit is drawn, (B, U), in blocks."""
    for size in _blocks(draws):
        yield rng.multinomial(units, np.full(units, 1 / units), size).astype(float)


def _over_seeds(figures: Mapping[str, Floats], rng: np.random.Generator) -> dict[str, Floats]:
    """Average scores (S, B) over seeds, drawn with replacement anew for each sample."""
    shape = next(iter(figures.values())).shape
    chosen = rng.integers(shape[0], size=shape)
    return {name: np.take_along_axis(of, chosen, 0).mean(0) for name, of in figures.items()}


def _bounds(values: list[Floats]) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(values), [0.025, 0.975])
    return float(low), float(high)
