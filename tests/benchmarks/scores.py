"""All scores of 3,372 notes and 8,921 codes, against one ROC curve a code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.metrics import auc, roc_curve

from benchmarks import Bar, agree, interleaved, peak
from marn import metrics
from marn.evaluation import sigmoid

BARS = [
    Bar("speed", "all scores", least=15),
    Bar("mb", "memory on top", most=220, unit="MB"),
    Bar("auc", "areas under the curve", most=1e-12, unit="apart"),
]


def predictions(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, C) float32 probabilities and (N, C) bool targets, 90 codes a note.

    The probabilities are what a model gives: the sigmoid, in 32 bits, of normal logits, with the
    ties that this makes and no more.
    """
    notes, codes, share = (60, 40, 0.1) if quick else (3372, 8921, 0.01)
    rng = np.random.default_rng(0)
    truth = rng.random((notes, codes), np.float32) < share
    logits = rng.standard_normal((notes, codes), np.float32)
    logits *= 2
    logits += np.where(truth, np.float32(-1), np.float32(-5))
    return sigmoid(logits), truth


def by_code(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Score as the released code of CAML and its heirs does: a ROC curve for each code."""
    predicted = scores > 0.5
    hits = np.logical_and(predicted, truth)
    both = hits.sum(axis=0)
    precision = np.divide(
        both, predicted.sum(axis=0), out=np.zeros(len(both)), where=predicted.sum(axis=0) > 0
    )
    recall = np.divide(
        both, truth.sum(axis=0), out=np.zeros(len(both)), where=truth.sum(axis=0) > 0
    )
    macro = 2 * precision.mean() * recall.mean() / (precision.mean() + recall.mean())
    flat_hits, claims, present = hits.sum(), predicted.sum(), truth.sum()
    areas = []
    for code in range(scores.shape[1]):
        if 0 < truth[:, code].sum() < len(truth):
            false, true, _ = roc_curve(truth[:, code], scores[:, code])
            areas.append(auc(false, true))
    false, true, _ = roc_curve(truth.ravel(), scores.ravel())
    found = {
        "macro_f1_caml": float(macro),
        "micro_f1": float(2 * flat_hits / (claims + present)),
        "macro_auc": float(np.mean(areas)),
        "micro_auc": float(auc(false, true)),
    }
    ranked = np.argsort(scores, axis=1)[:, ::-1]
    for k in (5, 8, 15):
        top = np.take_along_axis(truth, ranked[:, :k], axis=1).sum(axis=1)
        found[f"precision_at_{k}"] = float((top / k).mean())
        found[f"recall_at_{k}"] = float(np.mean(top / np.maximum(truth.sum(axis=1), 1)))
    return found


def work(side: str, quick: bool) -> Callable[[], dict[str, float]]:
    """Return the scoring of one side."""
    scores, truth = predictions(quick)
    score = metrics.score if side == "ours" else by_code
    return lambda: score(scores, truth)


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the bars, seconds and MB of each side."""
    scores, truth = predictions(quick)
    ours, theirs = metrics.score(scores, truth), by_code(scores, truth)
    for figure, value in theirs.items():
        # The reference breaks ties as its sort happens to.
        agree(figure, ours[figure], value, 1e-4 if "_at_" in figure else 1e-9)
    tied, some = scores[:, :500].round(3), truth[:, :500]  # some codes with many ties
    many, of_many = metrics.score(tied, some), by_code(tied, some)
    areas = ("macro_auc", "micro_auc")
    apart = [abs(ours[x] - theirs[x]) for x in areas] + [abs(many[x] - of_many[x]) for x in areas]
    taken = interleaved(
        {
            "ours": lambda: metrics.score(scores, truth),
            "reference": lambda: by_code(scores, truth),
        }
    )
    held = {side: peak(work, whole=False, side=side, quick=quick) for side in taken}
    return {
        "speed": taken["reference"] / taken["ours"],
        "mb": held["ours"],
        "auc": max(apart),
        "seconds": taken["ours"],
        "reference_seconds": taken["reference"],
        "reference_mb": held["reference"],
    }
