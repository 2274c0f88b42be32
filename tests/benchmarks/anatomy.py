"""Where the time of one training step goes: 16 notes of 350 words, 50 and 38 codes.

Every part is run apart, forwards and then backwards from the gradient that the part above handed
down. The floor is what the multiplications of the step take at the fastest pace of the processor.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import REPEATS, Bar, peak_pace, share_of_peak
from benchmarks.made_up import made_up
from benchmarks.reference import multiplications
from marn.corpus.batches import collate
from marn.nn.layers import length_mask
from marn.registry import build
from marn.train.config import TrainConfig
from marn.train.step import TrainingStep

BARS: list[Bar] = []  # a description, no promise
TASKS = {"icd": 50, "ccs": 38}


def measure(*, quick: bool) -> dict[str, float]:
    """Measure seconds of CPU time of each part (median), of the whole step, and the floor."""
    notes, length, hidden, words = (2, 20, 8, 200) if quick else (16, 350, 300, 51_917)
    with tempfile.TemporaryDirectory() as folder:
        lengths = np.linspace(length - length // 20, length, notes).astype(int)
        corpus = made_up(Path(folder) / "corpus", lengths, TASKS, words=words)
        model = build("marn", corpus, hidden_size=hidden)
        step = TrainingStep(model, corpus["train"], TrainConfig.of(model, device="cpu"))
        places = np.arange(notes)
        step(places, 1e-3)  # the optimiser makes its state
        runs = [_parts(step, places) for _ in range(REPEATS + 2)]
        whole = []
        for _ in range(REPEATS):
            began = time.process_time()
            step(places, 1e-3)
            whole.append(time.process_time() - began)
    found = {part: median(run[part] for run in runs) for part in runs[0]}
    found["step"] = median(whole)
    words_read = int(lengths.sum())
    counted = {  # a forward and two backward products
        part: 3 * words_read * count
        for part, count in multiplications(hidden, sum(TASKS.values())).items()
    }
    found["floor"] = sum(counted.values()) / peak_pace()
    found["step_of_peak"] = share_of_peak(sum(counted.values()), found["step"])
    return found | {
        f"{part}_of_peak": share_of_peak(count, found[part]) for part, count in counted.items()
    }


def _parts(step: TrainingStep, places: np.ndarray) -> dict[str, float]:
    """Run a step part by part and return the seconds of each."""
    model, config = step.model.train(), step.config
    taken: dict[str, float] = defaultdict(float)

    def timed(part: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        taken[part] += time.process_time() - began
        return result

    batch = timed("batch", lambda: collate(step.train, places, model.tasks, model.max_length))
    mask = length_mask(batch.lengths, batch.tokens.shape[1])
    chain: list[tuple[str, Callable[[Tensor], Any]]] = [
        ("GRU", lambda x: model.encode(x, mask)),
        ("RAM", lambda h: model.ram(h, mask) if model.ram is not None else h),
        ("attention", lambda h: torch.cat(list(model.head(h, mask).values()), dim=1)),
    ]
    embedded = timed("embedding", lambda: model.embedding(batch.tokens))
    given, made = [], []
    x = embedded
    for part, work in chain:
        given.append(x.detach().requires_grad_())
        made.append(timed(part, partial(work, given[-1])))
        x = made[-1]
    logits = x.detach().requires_grad_()

    def loss() -> None:
        parts = logits.split(list(model.tasks.values()), dim=1)
        config.loss_of(dict(zip(model.tasks, parts, strict=True)), batch.targets).backward()

    timed("loss", loss)
    gradient = logits.grad
    for (part, _), start, end in reversed(list(zip(chain, given, made, strict=True))):
        timed(part, partial(end.backward, gradient))
        gradient = start.grad
    timed("embedding", lambda: embedded.backward(gradient))

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        step.optimizer.step()

    timed("clipping and AdamW", update)
    step.optimizer.zero_grad()
    return dict(taken)
