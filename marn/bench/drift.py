"""How far 16-bit arithmetic drifts from 32 bits in one training step: 4 notes, 50 and 38 codes.

The same weights, notes and dropout; bf16 by autocast on this processor. fp16 needs a GPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from marn.batches import collate
from marn.bench import Bar, interleaved
from marn.bench.made_up import made_up
from marn.config import TrainConfig
from marn.models import build

BARS: list[Bar] = []  # a description, no promise
TASKS = {"icd": 50, "ccs": 38}


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the drift of loss, logits and gradients, and the speed of bf16.

    Returns:
        `loss`: relative difference; `logits`: largest difference over their standard deviation;
        `gradients`: difference of all gradients as one vector, over its norm; `worst_gradient`: the
        same of the weight where it is largest; `speed` of bf16 over fp32.
    """
    length, hidden, words = (20, 8, 200) if quick else (400, 300, 51_917)
    with tempfile.TemporaryDirectory() as folder:
        corpus = made_up(Path(folder) / "corpus", np.full(4, length), TASKS, words=words)
        model = build("marn", corpus, hidden_size=hidden)
        batch = collate(corpus["train"], np.arange(4), TASKS, length)
    config = TrainConfig.of(model)

    def step(half: bool) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(batch.tokens, batch.lengths)
        logits = {task: x.float() for task, x in logits.items()}
        loss = config.loss_of(logits, batch.targets)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return loss.item(), torch.cat(list(logits.values()), dim=1).detach(), gradients

    (loss, logits, gradients), (half_loss, half_logits, half_gradients) = step(False), step(True)
    apart = {name: (half_gradients[name] - g).norm() for name, g in gradients.items()}
    norms = {name: g.norm() for name, g in gradients.items()}
    taken = interleaved({"fp32": lambda: step(False), "bf16": lambda: step(True)})
    return {
        "loss": abs(half_loss - loss) / loss,
        "logits": float((half_logits - logits).abs().max() / logits.std()),
        "gradients": float(_length(apart) / _length(norms)),
        "worst_gradient": max(float(apart[n] / norms[n]) for n in apart if norms[n] > 0),
        "speed": taken["fp32"] / taken["bf16"],
    }


def _length(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """Norm of a vector from the norms of its parts."""
    return torch.stack(list(parts.values())).norm()
