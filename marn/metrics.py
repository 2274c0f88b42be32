"""Scores of multi-label predictions, exact with ties and fast at 8,921 codes.

Shapes: N notes, C codes. Scores are fractions in [0, 1]; one that is undefined is `nan`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marn.errors import MarnError

Array = NDArray[np.floating]
_BLOCK = 256  # codes whose columns are copied at once: 3,372 x 256 float32 is 3.5 MB


def _checked(probabilities: ArrayLike, targets: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    scores, truth = np.asarray(probabilities), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != truth.shape:
        raise MarnError(
            "probabilities and targets must both be (notes, codes), but got "
            f"{scores.shape} and {truth.shape}"
        )
    if scores.size == 0:
        raise MarnError(f"there is nothing to score: probabilities have shape {scores.shape}")
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise MarnError("probabilities hold nan or infinite values: did the training diverge?")
    if truth.dtype != bool:
        if not np.isin(truth, (0, 1)).all():
            raise MarnError("targets must be 0 or 1 (or bool)")
        truth = truth.astype(bool)
    return scores, truth


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Array:
    """Divide, with 0 where the denominator is 0 (then the numerator is 0 too)."""
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _auc(ascending: Array, positives: Array) -> float:
    """Area under the ROC curve from all scores in ascending order and those of the positives.

    The Mann-Whitney statistic with mid-ranks, so that tied pairs count one half.
    """
    p = len(positives)
    n = len(ascending) - p
    if p == 0 or n == 0:
        return float("nan")
    positives = np.sort(positives)  # neighbours are then looked up in memory that is at hand
    below = np.searchsorted(ascending, positives, side="left").astype(np.float64)
    upto = np.searchsorted(ascending, positives, side="right")
    ranks = (below + upto + 1) / 2
    return float((ranks.sum() - p * (p + 1) / 2) / (p * n))


def auc_per_code(probabilities: ArrayLike, targets: ArrayLike) -> Array:
    """Area under the ROC curve of each code.

    Args:
        probabilities: (N, C) float; any increasing transform (logits) gives the same.
        targets: (N, C) bool or 0/1.

    Returns:
        (C,) float64; `nan` for a code that all notes or no note has.

    Raises:
        MarnError: the shapes differ, or values are out of range.
    """
    scores, truth = _checked(probabilities, targets)
    areas = np.full(scores.shape[1], np.nan)
    for start in range(0, scores.shape[1], _BLOCK):
        columns, present = (
            # Gathered first and then turned round: each in memory that is close together.
            np.ascontiguousarray(array[:, start : start + _BLOCK]).T.copy()
            for array in (scores, truth)
        )
        for i, (column, code) in enumerate(zip(columns, present, strict=True)):
            if code.any():
                positives = column[code]
                column.sort()
                areas[start + i] = _auc(column, positives)
    return areas


def micro_auc(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Area under the ROC curve over all (note, code) pairs taken together."""
    scores, truth = _checked(probabilities, targets)
    return _auc(np.sort(scores, axis=None), scores[truth])


def ranks_of_positives(
    probabilities: ArrayLike, targets: ArrayLike
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rank of each code that a note has among all codes of that note.

    Ties are broken by the lower code index.

    Args:
        probabilities: (N, C) float.
        targets: (N, C) bool or 0/1.

    Returns:
        `notes` (P,) and `ranks` (P,), both int: for the P pairs in row-major order, the note and
        the 1-based rank.

    Raises:
        MarnError: the shapes differ, or values are out of range.
    """
    return _ranks(*_checked(probabilities, targets))


def _ranks(scores: Array, truth: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    notes, codes = np.nonzero(truth)
    ranks = np.empty(len(notes), np.intp)
    bounds = np.searchsorted(notes, np.arange(len(scores) + 1))
    width = scores.shape[1]
    for note, row in enumerate(scores):
        mine = slice(bounds[note], bounds[note + 1])
        if mine.start == mine.stop:
            continue
        ascending = np.sort(row)
        wanted = row[codes[mine]]
        upto = np.searchsorted(ascending, wanted, side="right")
        tied = upto - np.searchsorted(ascending, wanted, side="left") > 1
        ranks[mine] = width - upto + 1
        for i in np.flatnonzero(tied):
            code = codes[mine][i]
            ranks[mine.start + i] += np.count_nonzero(row[:code] == row[code])
    return notes, ranks


def score(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    ks: Sequence[int] = (5, 8, 15),
    threshold: float | ArrayLike = 0.5,
) -> dict[str, float]:
    """Score predictions of one task with every figure that the papers print, and some more.

    Three macro-F1s are in use in this field and differ by up to a factor of two:

    * `macro_f1_caml`: harmonic mean of macro-precision and macro-recall over all codes, a code
      without positives or predictions counting 0 (the released code of CAML, MultiResCNN, LAAT,
      MT-RAM and MARN, so what those papers print);
    * `macro_f1_all`: mean over all codes of each code's F1, 0 where it has no positives;
    * `macro_f1_present`: the same over codes with at least one positive (Edin et al. 2023).

    Ties at rank k are broken by the lower code index. `recall_at_k` counts 0 for a note without
    any code, as CAML's does; `mean_average_precision` averages over notes with a code (the
    measure of the CodiEsp shared task), codes ranked by probability.

    Args:
        probabilities: (N, C) float.
        targets: (N, C) bool or 0/1.
        ks: cut-offs of precision and recall at k; a k above C is left out.
        threshold: a code is predicted where its probability is above this: one number or (C,).
            0.5 is what rounding does in the released code.

    Returns:
        Fractions in [0, 1] under `micro_f1`, `micro_precision`, `micro_recall`,
        `macro_f1_caml`, `macro_f1_all`, `macro_f1_present`, `macro_precision`, `macro_recall`,
        `micro_auc`, `macro_auc` (mean over codes that some notes have and some have not),
        `mean_average_precision`, and `precision_at_k`, `recall_at_k` for each k.

    Raises:
        MarnError: the shapes differ, a value is not finite, or targets are not 0/1.
    """
    scores, truth = _checked(probabilities, targets)
    predicted = scores > np.asarray(threshold)
    hits = np.count_nonzero(predicted & truth, axis=0)  # (C,)
    claims = np.count_nonzero(predicted, axis=0)
    present = np.count_nonzero(truth, axis=0)
    precision, recall = _ratio(hits, claims), _ratio(hits, present)
    f1 = _ratio(2 * hits, claims + present)
    some = present > 0

    def harmonic(a: float, b: float) -> float:
        return float(_ratio(2 * a * b, a + b))

    micro_precision = float(_ratio(hits.sum(), claims.sum()))
    micro_recall = float(_ratio(hits.sum(), present.sum()))
    areas = auc_per_code(scores, truth)
    figures = {
        "micro_f1": harmonic(micro_precision, micro_recall),
        "micro_precision": micro_precision,
        "micro_recall": micro_recall,
        "macro_f1_caml": harmonic(precision.mean(), recall.mean()),
        "macro_f1_all": float(f1.mean()),
        "macro_f1_present": float(f1[some].mean()) if some.any() else float("nan"),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "micro_auc": micro_auc(scores, truth),
        "macro_auc": float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan"),
    }
    notes, ranks = _ranks(scores, truth)
    count = np.bincount(notes, minlength=len(scores))  # (N,) codes of each note
    order = np.lexsort((ranks, notes))
    within = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count) + 1
    average = np.bincount(notes[order], within / ranks[order], len(scores)) / np.maximum(count, 1)
    figures["mean_average_precision"] = (
        float(average[count > 0].mean()) if len(notes) else float("nan")
    )
    for k in ks:
        if 0 < k <= scores.shape[1]:
            top = np.bincount(notes[ranks <= k], minlength=len(scores))
            figures[f"precision_at_{k}"] = float((top / k).mean())
            figures[f"recall_at_{k}"] = float(_ratio(top, count).mean())
    return figures


def best_threshold(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Find the one threshold for all codes with the highest micro-F1.

    Candidates lie halfway between neighbouring probabilities; of equal ones the lowest threshold
    wins. To be tuned on dev and applied to test (fidelity row 16, the sound choice).

    Args:
        probabilities: (N, C) float.
        targets: (N, C) bool or 0/1.

    Returns:
        The threshold, to be used with `>`; 0.5 where no target is present.

    Raises:
        MarnError: the shapes differ, or values are out of range.
    """
    scores, truth = _checked(probabilities, targets)
    if not truth.any():
        return 0.5
    flat = scores.ravel()
    order = np.argsort(-flat, kind="stable")
    ranked = flat[order]
    hits = np.cumsum(truth.ravel()[order])
    f1 = 2 * hits / (np.arange(1, len(flat) + 1) + hits[-1])
    last_of_tie = np.append(ranked[1:] < ranked[:-1], True)
    f1[~last_of_tie] = -1
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))  # the last of equals: the lowest threshold
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((float(ranked[best]) + float(below)) / 2)


def best_thresholds(probabilities: ArrayLike, targets: ArrayLike) -> Array:
    """Find each code's own threshold with the highest F1 (fidelity row 16).

    Rare codes have few positives to choose by, so that one threshold for all codes
    (`best_threshold`) is often the safer choice.

    Args:
        probabilities: (N, C) float.
        targets: (N, C) bool or 0/1.

    Returns:
        (C,) float64, to be used with `>`; 0.5 for a code that no note has.

    Raises:
        MarnError: the shapes differ, or values are out of range.
    """
    scores, truth = _checked(probabilities, targets)
    codes = range(scores.shape[1])
    return np.array([best_threshold(scores[:, [c]], truth[:, [c]]) for c in codes])
