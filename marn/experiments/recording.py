"""What a run of a sweep leaves to be collected: its scores, and its predictions note by note."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from marn import metrics
from marn.corpus import Corpus
from marn.evaluation import predict
from marn.readers.base import TextSystem
from marn.saving import provenance, replace, write_json
from marn.train.loop import Run

RESULTS, PREDICTIONS = "results.json", "predictions.npz"
RULES = ("0.5", "dev", "dev_codes")
"""Thresholds: fixed; one a task, tuned on dev; one a code, tuned on dev."""


def record(run: Run, corpus: Corpus) -> dict[str, Any]:
    """Score a trained model on the test notes, and write down what a table needs.

    It is written to the run directory, if there is one. The corpus has dev and test notes.

    Returns:
        What `results.json` holds. `scores` is {rule: {task: {figure: value}}}; undefined ones are
        None. A system that reads text has no steps and no settings of a training.
    """
    model = run.model
    dev, test = (predict(model, corpus, split) for split in ("dev", "test"))
    arrays: dict[str, Any] = {"patient": np.unique(corpus["test"].subjects, return_inverse=True)[1]}
    scores: dict[str, dict[str, dict[str, Any]]] = {rule: {} for rule in RULES}
    for task in model.tasks:
        known, truth = dev.probabilities(task), corpus["dev"].targets(task)
        found, targets = test.probabilities(task), corpus["test"].targets(task)
        tuned = metrics.best_threshold(known, truth)
        thresholds: list[Any] = [0.5, tuned, metrics.best_thresholds(known, truth)]
        for rule, threshold in zip(RULES, thresholds, strict=True):
            figures = metrics.score(found, targets, threshold=threshold)
            values = {key: _rounded(value) for key, value in figures.items()}
            single = _rounded(threshold) if isinstance(threshold, float) else None
            scores[rule][task] = {**values, "threshold": single}
        arrays |= {f"{task}/probabilities": found.astype(np.float32), f"{task}/targets": targets}
        arrays |= {f"{task}/tuned": tuned, f"{task}/frequency": corpus.frequency(task)}
    history, at_once = run.history, isinstance(model, TextSystem)
    steps = len(history) * -(-len(corpus["train"]) // run.config.batch_size)
    result = {
        "system": model.name,
        "parameters": model.count_parameters(embeddings=False),
        "options": _options(model),
        "training": {} if at_once else asdict(run.config),
        "corpus": {
            "name": corpus.name,
            "hash": corpus.hash,
            "notes": len(corpus["train"]),
            "card": {
                "source": corpus.card["source"],
                "command": corpus.card["created"]["command"],
                "notes": {split: len(corpus[split]) for split in corpus.splits},
                "codes": dict(corpus.tasks),
                "dropped": corpus.card["dropped"],
            },
        },
        "steps": 0 if at_once else steps,
        "epochs": len(history),
        "best_epoch": run.best_epoch,
        "train_seconds": round(float(history["seconds"].sum()), 1),
        "scores": scores,
        "provenance": provenance(),
    }
    if run.folder is not None:
        replace(run.folder / PREDICTIONS, lambda aside: _save(aside, arrays))
        write_json(run.folder / RESULTS, result)
    return result


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _rounded(value: float) -> float | None:
    """Five digits after the point; nothing for what is undefined."""
    return round(float(value), 5) if np.isfinite(value) else None


def _options(model: Any) -> dict[str, Any]:
    """Return the options that are short, and the strength that a linear model has chosen."""
    arrays = model.arrays if isinstance(model, TextSystem) else {}
    found = {"strength": float(arrays["strength"])} if "strength" in arrays else {}
    short = (type(None), str, int, float)
    return {key: x for key, x in model.options.items() if isinstance(x, short)} | found
