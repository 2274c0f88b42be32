"""A whole training step at full size: one note of 4,000 words, 8,921 and 295 codes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import Bar, interleaved, peak
from benchmarks.made_up import made_up
from benchmarks.reference import Loop, Reference
from marn.corpus import Corpus
from marn.registry import build
from marn.train.config import TrainConfig
from marn.train.loop import TrainingStep

BARS = [Bar("memory", "peak above import", most=0.6)]


def work(side: str, folder: str, quick: bool) -> Callable[[], object]:
    """Return a step of one side; the optimiser has its state from a step before."""
    corpus = Corpus.load(folder)
    train = corpus["train"]
    model = build("marn", corpus, hidden_size=8 if quick else 300)
    config = TrainConfig.of(model, device="cpu")
    run: Callable[[], object]
    if side == "ours":
        run = partial(TrainingStep(model, train, config), np.array([0]), config.learning_rate)
    else:
        texts = [train.note_tokens(0).tolist()]
        codes = [{task: train.code_indices(task, 0).tolist() for task in corpus.tasks}]
        run = partial(Loop(Reference(model), texts, codes, dict(config.task_weights)).step, [0])
        del model
    run()
    return run


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the bar, seconds and MB of each side."""
    tasks = {"icd": 30, "ccs": 5} if quick else {"icd": 8921, "ccs": 295}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "corpus")
        made_up(
            Path(path),
            np.array([40 if quick else 4000]),
            tasks,
            words=200 if quick else 51_917,
            share=0.3 if quick else 0.002,
        )
        names = ("ours", "reference")
        held = {side: peak(work, whole=True, side=side, folder=path, quick=quick) for side in names}
        taken = interleaved({side: work(side, path, quick) for side in names})
    return {
        "memory": held["ours"] / held["reference"],
        "mb": held["ours"],
        "reference_mb": held["reference"],
        "speed": taken["reference"] / taken["ours"],
        "seconds": taken["ours"],
        "reference_seconds": taken["reference"],
    }
