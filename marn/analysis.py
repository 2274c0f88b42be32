"""Compute the numbers behind the figures: loss by frequency, code clusters, the focal optimum.

Functions take and return arrays and frames; none depends on a corpus, a model or a plot.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.spatial import ConvexHull, QhullError
from scipy.special import expit, log_expit, logit
from sklearn.decomposition import PCA

from marn.errors import MarnError

FloatArray = NDArray[np.float64]


def loss_per_code(
    logits: ArrayLike, targets: ArrayLike, frequency: ArrayLike
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Divide the binary cross-entropy of each code by its frequency and the number of notes.

    NL_j = sum_i BCE_ij / (f_j * N). The division by f_j makes the loss of rare codes high for any
    model: compare the curves of two models, not the slope of one.

    Args:
        logits: (N, C) float, unbounded scores.
        targets: (N, C) bool or 0/1.
        frequency: (C,) notes per code, f_j. The papers do not say in which split; counts of the
            training split keep codes that are absent from `targets`.

    Returns:
        A frame with one row per kept code, most frequent first (ties by column), and the columns
        `code` (column of `logits`), `frequency` (notes) and `loss` (nats per note and occurrence);
        and the columns dropped because their frequency is 0.

    Raises:
        MarnError: the shapes do not match, there are no notes, or a logit is not finite.

    References:
        Fig. 11 of the journal version (Fig. 10 of the preprint) and the text above it.

    Example:
        >>> frame, dropped = loss_per_code([[0.0, 0.0], [0.0, 0.0]], [[1, 0], [1, 0]], [2, 0])
        >>> frame["loss"].round(4).tolist(), dropped.tolist()  # 2 log 2 / (2 * 2)
        ([0.3466], [1])
    """
    scores, truth, counts = np.asarray(logits), np.asarray(targets), np.asarray(frequency)
    if scores.ndim != 2 or scores.shape != truth.shape or len(scores) == 0:
        raise MarnError(
            "logits and targets must have one shape (N, C) with at least one note, but got "
            f"{scores.shape} and {truth.shape}"
        )
    notes, codes = scores.shape
    if counts.shape != (codes,):
        raise MarnError(f"frequency must have shape ({codes},), but got {counts.shape}")
    total = np.zeros(codes)
    for first in range(0, notes, 256):  # in blocks: no second (N, C) array in float64
        z = scores[first : first + 256].astype(np.float64)  # (<=256, C)
        y = truth[first : first + 256].astype(np.float64)
        total -= (y * log_expit(z) + (1 - y) * log_expit(-z)).sum(axis=0)
    if not np.isfinite(total).all():
        raise MarnError("logits must be finite, but some are not; did training diverge?")
    order = np.argsort(-counts, kind="stable")
    kept, dropped = order[counts[order] > 0], np.flatnonzero(counts <= 0)
    loss = total[kept] / (counts[kept] * notes)
    return pd.DataFrame({"code": kept, "frequency": counts[kept], "loss": loss}), dropped


class JointPCA(NamedTuple):
    """ICD and CCS vectors projected onto one plane."""

    icd: FloatArray
    """(C_icd, 2) points."""
    ccs: FloatArray
    """(C_ccs, 2) points."""
    explained: FloatArray
    """(2,) share of the total variance along each component, in [0, 1]."""


def joint_pca(icd_vectors: ArrayLike, ccs_vectors: ArrayLike) -> JointPCA:
    """Project ICD and CCS vectors onto the first two principal components of both together.

    The two sets are stacked, so that each code counts once, and centred on their common mean. To
    fix the arbitrary sign of a component, its largest loading is made positive.

    Args:
        icd_vectors: (C_icd, D) float.
        ccs_vectors: (C_ccs, D) float, in the same D features.

    Raises:
        MarnError: the widths differ, D is 1, or all vectors are equal.

    References:
        Fig. 9 of the journal version (Fig. 8 of the preprint).
    """
    icd, ccs = np.asarray(icd_vectors, dtype=float), np.asarray(ccs_vectors, dtype=float)
    if icd.ndim != 2 or ccs.ndim != 2 or icd.shape[1] != ccs.shape[1] or icd.shape[1] < 2:
        raise MarnError(
            "both vectors must have shape (codes, D) with one D of at least 2, but got "
            f"{icd.shape} and {ccs.shape}"
        )
    stacked = np.concatenate([icd, ccs])
    if (stacked == stacked[:1]).all():
        raise MarnError("all code vectors are equal, so there is no component to project on")
    pca = PCA(2, svd_solver="full")
    points = pca.fit_transform(stacked)  # (C_icd + C_ccs, 2)
    largest = np.abs(pca.components_).argmax(axis=1)
    points *= np.sign(pca.components_[[0, 1], largest])
    return JointPCA(points[: len(icd)], points[len(icd) :], pca.explained_variance_ratio_)


def diameter(points: ArrayLike) -> float:
    """Return the largest distance between two points of the plane.

    Only corners of the convex hull are compared, which avoids an 8,921 x 8,921 table.

    Args:
        points: (n, 2) float, n >= 1.

    Example:
        >>> diameter([[0, 0], [3, 4], [1, 1]])
        5.0
    """
    cloud = _plane("points", points)
    centred = cloud - cloud.mean(axis=0)
    try:
        corners = centred[ConvexHull(centred).vertices]
    except QhullError:  # points on a line have no hull, but two ends
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
    """Test which CCS codes have more of their ICD codes nearby than expected by chance.

    A radius around each CCS point holds n ICD points, k of which map to it. If ICD codes were
    placed without regard to CCS, k would be about Binomial(n, p), where p is the share of all ICD
    codes that map to it. With T the smallest number for which P(K > T) < tau, the code is
    significant if k > T; that is the one-sided exact test P(K >= k) < tau.

    With tau = 0.01, up to 1 % of the codes pass by chance; with 0.1, up to 10 %. The journal
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
        MarnError: the shapes do not match, or `tau`, `radius_share` or a parent is out of range.

    References:
        Eq. 18 and the text around it; Fig. 10 of the journal version.
    """
    near, owner = _neighbours(icd_points, ccs_points, parent, radius_share)
    if not 0 < tau < 1:
        raise MarnError(f"tau must be between 0 and 1, but got {tau}")
    mapped = owner[:, None] == np.arange(near.shape[1])  # (C_icd, C_ccs)
    n, k, relevant = near.sum(axis=0), (near & mapped).sum(axis=0), mapped.sum(axis=0)
    p = relevant / len(owner)
    # the definition of T, word for word: P(K > n) = 0, so the search always ends
    tails = [stats.binom.sf(np.arange(n_j + 1), n_j, p_j) for n_j, p_j in zip(n, p, strict=True)]
    threshold = np.array([np.argmax(tail < tau) for tail in tails])
    found = {"n": n, "k": k, "relevant": relevant, "p": p, "threshold": threshold}
    p_value = stats.binom.sf(k - 1, n, p)
    return pd.DataFrame(found | {"p_value": p_value, "significant": k > threshold})


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
    """Count significant CCS codes after shuffling the CCS codes of the ICD codes.

    The points do not move, so the counts show how many codes `significant_ccs` finds in the same
    cloud when there is nothing to find. The binomial draws with replacement and the permutation
    without, so the count is slightly below tau times the number of codes. The first five arguments
    are those of `significant_ccs`; `seed` is the seed of the permutations.

    Returns:
        (permutations,) number of significant CCS codes in each permutation.
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
    """Return which ICD points are near which CCS points, (C_icd, C_ccs), and the parents."""
    icd, ccs = _plane("icd_points", icd_points), _plane("ccs_points", ccs_points)
    owner = np.asarray(parent)
    if owner.shape != (len(icd),):
        raise MarnError(f"parent must have shape ({len(icd)},), but got {owner.shape}")
    if not np.issubdtype(owner.dtype, np.integer) or owner.min() < -1 or owner.max() >= len(ccs):
        raise MarnError(f"parent must hold integers from -1 to {len(ccs) - 1}")
    if not 0 < radius_share <= 1:
        raise MarnError(f"radius_share must be in (0, 1], but got {radius_share}")
    radius = radius_share * diameter(icd)
    near = np.stack([np.hypot(*(icd - point).T) <= radius for point in ccs], axis=1)
    return near, owner.astype(np.int64)


def _plane(name: str, points: ArrayLike) -> FloatArray:
    array = np.asarray(points, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0 or not np.isfinite(array).all():
        raise MarnError(f"{name} must be finite, of shape (n, 2) with n >= 1, not {array.shape}")
    return array


def focal_term(probability: ArrayLike, gamma: float) -> FloatArray:
    """Return (1 - p)^gamma * (-log p), the focal loss of a present code before any alpha.

    Args:
        probability: predicted p, in (0, 1]. For an absent code, pass 1 - p.
        gamma: focusing exponent, >= 0; 0 is cross-entropy.

    Returns:
        Nats, in the shape of `probability`.

    References:
        Eq. 16.

    Example:
        >>> float(focal_term(0.5, 2).round(4))  # log(2) / 4
        0.1733
    """
    p = np.asarray(probability, dtype=float)
    return (1 - p) ** gamma * -np.log(p)


def focal_optimum(
    prevalence: ArrayLike, alpha: float, gamma: float, reading: str = "paper"
) -> FloatArray:
    """Return the output that minimises the expected focal loss at each true probability.

    A model that knows the true probability pi of a code minimises its loss by returning the q that
    minimises:

        a * pi * (1 - q)^gamma * (-log q) + b * (1 - pi) * q^gamma * (-log(1 - q)).

    Eq. 16 has a = alpha and b = 1 - alpha; then q = 1/2 exactly where pi = 1 - alpha, for every
    gamma, since at 1/2 both terms have the same slope but for their factors. With alpha = 0.999
    a threshold of 1/2 predicts every code whose probability exceeds 0.001. The released code
    has a = b = alpha, which cancels: q = 1/2 at pi = 1/2, and gamma > 0 pulls q towards 1/2.

    Args:
        prevalence: true probabilities, any shape, in [0, 1].
        alpha: weight, in (0, 1).
        gamma: focusing exponent, >= 0.
        reading: "paper" (Eq. 16 as printed) or "released" (one factor on both terms).

    Returns:
        The best outputs, in the shape of `prevalence`.

    Raises:
        MarnError: an argument is out of its range.

    References:
        Eq. 16; the released code's `FocalLoss`.

    Example:
        >>> float(focal_optimum(0.001, alpha=0.999, gamma=2.0).round(4))
        0.5
    """
    truth = np.asarray(prevalence, dtype=float)
    if not ((truth >= 0) & (truth <= 1)).all():
        raise MarnError("prevalence must be in [0, 1]")
    if not 0 < alpha < 1:
        raise MarnError(f"alpha must be between 0 and 1, but got {alpha}")
    if gamma < 0:
        raise MarnError(f"gamma must be at least 0, but got {gamma}")
    if reading not in ("paper", "released"):
        raise MarnError(f"reading must be 'paper' or 'released', but got {reading!r}")
    # logit(alpha) = log(a / b) under Eq. 16
    odds = logit(truth) + (logit(alpha) if reading == "paper" else 0.0)

    def log_slope(z: FloatArray) -> FloatArray:
        """Return the logarithm of the slope -d/dq [(1 - q)^gamma (-log q)] at q = sigmoid(z).

        The factor (1 - q)^(gamma - 1) is taken out of the sum.
        """
        return (gamma - 1) * log_expit(-z) + np.log(gamma * -log_expit(z) + np.exp(-z))

    # the loss is convex in q, so its slope changes sign once: bisect the logit of q
    low, high = np.full(truth.shape, -500.0), np.full(truth.shape, 500.0)
    for _ in range(70):  # 1000 / 2^70 is below the spacing of float64
        middle = (low + high) / 2
        rising = log_slope(-middle) > odds + log_slope(middle)
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    return expit((low + high) / 2)
