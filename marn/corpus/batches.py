"""Batches of notes of similar length, in an order determined by a seed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marn.corpus import Split

Order = list[NDArray[np.int64]]

POOL = 20
"""Number of batches that are sorted by length together; see `training_order`.

A larger pool needs less padding but groups the same notes together more often. With MIMIC-III's
lengths and batches of 16, a pool of 1 (random batches) pads about as much again as there is text;
at 20 padding is down to 5 %, and a larger pool saves little more."""


@dataclass(frozen=True)
class Batch:
    """Padded notes with their targets."""

    tokens: Tensor
    """(B, T) int64, padded with 0."""
    lengths: Tensor
    """(B,) int64: real tokens of each note."""
    targets: dict[str, Tensor]
    """{task: (B, C) float32, 0 or 1}."""
    notes: NDArray[np.int64]
    """(B,) indices of the notes in their split."""

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device."""
        targets = {task: target.to(device) for task, target in self.targets.items()}
        return replace(
            self, tokens=self.tokens.to(device), lengths=self.lengths.to(device), targets=targets
        )


def collate(
    split: Split, notes: NDArray[np.int64], tasks: dict[str, int], max_length: int
) -> Batch:
    """Make a batch of notes, padded to the longest of them.

    Args:
        split: the split that holds the notes.
        notes: (B,) indices in the split.
        tasks: {task: number of codes C}, the tasks that get targets.
        max_length: a longer note is truncated to this many tokens.
    """
    texts = [split.note_tokens(int(note))[:max_length] for note in notes]
    lengths = np.array([len(text) for text in texts], np.int64)
    tokens = np.zeros((len(notes), lengths.max()), np.int64)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    targets = {}
    for task, codes in tasks.items():
        dense = np.zeros((len(notes), codes), np.float32)
        for row, note in zip(dense, notes, strict=True):
            row[split.code_indices(task, int(note))] = 1
        targets[task] = torch.from_numpy(dense)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(lengths), targets, notes)


def _cut(order: NDArray[np.int64], batch_size: int) -> Order:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def training_order(
    lengths: Iterable[int], batch_size: int, *, seed: int, epoch: int, pool: int = POOL
) -> Order:
    """Shuffle notes into batches of similar length.

    The notes are shuffled and cut into pools of `pool` batches; each pool is sorted by length and
    cut into batches, whose order is shuffled again. A note is batched with others in each epoch.

    Args:
        lengths: (N,) tokens per note.
        batch_size: notes per batch; the last one may be smaller.
        seed: seed of the run.
        epoch: the same seed and epoch give the same order.
        pool: batches per pool; 1 gives random batches.

    Returns:
        The indices of the notes, batch by batch; each note once.
    """
    rng = np.random.default_rng([seed, epoch])
    sizes = np.fromiter(lengths, np.int64)
    shuffled = rng.permutation(len(sizes))
    batches = [
        batch
        for part in _cut(shuffled, batch_size * pool)
        for batch in _cut(part[np.argsort(sizes[part], kind="stable")], batch_size)
    ]
    return [batches[i] for i in rng.permutation(len(batches))]


def reading_order(lengths: Iterable[int], batch_size: int) -> Order:
    """Sort notes by length into batches, longest first, so that memory errors show at once.

    Example:
        >>> [batch.tolist() for batch in reading_order([5, 1, 9, 2], batch_size=2)]
        [[2, 0], [3, 1]]
    """
    return _cut(np.argsort(-np.fromiter(lengths, np.int64), kind="stable"), batch_size)
