"""The numbers behind the figures: loss by frequency, code clusters, the focal optimum, intervals.

Arrays and frames in, arrays and frames out; nothing here knows a corpus, a model or a plot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.spatial import ConvexHull, QhullError
from scipy.special import expit, log_expit, logit

from marn.errors import MarnError

__all__ = [
    "Interval",
    "JointPCA",
    "diameter",
    "focal_optimum",
    "focal_term",
    "joint_pca",
    "loss_per_code",
    "mean_interval",
    "permutation_null",
    "significant_ccs",
]

FloatArray = NDArray[np.float64]


def loss_per_code(
    logits: ArrayLike, targets: ArrayLike, frequency: ArrayLike | None = None
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Binary cross-entropy of each code, divided by its frequency and the number of notes.

    NL_j = sum_i BCE_ij / (f_j * N). Division by f_j alone makes rare codes tall for any model:
    compare two models' curves, not the slope of one.

    Args:
        logits: (N, C) float, the model's unbounded scores.
        targets: (N, C) bool or 0/1.
        frequency: (C,) notes with each code, f_j. The papers do not say in which split; None
            counts them in `targets`, while training counts avoid losing codes unseen there.

    Returns:
        A frame with one row per kept code, most frequent first (ties by column), and the columns
        `code` (column of `logits`), `frequency` (notes) and `loss` (nats per note and
        occurrence); and the columns dropped because their frequency is 0.

    Raises:
        MarnError: if the shapes do not fit, there is no note, or a logit is not finite.

    References:
        Fig. 11 of the journal version (Fig. 10 of the preprint) and the text above it.
    """
    scores, truth = np.asarray(logits), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != truth.shape or len(scores) == 0:
        raise MarnError(
            "Expected `logits` and `targets` of one shape (N, C) with at least one note, "
            f"but got {scores.shape} and {truth.shape}."
        )
    notes = len(scores)
    counts = truth.sum(axis=0) if frequency is None else np.asarray(frequency)
    if counts.shape != (scores.shape[1],):
        raise MarnError(f"Expected `frequency` of shape ({scores.shape[1]},), got {counts.shape}.")
    total = np.zeros(scores.shape[1])
    for first in range(0, notes, 256):  # in blocks: no second (N, C) array in float64
        z = scores[first : first + 256].astype(np.float64)  # (<=256, C)
        y = truth[first : first + 256].astype(np.float64)
        # max(z, 0) - z y + log(1 + exp(-|z|)) overflows for no logit
        total += (np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).sum(axis=0)
    if not np.isfinite(total).all():
        raise MarnError("Expected finite `logits`, but some are infinite or not a number.")
    order = np.argsort(-counts, kind="stable")
    kept, dropped = order[counts[order] > 0], np.flatnonzero(counts <= 0)
    frame = pd.DataFrame(
        {"code": kept, "frequency": counts[kept], "loss": total[kept] / (counts[kept] * notes)}
    )
    return frame, dropped


@dataclass(frozen=True)
class JointPCA:
    """ICD and CCS vectors in one plane.

    Attributes:
        icd: (C_icd, components) points.
        ccs: (C_ccs, components) points.
        explained: (components,) share of the total variance along each component, in [0, 1].
    """

    icd: FloatArray
    ccs: FloatArray
    explained: FloatArray


def joint_pca(icd_vectors: ArrayLike, ccs_vectors: ArrayLike, components: int = 2) -> JointPCA:
    """Project ICD and CCS vectors on the principal components of both together.

    The two sets are stacked, each code counting once, and centred on their common mean. A
    component's sign is free, so it is fixed: the largest of its loadings is positive.

    Args:
        icd_vectors: (C_icd, D) float.
        ccs_vectors: (C_ccs, D) float, in the same D features.
        components: how many components to keep.

    Raises:
        MarnError: if the widths differ, all vectors are equal, or there are fewer codes or
            features than components.

    References:
        Fig. 9 of the journal version (Fig. 8 of the preprint).
    """
    icd, ccs = np.asarray(icd_vectors, dtype=float), np.asarray(ccs_vectors, dtype=float)
    if icd.ndim != 2 or ccs.ndim != 2 or icd.shape[1] != ccs.shape[1]:
        raise MarnError(
            f"Expected two arrays (codes, D) with one D, but got {icd.shape} and {ccs.shape}."
        )
    stacked = np.concatenate([icd, ccs])
    if not 1 <= components <= min(stacked.shape):
        raise MarnError(
            f"Expected `components` from 1 to {min(stacked.shape)}, but got {components}."
        )
    centred = stacked - stacked.mean(axis=0)
    left, scale, right = np.linalg.svd(centred, full_matrices=False)
    variance = (scale**2).sum()
    if variance == 0:
        raise MarnError("All code vectors are equal: there is no component to project on.")
    largest = np.abs(right[:components]).argmax(axis=1)
    sign = np.sign(right[np.arange(components), largest])
    points = left[:, :components] * (scale[:components] * sign)
    return JointPCA(points[: len(icd)], points[len(icd) :], scale[:components] ** 2 / variance)


def diameter(points: ArrayLike) -> float:
    """Return the largest distance between two points of the plane.

    Only corners of the convex hull can be the farthest pair, so that 8,921 points need no
    8,921 x 8,921 table.

    Args:
        points: (n, 2) float, at least one.
    """
    cloud = _plane("points", points)
    centred = cloud - cloud.mean(axis=0)
    try:
        corners = centred[ConvexHull(centred).vertices]
    except QhullError:  # a point or a line has no hull, but it has two ends
        along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        corners = centred[[along.argmin(), along.argmax()]]
    return float(max(np.hypot(*(corners - corner).T).max() for corner in corners))


def significant_ccs(
    icd_points: ArrayLike,
    ccs_points: ArrayLike,
    parent: ArrayLike,
    tau: float = 0.01,
    radius_share: float = 0.10,
) -> pd.DataFrame:
    """Test which CCS codes have more of their ICD codes nearby than chance puts there.

    Within a radius of each CCS point lie n ICD points, k of which map to it. Were the ICD codes
    placed without regard to CCS, k would be about Binomial(n, p), p being the share of all ICD
    codes that map to it. With T the smallest number for which P(K > T) < tau, the code is
    significant if k > T; that is the one-sided exact test P(K >= k) < tau.

    With tau = 0.01 up to 1 % of the codes pass by chance, with 0.1 up to 10 %. The journal
    version uses 0.1 and the preprint 0.01, yet both report 157 of 295.

    Args:
        icd_points: (C_icd, 2) float.
        ccs_points: (C_ccs, 2) float, in the same plane.
        parent: (C_icd,) int, the row of `ccs_points` that each ICD code maps to, -1 for none.
        tau: level of the test, in (0, 1).
        radius_share: radius as a share of the largest distance between two ICD points.

    Returns:
        One row per CCS code, in the order of `ccs_points`: `n`, `k`, `relevant` (ICD codes that
        map to it anywhere), `p`, `threshold` (T), `p_value`, `significant`.

    Raises:
        MarnError: if the shapes do not fit, or `tau`, `radius_share` or a parent is out of range.

    References:
        Eq. 18 and the text around it; Fig. 10 of the journal version.
    """
    near, owner = _neighbours(icd_points, ccs_points, parent, radius_share)
    if not 0 < tau < 1:
        raise MarnError(f"Expected `tau` between 0 and 1, but got {tau}.")
    mapped = owner[:, None] == np.arange(near.shape[1])  # (C_icd, C_ccs)
    n, k, relevant = near.sum(axis=0), (near & mapped).sum(axis=0), mapped.sum(axis=0)
    p = relevant / len(owner)
    # the definition of T, word for word: P(K > n) = 0, so the search always ends
    threshold = [
        int(np.argmax(stats.binom.sf(np.arange(size + 1), size, share) < tau))
        for size, share in zip(n, p, strict=True)
    ]
    return pd.DataFrame(
        {
            "n": n,
            "k": k,
            "relevant": relevant,
            "p": p,
            "threshold": threshold,
            "p_value": stats.binom.sf(k - 1, n, p),
            "significant": k > np.array(threshold),
        }
    )


def permutation_null(
    icd_points: ArrayLike,
    ccs_points: ArrayLike,
    parent: ArrayLike,
    tau: float = 0.01,
    radius_share: float = 0.10,
    *,
    permutations: int = 200,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Count significant CCS codes when ICD codes are given each other's CCS codes at random.

    The points stay where they are, so the counts show how many codes `significant_ccs` finds
    in the same cloud when there is nothing to find. The binomial draws with replacement and the
    permutation without: the count stays a little below tau times the number of codes.

    Args:
        icd_points: see `significant_ccs`, like the following four.
        ccs_points: (C_ccs, 2) float.
        parent: (C_icd,) int.
        tau: level of the test.
        radius_share: radius as a share of the largest distance between two ICD points.
        permutations: how many times the labels are permuted.
        seed: of the permutations.

    Returns:
        (permutations,) number of significant CCS codes in each.
    """
    found = significant_ccs(icd_points, ccs_points, parent, tau, radius_share)
    near, owner = _neighbours(icd_points, ccs_points, parent, radius_share)
    threshold = found["threshold"].to_numpy()  # n and p, hence T, are the same in every permutation
    icd, ccs = near.nonzero()
    generator = np.random.default_rng(seed)
    counts = np.zeros(permutations, dtype=np.int64)
    for i in range(permutations):
        hits = ccs[generator.permutation(owner)[icd] == ccs]
        counts[i] = (np.bincount(hits, minlength=len(threshold)) > threshold).sum()
    return counts


def _neighbours(
    icd_points: ArrayLike, ccs_points: ArrayLike, parent: ArrayLike, radius_share: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return who lies near whom, (C_icd, C_ccs) bool, and the checked parents, (C_icd,)."""
    icd, ccs = _plane("icd_points", icd_points), _plane("ccs_points", ccs_points)
    owner = np.asarray(parent)
    if owner.shape != (len(icd),):
        raise MarnError(f"Expected `parent` of shape ({len(icd)},), but got {owner.shape}.")
    if not np.issubdtype(owner.dtype, np.integer) or owner.min() < -1 or owner.max() >= len(ccs):
        raise MarnError(f"Expected `parent` to hold integers from -1 to {len(ccs) - 1}.")
    if not 0 < radius_share <= 1:
        raise MarnError(f"Expected `radius_share` in (0, 1], but got {radius_share}.")
    radius = radius_share * diameter(icd)
    near = np.stack([np.hypot(*(icd - point).T) <= radius for point in ccs], axis=1)
    return near, owner.astype(np.int64)


def _plane(name: str, points: ArrayLike) -> FloatArray:
    """Return `points` as an (n, 2) float array."""
    array = np.asarray(points, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0 or not np.isfinite(array).all():
        raise MarnError(f"Expected `{name}` to be finite, of shape (n, 2), n >= 1: {array.shape}.")
    return array


def focal_term(probability: ArrayLike, gamma: float) -> FloatArray:
    """Return (1 - p)^gamma * (-log p), the focal loss of a present code before any alpha.

    Args:
        probability: the model's p, in (0, 1]. For an absent code, give 1 - p.
        gamma: focusing exponent, >= 0; 0 is cross-entropy.

    Returns:
        Nats, in the shape of `probability`.

    References:
        Eq. 16.
    """
    p = np.asarray(probability, dtype=float)
    return (1 - p) ** gamma * -np.log(p)


def focal_optimum(
    prevalence: ArrayLike, alpha: float, gamma: float, reading: str = "paper"
) -> FloatArray:
    """Return the output that minimises the expected focal loss at each true probability.

    A model that knows the true probability pi of a code does best, in the eyes of the loss, to
    answer with the q that minimises

        a * pi * (1 - q)^gamma * (-log q) + b * (1 - pi) * q^gamma * (-log(1 - q)).

    Eq. 16 has a = alpha and b = 1 - alpha; then q = 1/2 exactly where pi = 1 - alpha, for every
    gamma, since at 1/2 both terms have the same slope but for their factors. With alpha = 0.999
    a threshold of 1/2 predicts every code whose probability exceeds 0.001. The released code
    has a = b = alpha, which drops out: q = 1/2 at pi = 1/2, and gamma > 0 pulls q towards 1/2.

    Args:
        prevalence: true probabilities, any shape, in [0, 1].
        alpha: in (0, 1).
        gamma: focusing exponent, >= 0.
        reading: "paper" (Eq. 16 as printed) or "released" (one factor on both terms).

    Returns:
        The best outputs, in the shape of `prevalence`.

    Raises:
        MarnError: if an argument is out of its range.

    References:
        Eq. 16; the released code's `FocalLoss`.
    """
    truth = np.asarray(prevalence, dtype=float)
    if not ((truth >= 0) & (truth <= 1)).all():
        raise MarnError("Expected `prevalence` in [0, 1].")
    if not 0 < alpha < 1:
        raise MarnError(f"Expected `alpha` between 0 and 1, but got {alpha}.")
    if gamma < 0:
        raise MarnError(f"Expected `gamma` to be >= 0, but got {gamma}.")
    if reading not in ("paper", "released"):
        raise MarnError(f"Expected `reading` to be 'paper' or 'released', but got {reading!r}.")
    # logit(alpha) = log(a / b) under Eq. 16
    odds = logit(truth) + (logit(alpha) if reading == "paper" else 0.0)

    def log_slope(z: FloatArray) -> FloatArray:
        """Logarithm of -d/dq (1 - q)^gamma (-log q) at q = sigmoid(z)."""
        return (gamma - 1) * log_expit(-z) + np.log(gamma * -log_expit(z) + np.exp(-z))

    # The loss is convex in q, so its slope changes sign once: bisect the logit of q.
    low, high = np.full(truth.shape, -500.0), np.full(truth.shape, 500.0)
    for _ in range(70):  # 1000 / 2^70 is below the spacing of float64
        middle = (low + high) / 2
        rising = log_slope(-middle) > odds + log_slope(middle)
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    return expit((low + high) / 2)


class Interval(NamedTuple):
    """A mean and its confidence interval; `low` and `high` are NaN with a single value."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return Student's t interval for the mean over seeds.

    To compare two systems trained with the same seeds, pass their differences: the claim
    "better" stands if the interval lies above 0. One seed says nothing about the spread.

    Args:
        values: (n,) float, one per seed.
        level: confidence, in (0, 1).

    Raises:
        MarnError: if there is no value, one is not finite, or `level` is out of range.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) == 0 or not np.isfinite(sample).all():
        raise MarnError("Expected `values` to be a list of finite numbers, at least one.")
    if not 0 < level < 1:
        raise MarnError(f"Expected `level` between 0 and 1, but got {level}.")
    mean, n = float(sample.mean()), len(sample)
    if n == 1:
        return Interval(mean, float("nan"), float("nan"), n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * sample.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)
