"""How far 16-bit arithmetic drifts from 32 bits in one training step: 4 notes, 50 and 38 codes.

The same weights, notes and dropout; 16 bits by autocast on this processor. In fp16 small gradients
vanish unless the loss is scaled up before the step back, as training does: both are measured.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import Bar, interleaved
from benchmarks.made_up import made_up
from marn.corpus.batches import collate
from marn.registry import build
from marn.train.config import TrainConfig

BARS: list[Bar] = []  # a description, no promise
TASKS = {"icd": 50, "ccs": 38}
SCALE = 2.0**16
"""What the loss is multiplied with at first (`torch.amp.GradScaler`), and the gradients divided."""
WAYS = {
    "bf16": (torch.bfloat16, 1.0),
    "fp16": (torch.float16, SCALE),
    "fp16_unscaled": (torch.float16, 1.0),
}


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the drift of loss, logits and gradients in each way, and the speed of bf16.

    Returns:
        Behind the name of the way: `loss`, relative difference; `logits`, largest difference over
        their standard deviation; `gradients`, difference of all gradients as one vector, over its
        norm; `worst_gradient`, the same of the weight where it is largest. And `speed`, of bf16
        over fp32; that of fp16 on a processor without units for it says nothing.
    """
    length, hidden, words = (20, 8, 200) if quick else (400, 300, 51_917)
    with tempfile.TemporaryDirectory() as folder:
        corpus = made_up(Path(folder) / "corpus", np.full(4, length), TASKS, words=words)
        model = build("marn", corpus, hidden_size=hidden)
        batch = collate(corpus["train"], np.arange(4), TASKS, length)
    config = TrainConfig.of(model)

    def step(
        kind: torch.dtype | None, scale: float
    ) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast("cpu", kind or torch.bfloat16, enabled=kind is not None):
            logits = model(batch.tokens, batch.lengths)
        logits = {task: x.float() for task, x in logits.items()}
        loss = config.loss_of(logits, batch.targets)
        (loss * scale).backward()
        gradients = {n: p.grad / scale for n, p in model.named_parameters() if p.grad is not None}
        return loss.item(), torch.cat(list(logits.values()), dim=1).detach(), gradients

    loss, logits, gradients = step(None, 1)
    norms = {name: g.norm() for name, g in gradients.items()}
    found = {}
    for way, (kind, scale) in WAYS.items():
        half_loss, half_logits, half_gradients = step(kind, scale)
        apart = {name: (half_gradients[name] - g).norm() for name, g in gradients.items()}
        found[f"{way}_loss"] = abs(half_loss - loss) / loss
        found[f"{way}_logits"] = float((half_logits - logits).abs().max() / logits.std())
        found[f"{way}_gradients"] = float(_length(apart) / _length(norms))
        found[f"{way}_worst_gradient"] = max(
            float(apart[n] / norms[n]) for n in apart if norms[n] > 0
        )
    taken = interleaved(
        {"fp32": lambda: step(None, 1), "bf16": lambda: step(torch.bfloat16, 1)},
    )
    return {**found, "speed": taken["fp32"] / taken["bf16"]}


def _length(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """Norm of a vector from the norms of its parts."""
    return torch.stack(list(parts.values())).norm()
