"""A convolution over tokens, forwards and backwards, against torch's: 600 channels, kernel 3.

Notes as long as those of the training epoch here, and notes of MIMIC-III's full length.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import Bar, agree, interleaved
from marn.nn.layers import Convolution

BARS: list[Bar] = []  # a part of the training epoch, which has one
SHAPES = {"short": (16, 350), "long": (2, 4000)}
"""Notes and words of each."""


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the speed against `nn.Conv1d` over (B, C, T), and the seconds of each side."""
    channels = 8 if quick else 600
    torch.manual_seed(0)
    ours = Convolution(channels, channels, 3, padding=1)
    theirs = nn.Conv1d(channels, channels, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    found = {}
    for name, (notes, words) in SHAPES.items():
        x = torch.randn(notes, words // 10 if quick else words, channels, requires_grad=True)
        turned = x.detach().transpose(1, 2).contiguous().requires_grad_()
        gradient = torch.randn_like(x)
        back = gradient.transpose(1, 2).contiguous()

        def pass_of(layer: nn.Module, given: Tensor, above: Tensor) -> Callable[[], None]:
            return lambda: layer(given).backward(above)

        sides = {"ours": pass_of(ours, x, gradient), "reference": pass_of(theirs, turned, back)}
        taken = interleaved(sides, repeats=9)
        assert x.grad is not None
        assert turned.grad is not None
        agree("gradient of a convolution", x.grad, turned.grad.transpose(1, 2), 1e-3)
        found[name] = taken["reference"] / taken["ours"]
        found[f"{name}_seconds"] = taken["ours"]
        found[f"{name}_reference_seconds"] = taken["reference"]
    return found
