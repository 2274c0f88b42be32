"""Scores of multi-label predictions, exact with ties and fast at 8,921 codes.

Shapes: N notes, C codes. Scores are fractions in [0, 1]. The rules:

* A code is predicted where its probability is above the threshold, not equal to it.
* Ties in a ranking (precision and recall at k, mean average precision) are broken by the lower code
  index; under the ROC curve a tied pair counts one half.
* If k exceeds C, all C codes count, so that precision at k equals that at C, and recall is 1.
* 0 / 0 is 0: precision without predictions, recall without codes, and their F1. A measure is `nan`
  where it is undefined: an area without positives or negatives, and mean average precision and
  `macro_f1_present` without any code.

`score(…, rule="caml")` follows CAML's released script, and so published scores: ties are broken by
the higher index (its reversed argsort does not specify the order of ties), and micro-averages that
divide by 0 are `nan`.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marn.errors import MarnError

Array = NDArray[np.floating]
Indices = NDArray[np.intp]
Rule = Literal["sound", "caml"]
BINS = ((0, 9), (10, 29), (30, 99), (100, 299), (300, None))
"""Ranges of training notes per code, the groups of `by_frequency`."""
_BLOCK = 128  # notes or codes at once: 3,372 x 128 float32 take 1.7 MB


def auc_per_code(probabilities: ArrayLike, targets: ArrayLike) -> Array:
    """Return the area under the ROC curve of each code.

    Args:
        probabilities: (N, C) float; any increasing transform (logits) gives the same.
        targets: (N, C) bool or 0/1.

    Returns:
        (C,) float64; `nan` for a code in all notes or in none.

    Raises:
        MarnError: the shapes differ, or values are out of range.

    Example:
        >>> auc_per_code([[0.9, 0.5], [0.1, 0.5]], [[1, 1], [0, 0]]).tolist()
        [1.0, 0.5]
    """
    scores, truth = _checked(probabilities, targets)
    return _code_areas(scores, *_positives(truth))[0]


def score(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    ks: Sequence[int] = (5, 8, 15),
    threshold: float | ArrayLike = 0.5,
    rule: Rule = "sound",
) -> dict[str, float]:
    """Score predictions of one task with every measure that the papers report, and some more.

    Three versions of macro-F1 are in use, which differ by up to a factor of two:

    * `macro_f1_caml`: harmonic mean of macro-precision and macro-recall over all codes, where a
      code without positives or predictions counts 0 (the released code of CAML, MultiResCNN, LAAT,
      MT-RAM and MARN, and so what those papers print);
    * `macro_f1_all`: mean over all codes of each code's F1, 0 where it has no positives;
    * `macro_f1_present`: the same over codes with at least one positive (Edin et al. 2023).

    `recall_at_k` counts 0 for a note without any code, as CAML's does; `mean_average_precision`
    averages over notes with a code (the measure of the CodiEsp shared task), codes ranked by
    probability.

    Args:
        probabilities: (N, C) float.
        targets: (N, C) bool or 0/1.
        ks: cut-offs of precision and recall at k, at least 1.
        threshold: a code is predicted where its probability is above this: one number or (C,).
            0.5 is what rounding does in the released code.
        rule: how to treat ties and 0 / 0: as described in this module ("sound") or as in CAML's
            script ("caml").

    Returns:
        Fractions in [0, 1] under `micro_f1`, `micro_precision`, `micro_recall`,
        `macro_f1_caml`, `macro_f1_all`, `macro_f1_present`, `macro_precision`, `macro_recall`,
        `micro_auc`, `macro_auc` (mean over codes with both positives and negatives),
        `mean_average_precision`, and `precision_at_k`, `recall_at_k` for each k.

    Raises:
        MarnError: the shapes differ, a value is not finite, targets are not 0/1, or an argument is
            out of range.

    Example:
        >>> found = score([[0.9, 0.8], [0.2, 0.7]], [[1, 0], [0, 1]], ks=(1, 5))
        >>> round(found["micro_f1"], 2), found["precision_at_1"], found["precision_at_5"]
        (0.8, 1.0, 0.5)
    """
    scores, truth = _checked(probabilities, targets)
    if rule not in get_args(Rule):
        raise MarnError(f"rule must be one of {get_args(Rule)}, but got {rule!r}")
    if not all(isinstance(k, Integral) and k >= 1 for k in ks):
        raise MarnError(f"ks must be whole numbers of at least 1, but got {list(ks)}")
    notes, codes = _positives(truth)
    found = _threshold_scores(scores > np.asarray(threshold), notes, codes, rule)
    areas, *sorted_scores = _code_areas(scores, notes, codes)
    found["micro_auc"] = _pair_area(*sorted_scores)
    found["macro_auc"] = float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan")
    return found | _ranking_scores(scores, notes, codes, ks, rule)


def _threshold_scores(
    predicted: NDArray[np.bool_], notes: Indices, codes: Indices, rule: Rule
) -> dict[str, float]:
    """Score (N, C) predictions, given the notes and codes of the P pairs that are present."""
    width = predicted.shape[1]
    present = np.bincount(codes, minlength=width)  # (C,), as are the next two
    claims = predicted.view(np.uint8).sum(axis=0, dtype=np.uint32).astype(np.intp)
    hits = np.bincount(codes[predicted[notes, codes]], minlength=width)
    precision, recall = _ratio(hits, claims), _ratio(hits, present)
    f1, some = _ratio(2 * hits, claims + present), present > 0
    nothing = 0.0 if rule == "sound" else float("nan")
    micro_precision = float(_ratio(hits.sum(), claims.sum(), nothing))
    micro_recall = float(_ratio(hits.sum(), present.sum(), nothing))
    return {
        "micro_f1": _harmonic(micro_precision, micro_recall),
        "micro_precision": micro_precision,
        "micro_recall": micro_recall,
        "macro_f1_caml": _harmonic(precision.mean(), recall.mean()),
        "macro_f1_all": float(f1.mean()),
        "macro_f1_present": float(f1[some].mean()) if some.any() else float("nan"),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
    }


def _ranking_scores(
    scores: Array, notes: Indices, codes: Indices, ks: Sequence[int], rule: Rule
) -> dict[str, float]:
    """Score the order of the codes within each note."""
    size, width = scores.shape
    count = np.bincount(notes, minlength=size)  # (N,) codes of each note
    ranks = _ranks(scores, notes, codes, first=rule == "sound")  # (P,)
    rows = notes * (width + 1)
    ascending = np.sort(rows + ranks) - rows  # within each note
    within = np.arange(len(notes)) - np.repeat(np.cumsum(count) - count, count) + 1
    average = np.bincount(notes, within / ascending, size) / np.maximum(count, 1)
    mean = float(average[count > 0].mean()) if len(notes) else float("nan")
    found = {"mean_average_precision": mean}
    for k in ks:
        top = np.bincount(notes[ranks <= k], minlength=size)
        found[f"precision_at_{k}"] = float((top / min(k, width)).mean())
        found[f"recall_at_{k}"] = float(_ratio(top, count).mean())
    return found


def by_frequency(
    probabilities: ArrayLike,
    targets: ArrayLike,
    frequency: ArrayLike,
    threshold: float | ArrayLike = 0.5,
) -> dict[str, dict[str, float]]:
    """Score rare and frequent codes separately.

    Args:
        probabilities: (N, C) float.
        targets: (N, C) bool or 0/1.
        frequency: (C,) training notes that have each code: `corpus.frequency(task)`.
        threshold: see `score`.

    Returns:
        {group of `BINS`: {`codes`: number of codes in it, `micro_f1`}}, for groups with codes.

    Raises:
        MarnError: the shapes differ, or values are out of range.

    Example:
        >>> by_frequency([[0.9, 0.9]], [[1, 0]], [500, 3])
        {'0-9': {'codes': 1, 'micro_f1': 0.0}, '300+': {'codes': 1, 'micro_f1': 1.0}}
    """
    scores, truth = _checked(probabilities, targets)
    counts, assigned, found = np.asarray(frequency), scores > np.asarray(threshold), {}
    for low, high in BINS:
        some = (counts >= low) & (counts <= (counts.max() if high is None else high))
        if some.any():
            guess, right = assigned[:, some], truth[:, some]
            micro_f1 = float(_ratio(2 * (guess & right).sum(), guess.sum() + right.sum()))
            name = f"{low}+" if high is None else f"{low}-{high}"
            found[name] = {"codes": int(some.sum()), "micro_f1": micro_f1}
    return found


def best_threshold(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Find the single threshold for all codes with the highest micro-F1.

    Candidates are halfway between neighbouring probabilities; the lowest of equally good ones is
    chosen. Tune it on dev and apply it to test.

    Args:
        probabilities: (N, C) float.
        targets: (N, C) bool or 0/1.

    Returns:
        The threshold, to be used with `>`; 0.5 if no target is present.

    Raises:
        MarnError: the shapes differ, or values are out of range.

    Example:
        >>> best_threshold([[0.75, 0.25, 0.5]], [[1, 0, 1]])  # between 0.5 and 0.25
        0.375
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
    """Find the threshold with the highest F1 for each code.

    Rare codes have few positives to choose from, so a single threshold for all codes
    (`best_threshold`) is often safer.

    Args:
        probabilities: (N, C) float.
        targets: (N, C) bool or 0/1.

    Returns:
        (C,) float64, to be used with `>`; 0.5 for a code without positives.

    Raises:
        MarnError: the shapes differ, or values are out of range.
    """
    scores, truth = _checked(probabilities, targets)
    codes = range(scores.shape[1])
    return np.array([best_threshold(scores[:, [c]], truth[:, [c]]) for c in codes])


def reliability(
    probabilities: ArrayLike, targets: ArrayLike, bins: int = 10
) -> tuple[Array, Array, Array]:
    """Compare predicted and observed frequencies in bins of probability of equal width.

    The expected calibration error is `np.nansum(share * abs(said - true))`, over all pairs of note
    and code (Guo et al. 2017, "On Calibration of Modern Neural Networks", Eq. 3).

    Args:
        probabilities: (N, C) float in [0, 1].
        targets: (N, C) bool or 0/1.
        bins: number of bins, B.

    Returns:
        `said`, the mean probability in each bin, (B,); `true`, the fraction of its pairs that are
        present, (B,); `share`, its fraction of all pairs, (B,). The first two are `nan` for an
        empty bin.

    Raises:
        MarnError: the shapes differ, or values are out of range.

    Example:
        >>> said, true, share = reliability([[0.25, 0.75, 1.0]], [[0, 0, 1]], bins=2)
        >>> said.tolist(), true.tolist(), float(np.nansum(share * abs(said - true)))
        ([0.25, 0.875], [0.0, 0.5], 0.3333333333333333)
    """
    scores, truth = _checked(probabilities, targets)
    flat = scores.ravel().astype(np.float64)
    if flat.min() < 0 or flat.max() > 1:
        raise MarnError(
            f"probabilities must be in [0, 1], but go from {flat.min()} to {flat.max()}"
        )
    place = np.minimum((flat * bins).astype(np.intp), bins - 1)
    sizes = np.bincount(place, minlength=bins)
    said, true = (
        _ratio(np.bincount(place, weights, bins), sizes, np.nan)
        for weights in (flat, truth.ravel().astype(np.float64))
    )
    return said, true, sizes / len(flat)


def _checked(probabilities: ArrayLike, targets: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Return scores as floats and targets as bools, both (N, C)."""
    scores, truth = np.asarray(probabilities), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != truth.shape:
        raise MarnError(
            "probabilities and targets must both have shape (notes, codes), but got "
            f"{scores.shape} and {truth.shape}"
        )
    if scores.size == 0:
        raise MarnError(
            f"probabilities must hold at least one note and one code, but got {scores.shape}"
        )
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise MarnError("probabilities must be finite, but some are not; did training diverge?")
    if truth.dtype != bool:
        if not np.isin(truth, (0, 1)).all():
            raise MarnError("targets must be 0 or 1 (or bool)")
        truth = truth.astype(bool)
    return scores, truth


def _ratio(numerator: ArrayLike, denominator: ArrayLike, nothing: float = 0.0) -> Array:
    """Divide, with `nothing` where the denominator is 0 (then the numerator is 0 too)."""
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    return np.divide(top, bottom, out=np.full_like(top, nothing), where=bottom > 0)


def _harmonic(a: float, b: float) -> float:
    return float(2 * a * b / (a + b)) if a + b != 0 else 0.0


def _positives(truth: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """Return notes (P,) and codes (P,) of the pairs that are present, in row-major order."""
    notes, codes = np.divmod(np.flatnonzero(truth), truth.shape[1])
    return notes, codes


def _look_up(ascending: Array, wanted: Array, counts: Indices) -> tuple[Indices, Indices]:
    """Count, for each wanted score of a row, the row's scores below it and those not above it.

    Args:
        ascending: (R, S), sorted rows.
        wanted: (P,), the wanted scores of all rows, row after row.
        counts: (R,), number of wanted scores of each row.

    Returns:
        The two counts, (P,) each.
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


def _areas(below: Indices, upto: Indices, counts: Indices, size: int) -> Array:
    """Return areas under ROC curves (G,), from what `_look_up` returns for each group's positives.

    An area is the Mann-Whitney statistic with mid-ranks, so that tied pairs count one half; it is
    `nan` for a group of `size` scores without positives or negatives.
    """
    groups = np.repeat(np.arange(len(counts)), counts)
    ranks = np.bincount(groups, (below + upto + 1) / 2, len(counts))
    above, pairs = ranks - counts * (counts + 1) / 2, counts * (size - counts)
    return np.divide(above, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def _code_areas(scores: Array, notes: Indices, codes: Indices) -> tuple[Array, Array, Array]:
    """Return the codes' areas (C,), their sorted scores (C, N), and those of positives (P,)."""
    size, width = scores.shape
    counts = np.bincount(codes, minlength=width)
    by_code = np.argsort(codes, kind="stable")
    wanted = scores[notes[by_code], codes[by_code]]
    ends = np.cumsum(counts)
    columns = np.empty((width, size), scores.dtype)
    areas = np.empty(width)
    for start in range(0, width, _BLOCK):
        some = slice(start, start + _BLOCK)
        for first in range(0, size, _BLOCK):  # a square that fits the processor's cache
            columns[some, first : first + _BLOCK] = scores[first : first + _BLOCK, some].T
        columns[some].sort(axis=1)
        mine = slice(ends[start] - counts[start], ends[some][-1])
        found = _look_up(columns[some], wanted[mine], counts[some])
        areas[some] = _areas(*found, counts[some], size)
    return areas, columns, wanted


def _pair_area(scores: Array, wanted: Array) -> float:
    """Return the area over all pairs at once; `scores` are sorted in place."""
    flat, total = scores.reshape(-1), np.array([len(wanted)])
    flat.sort()
    # Ascending, so that neighbours are looked up in turn.
    return float(_areas(*_look_up(flat[None], np.sort(wanted), total), total, len(flat))[0])


def _ranks(scores: Array, notes: Indices, codes: Indices, *, first: bool) -> Indices:
    """Return the 1-based ranks (P,) of the pairs that are present, each within its note.

    Among codes with the same score the lower index comes first, or last if `first` is false.
    """
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
            others = row[:code] if first else row[code + 1 :]
            ranks[i] += np.count_nonzero(others == row[code])
    return ranks
