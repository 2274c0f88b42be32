"""Label attention at full size: one note of 4,000 words, 8,921 and 295 codes, 600 features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import Bar, agree, interleaved, peak, share_of_peak
from marn import plain
from marn.nn.layers import LabelAttention

BARS = [
    Bar("train_memory", "memory in training", most=0.33),
    Bar("evaluation_memory", "memory in evaluation", most=0.22),
    Bar("train", "speed in training", least=1.0),
    Bar("evaluation", "speed in evaluation", least=1.3),
]


def sides(quick: bool) -> dict[str, Callable[[Tensor], list[Tensor]]]:
    """Return both heads with the same weights: features (1, T, D) -> logits of each task."""
    tasks = {"icd": 30, "ccs": 5} if quick else {"icd": 8921, "ccs": 295}
    size = 12 if quick else 600
    torch.manual_seed(0)
    ours = LabelAttention(size, tasks)
    reference = [plain.LabelAttention(size, codes) for codes in tasks.values()]
    for task, head in zip(tasks, reference, strict=True):
        with torch.no_grad():
            head.query.weight.copy_(ours.query[task])
            head.classifier.weight.copy_(ours.weight[task])
            head.classifier.bias.copy_(ours.bias[task])
    return {
        "ours": lambda features: list(ours(features, None).values()),
        "reference": lambda features: [head(features, None) for head in reference],
    }


def work(side: str, train: bool, quick: bool) -> Callable[[], None]:
    """Return one pass of one side, backwards too if `train`."""
    head = sides(quick)[side]
    features = torch.randn(1, 40 if quick else 4000, 12 if quick else 600, requires_grad=train)

    def run() -> None:
        with torch.set_grad_enabled(train):
            logits = head(features)
            if train:
                torch.stack([x.square().mean() for x in logits]).sum().backward()

    return run


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the bars, seconds and MB of each side."""
    both = sides(quick)
    features = torch.randn(1, 30, 12 if quick else 600)
    with torch.no_grad():
        results = [torch.cat(head(features), dim=1) for head in both.values()]
    agree("logits", results[0], results[1], 1e-5)
    tokens, size, codes = (40, 12, 35) if quick else (4000, 600, 9216)
    found: dict[str, float] = {}
    for name, train in (("train", True), ("evaluation", False)):
        taken = interleaved({side: work(side, train, quick) for side in both})
        held = {side: peak(work, whole=False, side=side, train=train, quick=quick) for side in both}
        found |= {
            name: taken["reference"] / taken["ours"],
            f"{name}_memory": held["ours"] / held["reference"],
            f"{name}_of_peak": share_of_peak(
                (3 if train else 1) * 2 * size * codes * tokens, taken["ours"]
            ),
            f"{name}_seconds": taken["ours"],
            f"{name}_reference_seconds": taken["reference"],
            f"{name}_mb": held["ours"],
            f"{name}_reference_mb": held["reference"],
        }
    return found
