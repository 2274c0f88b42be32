"""Time and memory that a training will take on this machine, measured by a few of its steps."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from marn.corpus import Corpus
from marn.errors import MarnError
from marn.evaluation import check_corpus
from marn.models import Coder
from marn.progress import duration
from marn.train.config import TrainConfig
from marn.train.memory import capacity, peak_memory
from marn.train.step import TrainingStep, epoch_batches


@dataclass(frozen=True)
class Budget:
    """Time and memory that a training will take."""

    batch_size: int
    """Notes per step."""
    steps: int
    """Steps per epoch."""
    seconds: float
    """Time of an epoch's steps, without scoring the dev split."""
    notes_per_second: float
    memory_mb: float
    """Peak of the largest step: of a CUDA device; on a CPU, of the whole process."""
    free_mb: float
    """Memory of the device; on a CPU, of the machine."""

    def __str__(self) -> str:
        return (
            f"{self.notes_per_second:,.1f} notes per second\n"
            f"an epoch of {self.steps:,} steps: {duration(self.seconds)}, and the dev notes\n"
            f"memory at the largest step: {self.memory_mb:,.0f} MB of {self.free_mb:,.0f} MB"
        )


def estimate(model: Coder, corpus: Corpus, config: TrainConfig | None = None) -> Budget:
    """Measure a few steps of a training and extrapolate to an epoch.

    The first step has the longest notes, so a batch that does not fit is found at once. The time of
    an epoch follows from three steps of usual length, in proportion to the padded tokens. For
    several devices one is measured, with its share of each batch and without their communication.

    Args:
        model: is left as it was, on the CPU or wherever it is.
        corpus: has the split train and the model's tasks.
        config: by default `TrainConfig.of(model)`.

    Returns:
        The budget; `print` makes it readable.

    Raises:
        MarnError: the corpus has no training notes, or lacks a task; a device is missing; or the
            largest step does not fit into its memory.
    """
    config = config or TrainConfig.of(model)
    if "train" not in corpus.splits or not len(corpus["train"]):
        raise MarnError(f"corpus {corpus.name!r} has no training notes to measure")
    check_corpus(model, corpus)
    train = corpus["train"]
    lengths = train.lengths.clip(max=model.max_length)
    batches = [batch[:: config.processes] for batch in epoch_batches(train, model, config, 1)]
    padded = np.array([len(batch) * lengths[batch].max() for batch in batches])
    usual = np.argsort(np.abs(padded - padded.mean()), kind="stable")[:3]
    longest = np.argsort(-lengths, kind="stable")[: config.batch_size : config.processes]
    took = []
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        step = TrainingStep(copy.deepcopy(model), train, replace(config, devices=1, nodes=1))
        step.model.train()
        for notes in [longest, *(batches[place] for place in usual)]:
            began = time.perf_counter()
            float(step(notes, config.learning_rate))  # reading the loss waits for a GPU
            took.append(time.perf_counter() - began)
    seconds = float(np.median(np.array(took[1:]) / padded[usual]) * padded.sum())
    return Budget(
        batch_size=config.batch_size,
        steps=len(batches),
        seconds=seconds,
        notes_per_second=len(train) / seconds,
        memory_mb=peak_memory(step.fabric.device),
        free_mb=capacity(step.fabric.device),
    )
