"""What a training will take on this machine, measured by a few steps of it."""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from marn.corpus import Corpus
from marn.errors import MarnError
from marn.models import Coder
from marn.progress import duration
from marn.train.config import TrainConfig
from marn.train.loop import Steps, batches_of, peak_memory

_STEPS = 3  # of the usual size, measured after one of the largest


@dataclass(frozen=True)
class Budget:
    """Time and memory that a training will take."""

    device: str
    """Name of the device."""
    batch_size: int
    """Notes a step."""
    steps: int
    """Steps of an epoch."""
    seconds: float
    """Of an epoch's steps; scoring the dev split comes on top."""
    notes_per_second: float
    memory_mb: float
    """Peak of the largest step: of a CUDA device; on a CPU, of the whole process."""
    free_mb: float | None
    """What the device can hold; None where the system does not say."""
    fits: bool
    """Whether the largest step was done."""
    largest: int | None
    """If it does not fit, the largest batch that does, in notes; None if not even one."""

    def __str__(self) -> str:
        """Say it in a few lines."""
        room = "" if self.free_mb is None else f" of {self.free_mb:,.0f} MB"
        if not self.fits:
            what = f"{self.device}: batches of {self.batch_size} do not fit{room}"
            if self.largest is None:
                return f"{what}; not even one note does: give a shorter max_length"
            parts = -(-self.batch_size // self.largest)
            return f"{what}; batch_size={self.largest} fits, or accumulate={parts}"
        return (
            f"{self.device}: {self.notes_per_second:,.1f} notes per second\n"
            f"an epoch of {self.steps:,} steps: {duration(self.seconds)}, and the dev notes\n"
            f"memory at the largest step: {self.memory_mb:,.0f} MB{room}"
        )


def estimate(model: Coder, corpus: Corpus, config: TrainConfig | None = None) -> Budget:
    """Measure a few steps of a training, and reckon what an epoch takes.

    The first step has the longest notes, so what does not fit shows at once. The time of an epoch
    follows from steps of usual length, in proportion to the padded tokens. Of several devices one
    is measured, with its share of each batch; what they tell each other comes on top.

    Args:
        model: is left as it was, on the CPU or wherever it is.
        corpus: with the split train and the model's tasks.
        config: by default `TrainConfig.of(model)`.

    Returns:
        The budget; `print` makes it readable.

    Raises:
        MarnError: the corpus has no training notes, or lacks a task; a device is not there.
    """
    config = config or TrainConfig.of(model)
    if "train" not in corpus.splits or not len(corpus["train"]):
        raise MarnError(f"corpus {corpus.name!r} has no training notes to measure")
    if {task: corpus.tasks.get(task) for task in model.tasks} != model.tasks:
        raise MarnError(f"the model's tasks are {model.tasks}, but the corpus has {corpus.tasks}")
    train = corpus["train"]
    lengths = train.lengths.clip(max=model.max_length)
    order = [batch[:: config.processes] for batch in batches_of(train, model, config, 1)]
    alone = replace(config, devices=1, nodes=1)
    padded = np.array([len(batch) * lengths[batch].max() for batch in order])
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        step = Steps(copy.deepcopy(model), train, alone)
        step.model.train()
        device = step.fabric.device
        largest = np.argsort(-lengths, kind="stable")[: config.batch_size : config.processes]
        fits = _fits(step, largest)
        if fits:
            usual = np.argsort(np.abs(padded - padded.mean()), kind="stable")[:_STEPS]
            took = [_seconds(step, order[i]) for i in usual]
            seconds = float(np.median(np.array(took) / padded[usual]) * padded.sum())
        else:
            seconds = float("nan")
            size = len(largest) // 2
            while size and not _fits(step, largest[:size]):
                size //= 2
    return Budget(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        batch_size=config.batch_size,
        steps=len(order),
        seconds=seconds,
        notes_per_second=len(train) / seconds,
        memory_mb=peak_memory(device),
        free_mb=_capacity(device),
        fits=fits,
        largest=None if fits else size * config.processes or None,
    )


def _fits(step: Steps, notes: np.ndarray) -> bool:
    """Whether a step on these notes can be done."""
    try:
        step(notes, step.config.learning_rate)
    except MarnError:
        step.optimiser.zero_grad()
        return False
    return True


def _seconds(step: Steps, notes: np.ndarray) -> float:
    """Time a step."""
    began = time.perf_counter()
    float(step(notes, step.config.learning_rate))  # reading the loss waits for a GPU
    return time.perf_counter() - began


def _capacity(device: torch.device) -> float | None:
    """Memory of the device in MB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e6
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
