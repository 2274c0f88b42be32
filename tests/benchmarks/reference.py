"""The straightforward side: `marn.plain`, with the weights of a model of the library.

The bars are set against the layout of the released code: `padding="released"`, random batches
padded to their longest note, evaluation one note at a time. `marn.plain` does all of it; here are
the names of the weights, a batch made from lists, and the count of multiplications.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from marn import plain
from marn.corpus.reading import Split
from marn.models import Coder

NAMES = {
    r"^embedding\.table\.": "embedding.",
    r"^encoder\.": "bigru.",
    r"\.first\.norm\.": ".norm1.",
    r"\.second\.norm\.": ".norm2.",
    r"\.first\.": ".conv1.",
    r"\.second\.": ".conv2.",
    r"^head\.query\.(\w+)$": r"heads.\1.query.weight",
    r"^head\.(weight|bias)\.(\w+)$": r"heads.\2.classifier.\1",
}
"""Pattern in the name of a weight of the library's MARN -> what it is in `marn.plain`."""


def plain_names(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights, or their gradients, of the library's MARN to those of `marn.plain`."""
    found = {}
    for name, value in named.items():
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found


def transplant(model: Coder, *, padding: str = "released", dropout: float = 0.2) -> plain.MARN:
    """Make a plain MARN with a copy of the weights of a MARN of the library."""
    weights = plain_names(model.state_dict())
    twin = plain.MARN(
        weights["embedding.weight"].clone(),
        dict(model.tasks),
        hidden_size=weights["bigru.forwards.weight_hh_l0"].shape[1],
        dropout=dropout,
        tune_embeddings=model.embedding.table.weight.requires_grad,
        padding=padding,
    ).to(weights["embedding.weight"].dtype)
    twin.load_state_dict(weights)
    return twin


def as_tensors(split: Split, tasks: Mapping[str, int]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the notes and targets of a split as `marn.plain` takes them."""
    notes = [torch.tensor(split.note_tokens(i), dtype=torch.int64) for i in range(len(split))]
    return notes, {task: torch.tensor(split.targets(task)).float() for task in tasks}


def collate(
    notes: list[list[int]], codes: list[dict[str, list[int]]], tasks: Mapping[str, int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Turn lists into padded tokens (B, T) and dense targets {task: (B, C)}."""
    tokens = pad_sequence([torch.tensor(note) for note in notes], batch_first=True)
    targets = {}
    for task, count in tasks.items():
        dense = torch.zeros(len(notes), count)
        for row, present in enumerate(codes):
            for code in present[task]:
                dense[row, code] = 1
        targets[task] = dense
    return tokens, targets


def multiplications(hidden: int, codes: int, embedding: int = 100) -> dict[str, int]:
    """Count the multiplications of MARN's parts for one token, forwards.

    A backward pass has twice as many.

    Args:
        hidden: features of one direction of the GRU.
        codes: of all tasks together.
        embedding: E.
    """
    size = 2 * hidden
    half, quarter = size // 2, size // 4
    widths = [(size, half), (half, half), (half, quarter), *[(quarter, quarter)] * 3]
    widths += [(quarter, half), (half, half), (half, size), (size, size)]
    return {
        "GRU": 2 * 3 * hidden * (embedding + hidden),
        "RAM": 3 * sum(a * b for a, b in widths),
        "attention": 2 * size * codes,
    }
