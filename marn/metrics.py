"""Scores of multi-label predictions, exact with ties and fast at 8,921 codes.

Shapes: N notes, C codes. Scores are fractions in [0, 1]; one that is undefined is `nan`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marn.errors import MarnError

Array = NDArray[np.floating]
_BLOCK = 128  # notes or codes at once: 3,372 x 128 float32 is 1.7 MB


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


def _positives(truth: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Notes and codes of the pairs that are present, in row-major order: (P,), (P,) int."""
    notes, codes = np.divmod(np.flatnonzero(truth), truth.shape[1])
    return notes, codes


def _look_up(
    ascending: Array, wanted: Array, counts: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Count the scores of a row that are below a wanted one of them, and those not above it.

    Args:
        ascending: (R, S), each row sorted.
        wanted: (P,) scores, row after row.
        counts: (R,) how many of each row.

    Returns:
        (P,) and (P,) int.
    """
    below, upto = np.empty((2, len(wanted)), np.intp)
    end = 0
    for row, count in zip(ascending, counts.tolist(), strict=True):
        start, end = end, end + count
        if count:
            scores = wanted[start:end]
            below[start:end] = row.searchsorted(scores)
            upto[start:end] = row.searchsorted(scores, "right")
    return below, upto


def _areas(
    below: NDArray[np.intp], upto: NDArray[np.intp], counts: NDArray[np.intp], size: int
) -> Array:
    """Areas under ROC curves from where the positives are among all scores.

    The Mann-Whitney statistic with mid-ranks, so that tied pairs count one half.

    Args:
        below: (P,) scores below each positive, group after group.
        upto: (P,) scores not above it.
        counts: (G,) positives of each group.
        size: scores of a group.

    Returns:
        (G,) float64; `nan` for a group without positives or negatives.
    """
    groups = np.repeat(np.arange(len(counts)), counts)
    ranks = np.bincount(groups, (below + upto + 1) / 2, len(counts))
    above, pairs = ranks - counts * (counts + 1) / 2, counts * (size - counts)
    return np.divide(above, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def _both_auc(
    scores: Array, notes: NDArray[np.intp], codes: NDArray[np.intp], *, micro: bool
) -> tuple[Array, float]:
    """Areas of each code and, if `micro`, over all pairs; one copy of the scores serves both."""
    size, width = scores.shape
    counts = np.bincount(codes, minlength=width)
    by_code = np.argsort(codes, kind="stable")
    wanted = scores[notes[by_code], codes[by_code]]
    ends = np.cumsum(counts)
    columns = np.empty((width, size), scores.dtype)
    areas = np.empty(width)
    for start in range(0, width, _BLOCK):
        some = slice(start, start + _BLOCK)
        for first in range(0, size, _BLOCK):  # a square that stays in the processor's cache
            square = scores[first : first + _BLOCK, some]
            columns[some, first : first + _BLOCK] = square.T
        columns[some].sort(axis=1)
        mine = slice(ends[start] - counts[start], ends[some][-1])
        found = _look_up(columns[some], wanted[mine], counts[some])
        areas[some] = _areas(*found, counts[some], size)
    if not micro:
        return areas, float("nan")
    return areas, _flat_auc(columns.reshape(-1), wanted)


def _flat_auc(scores: Array, wanted: Array) -> float:
    """Area over all pairs at once: (S,) scores, which are sorted in place, and (P,) of them."""
    scores.sort()
    total = np.array([len(wanted)])
    # In ascending order, so that neighbours are looked up in turn.
    return float(_areas(*_look_up(scores[None], np.sort(wanted), total), total, len(scores))[0])


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
    return _both_auc(scores, *_positives(truth), micro=False)[0]


def micro_auc(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Area under the ROC curve over all (note, code) pairs taken together."""
    scores, truth = _checked(probabilities, targets)
    return _flat_auc(scores.flatten(), scores[truth])


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
    scores, truth = _checked(probabilities, targets)
    notes, codes = _positives(truth)
    return notes, _ranks(scores, notes, codes)


def _ranks(scores: Array, notes: NDArray[np.intp], codes: NDArray[np.intp]) -> NDArray[np.intp]:
    size, width = scores.shape
    counts, wanted = np.bincount(notes, minlength=size), scores[notes, codes]
    ranks = np.empty(len(notes), np.intp)
    end = 0
    for start in range(0, size, _BLOCK):
        some = slice(start, start + _BLOCK)
        begin, end = end, end + int(counts[some].sum())
        below, upto = _look_up(np.sort(scores[some], axis=1), wanted[begin:end], counts[some])
        ranks[begin:end] = width - upto + 1
        for i in begin + np.flatnonzero(upto - below > 1):  # those that share their score
            row, code = scores[notes[i]], codes[i]
            ranks[i] += np.count_nonzero(row[:code] == row[code])
    return ranks


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
    notes, codes = _positives(truth)
    count = np.bincount(notes, minlength=len(scores))  # (N,) codes of each note
    present = np.bincount(codes, minlength=scores.shape[1])  # (C,)
    predicted = scores > np.asarray(threshold)
    claims = predicted.view(np.uint8).sum(axis=0, dtype=np.uint32).astype(np.intp)
    hits = np.bincount(codes[predicted[notes, codes]], minlength=scores.shape[1])
    del predicted
    precision, recall = _ratio(hits, claims), _ratio(hits, present)
    f1 = _ratio(2 * hits, claims + present)
    some = present > 0

    def harmonic(a: float, b: float) -> float:
        return float(_ratio(2 * a * b, a + b))

    micro_precision = float(_ratio(hits.sum(), claims.sum()))
    micro_recall = float(_ratio(hits.sum(), present.sum()))
    areas, micro = _both_auc(scores, notes, codes, micro=True)
    figures = {
        "micro_f1": harmonic(micro_precision, micro_recall),
        "micro_precision": micro_precision,
        "micro_recall": micro_recall,
        "macro_f1_caml": harmonic(precision.mean(), recall.mean()),
        "macro_f1_all": float(f1.mean()),
        "macro_f1_present": float(f1[some].mean()) if some.any() else float("nan"),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "micro_auc": micro,
        "macro_auc": float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan"),
    }
    ranks = _ranks(scores, notes, codes)
    rows = notes * (scores.shape[1] + 1)
    ascending = np.sort(rows + ranks) - rows  # within each note
    within = np.arange(len(notes)) - np.repeat(np.cumsum(count) - count, count) + 1
    average = np.bincount(notes, within / ascending, len(scores)) / np.maximum(count, 1)
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
