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

_STEPS = 3  # of the usual size, measured after one of the largest


@dataclass(frozen=True)
class Budget:
    """Time and memory that a training will take."""

    device: str
    """Name of the device."""
    batch_size: int
    """Notes per step."""
    steps: int
    """Steps per epoch."""
    seconds: float
    """Time of an epoch's steps, without scoring the dev split; nan if they do not fit."""
    notes_per_second: float
    memory_mb: float
    """Peak of the largest step: of a CUDA device; on a CPU, of the whole process."""
    free_mb: float
    """Memory of the device; on a CPU, of the machine."""
    fits: bool
    """Whether the largest step could be done."""
    largest: int | None
    """If it does not fit, the largest batch that does, in notes; None if not even one does."""

    def __str__(self) -> str:
        """Say it in a few lines."""
        if not self.fits:
            what = f"{self.device}: batches of {self.batch_size} do not fit"
            if self.largest is None:
                return f"{what}, nor does a single note; choose a shorter max_length"
            parts = -(-self.batch_size // self.largest)
            return f"{what}; choose batch_size={self.largest} or accumulate={parts}"
        return (
            f"{self.device}: {self.notes_per_second:,.1f} notes per second\n"
            f"an epoch of {self.steps:,} steps: {duration(self.seconds)}, and the dev notes\n"
            f"memory at the largest step: {self.memory_mb:,.0f} MB of {self.free_mb:,.0f} MB"
        )


def estimate(model: Coder, corpus: Corpus, config: TrainConfig | None = None) -> Budget:
    """Measure a few steps of a training and extrapolate to an epoch.

    The first step has the longest notes, so a batch that does not fit is found at once. The time of
    an epoch follows from steps of usual length, in proportion to the padded tokens. For several
    devices one is measured, with its share of each batch and without their communication.

    Args:
        model: is left as it was, on the CPU or wherever it is.
        corpus: has the split train and the model's tasks.
        config: by default `TrainConfig.of(model)`.

    Returns:
        The budget; `print` makes it readable.

    Raises:
        MarnError: the corpus has no training notes, or lacks a task; a device is missing.
    """
    config = config or TrainConfig.of(model)
    if "train" not in corpus.splits or not len(corpus["train"]):
        raise MarnError(f"corpus {corpus.name!r} has no training notes to measure")
    check_corpus(model, corpus)
    train = corpus["train"]
    lengths = train.lengths.clip(max=model.max_length)
    order = [batch[:: config.processes] for batch in epoch_batches(train, model, config, 1)]
    padded = np.array([len(batch) * lengths[batch].max() for batch in order])
    longest = np.argsort(-lengths, kind="stable")
    seconds, size = float("nan"), min(config.batch_size, len(train))
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        step = TrainingStep(copy.deepcopy(model), train, replace(config, devices=1, nodes=1))
        step.model.train()
        device = step.fabric.device
        while size and not _fits(step, longest[: size : config.processes]):
            size //= 2
        fits = size == min(config.batch_size, len(train))
        if fits:
            usual = np.argsort(np.abs(padded - padded.mean()), kind="stable")[:_STEPS]
            took = [_seconds(step, order[i]) for i in usual]
            seconds = float(np.median(np.array(took) / padded[usual]) * padded.sum())
    return Budget(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        batch_size=config.batch_size,
        steps=len(order),
        seconds=seconds,
        notes_per_second=len(train) / seconds,
        memory_mb=peak_memory(device),
        free_mb=capacity(device),
        fits=fits,
        largest=None if fits or not size else size,
    )


def _fits(step: TrainingStep, notes: np.ndarray) -> bool:
    """Try a step on these notes."""
    try:
        step(notes, step.config.learning_rate)
    except MarnError:
        step.optimizer.zero_grad()
        return False
    return True


def _seconds(step: TrainingStep, notes: np.ndarray) -> float:
    """Time a step."""
    began = time.perf_counter()
    float(step(notes, step.config.learning_rate))  # reading the loss waits for a GPU
    return time.perf_counter() - began
