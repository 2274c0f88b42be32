"""Intervals and paired tests, against hand-worked cases, scipy and statsmodels' definitions."""

import numpy as np
import pytest
from scipy import sparse, stats

from marn import MarnError
from marn.resampling import difference, holm, interval


def f1(sums):
    return {"f1": 2 * sums[:, 0] / np.maximum(sums[:, 1], 1)}


def mean(sums):
    return {"mean": sums[:, 0] / sums[:, 1]}


def test_an_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(3, 2, 400)
    table = np.stack([values, np.ones(400)], axis=1)
    found = interval([table], mean, draws=4000)["mean"]
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    sparsely = interval([sparse.csr_array(table)], mean, 4000)["mean"]
    assert (sparsely.low, sparsely.high) == pytest.approx((found.low, found.high))
    assert interval([table], mean, 50, seed=1) != interval([table], mean, 50)


def test_differences_by_hand():
    # Two patients, one seed: right for both, against right for the first alone.
    a, b = np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[1.0, 2.0], [0.0, 2.0]])
    found = difference([a], [b], f1, 2000)["f1"]
    assert found.value == 0.5  # 4/4 against 2/4
    assert found.low == 0  # both draws are the first patient
    assert found.high == 1
    assert found.p == pytest.approx(1.0)  # swapping the only difference leaves its size
    same = difference([a], [a], f1, 200)["f1"]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_the_test_agrees_with_that_of_scipy():
    # With equal totals, F1 is linear in the hits: scipy's paired permutation test applies.
    hits = np.random.default_rng(1).integers(0, 4, (2, 9)).astype(float)
    a, b = (np.stack([h, np.full(9, 6.0)], axis=1) for h in hits)
    found = difference([a], [b], f1, 4000)["f1"]
    exact = stats.permutation_test(
        tuple(hits), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples"
    )
    assert found.p == pytest.approx(exact.pvalue, abs=0.03)
    assert found.low <= found.value <= found.high


def test_seeds_are_drawn_too():
    # Every unit of a seed has the same gap, so that only the seeds vary: .2 or .4.
    base = np.tile([0.0, 1.0], (30, 1))
    ours = [base + np.array([gap, 0]) for gap in (0.2, 0.4)]
    found = difference(ours, [base, base], mean, 500)["mean"]
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.2, 0.4))
    assert found.p == pytest.approx(1 / 501)
    alone = interval(ours, mean, 500)["mean"]
    assert (alone.value, alone.low, alone.high) == pytest.approx((0.3, 0.2, 0.4))


def test_units_must_be_the_same():
    with pytest.raises(MarnError, match="the same seeds and notes"):
        difference([np.ones((3, 2))], [np.ones((4, 2))], f1)


def test_holm_by_hand():
    # 0.01 x 3, 0.02 x 2, and the last not below the one before
    assert holm([0.02, 0.03, 0.01]).tolist() == pytest.approx([0.04, 0.04, 0.03])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
