"""The masked GRU, forwards and backwards: 8 notes of 800 words against 8 of 400."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks import Bar, agree, interleaved, share_of_peak
from benchmarks.reference import multiplications
from marn.nn.layers import BiGRU, length_mask

BARS = [Bar("growth", "time at 800 words over time at 400", most=2.2)]


def work(module: BiGRU, width: int, masked: bool) -> Callable[[], object]:
    """Return a pass over 8 notes of up to `width` words, and back."""
    x = torch.randn(8, width, module.forwards.input_size)
    mask = length_mask(torch.linspace(width // 2, width, 8).long(), width) if masked else None
    return lambda: module(x, mask).square().mean().backward()


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the bar, and the speed against torch's packed sequences."""
    short, hidden, inputs = (20, 4, 3) if quick else (400, 300, 100)
    torch.manual_seed(0)
    ours = BiGRU(inputs, hidden)
    theirs = nn.GRU(inputs, hidden, batch_first=True, bidirectional=True)
    for name, weight in ours.forwards.named_parameters():
        getattr(theirs, name).data.copy_(weight)
    for name, weight in ours.backwards.named_parameters():
        getattr(theirs, f"{name}_reverse").data.copy_(weight)
    x = torch.randn(8, short, inputs)
    lengths = torch.linspace(short // 2, short, 8).long()

    def packed() -> torch.Tensor:
        sequence = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(theirs(sequence)[0], batch_first=True)[0]

    agree("states", ours(x, length_mask(lengths, short)), packed(), 1e-5)
    taken = interleaved(
        {
            "short": work(ours, short, True),
            "long": work(ours, 2 * short, True),
            "packed": lambda: packed().square().mean().backward(),
        },
        repeats=5,
    )
    counted = 3 * multiplications(hidden, 0, inputs)["GRU"] * int(lengths.sum())
    return {
        "growth": taken["long"] / taken["short"],
        "over_packed": taken["packed"] / taken["short"],
        "of_peak": share_of_peak(counted, taken["short"]),
        "short_seconds": taken["short"],
        "long_seconds": taken["long"],
        "packed_seconds": taken["packed"],
    }
