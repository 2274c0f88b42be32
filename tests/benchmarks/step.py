"""A whole training step at full size: one note of 4,000 words, 8,921 and 295 codes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import Bar, interleaved, peak, share_of_peak
from benchmarks.made_up import made_up
from benchmarks.reference import as_tensors, multiplications, transplant
from marn import plain
from marn.corpus import Corpus
from marn.registry import build
from marn.train.config import TrainConfig
from marn.train.step import TrainingStep

BARS = [Bar("memory", "peak above import", most=0.6)]


def work(side: str, folder: str, quick: bool) -> Callable[[], object]:
    """Return two steps of one side; at the second the optimiser has its state."""
    corpus = Corpus.load(folder)
    train = corpus["train"]
    model = build("marn", corpus, hidden_size=8 if quick else 300)
    config = TrainConfig.of(model, device="cpu")
    if side == "ours":
        step = TrainingStep(model, train, config)
        return lambda: [step(np.array([0]), config.learning_rate) for _ in range(2)]
    twin = transplant(model)
    del model
    return partial(plain.train, twin, *as_tensors(train, corpus.tasks), epochs=2)


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the bar, seconds and MB of each side."""
    tasks = {"icd": 30, "ccs": 5} if quick else {"icd": 8921, "ccs": 295}
    words = 40 if quick else 4000
    counted = multiplications(8 if quick else 300, sum(tasks.values()))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "corpus")
        made_up(
            Path(path),
            np.array([words]),
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
        "of_peak": share_of_peak(2 * 3 * words * sum(counted.values()), taken["ours"]),
        "seconds": taken["ours"] / 2,
        "reference_seconds": taken["reference"] / 2,
    }
