"""Estimate the time and memory of training on this machine from a few of its steps."""

import copy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from marn.corpus import Corpus, as_corpus
from marn.errors import MarnError
from marn.evaluation import as_coder, check_corpus
from marn.models import Coder
from marn.train.config import TrainConfig
from marn.train.memory import capacity, peak_memory
from marn.train.step import TrainingStep, epoch_batches


def estimate(
    model: Coder, corpus: Corpus | str | Path, config: TrainConfig | None = None
) -> dict[str, float]:
    """Measure a few training steps and extrapolate to an epoch.

    The first step has the longest notes, so a batch that does not fit is found at once. The time of
    an epoch is estimated from three steps of typical length, in proportion to padded tokens. With
    several devices, one is measured, with its share of each batch and without communication.

    Args:
        model: the model to train; it is left as it was.
        corpus: a corpus with the split "train" and the model's tasks.
        config: settings of the training; by default `TrainConfig.of(model)`.

    Returns:
        `steps`, the number of steps of an epoch; their `seconds`, without scoring the dev split;
        `notes_per_second`; `memory_mb`, the peak of the largest step on a CUDA device, otherwise of
        the whole process; and `capacity_mb`, the memory of the device, otherwise of the machine.

    Raises:
        MarnError: the corpus has no training notes, or lacks a task; a device is missing; or the
            largest step does not fit into its memory.
    """
    model, corpus = as_coder(model), as_corpus(corpus)
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
    return {
        "steps": len(batches),
        "seconds": seconds,
        "notes_per_second": len(train) / seconds,
        "memory_mb": peak_memory(step.fabric.device),
        "capacity_mb": capacity(step.fabric.device),
    }
