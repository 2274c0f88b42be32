"""Batch the notes that a network is to score."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from marn import parallel
from marn.corpus.batches import reading_order
from marn.models.base import Coder


def batches(
    model: Coder, notes: Sequence[NDArray[np.integer]], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Yield padded batches on the network's device; each rank gets its share of the batches.

    Args:
        model: the network, which reads the first `max_length` words of a note.
        notes: word ids of each note, at least one.
        batch_size: number of notes in a batch. A model with `padding="released"` is not
            padding-invariant and gets one note at a time, as in the authors' evaluation.

    Yields:
        The indices of B notes in `notes`, (B,); their word ids, (B, T) int64, padded with 0; and
        their lengths, (B,).
    """
    device = next(model.parameters()).device
    lengths = np.minimum([len(note) for note in notes], model.max_length)
    order = reading_order(lengths, 1 if model.padding == "released" else batch_size)
    for places in order[parallel.rank() :: parallel.world_size()]:
        some = [torch.from_numpy(notes[i][: model.max_length].astype(np.int64)) for i in places]
        tokens = pad_sequence(some, batch_first=True).to(device)
        yield places, tokens, torch.from_numpy(lengths[places]).to(device)
