"""The straightforward side: MARN as one would write it down first, and its training loop.

Random batches padded to their longest note, a padded bidirectional `nn.GRU`, `Conv1d` and
`BatchNorm1d` over all positions, attention in two steps with its scores held, evaluation one note
at a time. The same functions as `marn`'s, so that weights can be handed over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from marn.models import Coder


class Attention(nn.Module):
    """Label attention of one task: scores, softmax, weighted sum, each held."""

    def __init__(self, size: int, codes: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, codes, bias=False)
        self.final = nn.Linear(size, codes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, D) -> (B, C)."""
        weights = F.softmax(self.query.weight @ features.transpose(1, 2), dim=2)  # (B, C, T)
        views = weights @ features  # (B, C, D)
        return (self.final.weight * views).sum(dim=2) + self.final.bias


class _Block(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int, *, up: bool = False) -> None:
        layer: Any = nn.ConvTranspose1d if up else nn.Conv1d
        super().__init__(
            layer(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm1d(channels_out),
            nn.Tanh(),
            layer(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm1d(channels_out),
        )


class Reference(nn.Module):
    """MARN, Eqs. 1-15, without masks.

    Args:
        model: of `marn`, whose sizes and weights are taken.
    """

    def __init__(self, model: Coder) -> None:
        super().__init__()
        self.tasks, self.max_length = model.tasks, model.max_length
        ours = model.state_dict()
        hidden = ours["encoder.forwards.weight_hh_l0"].shape[1]
        table = ours["embedding.table.weight"]
        self.table = nn.Embedding(table.shape[0], table.shape[1], padding_idx=0)
        self.gru = nn.GRU(table.shape[1], hidden, batch_first=True, bidirectional=True)
        size = 2 * hidden
        self.down1 = _Block(size, size // 2)
        self.down2 = _Block(size // 2, size // 4)
        self.lateral = _Block(size // 4, size // 4)
        self.up1 = _Block(size // 4, size // 2, up=True)
        self.up2 = _Block(size // 2, size, up=True)
        self.heads = nn.ModuleDict({task: Attention(size, c) for task, c in model.tasks.items()})
        self.dropout = nn.Dropout(0.2)
        self._take(ours)

    def _take(self, ours: dict[str, Tensor]) -> None:
        mine = {"table.weight": ours["embedding.table.weight"]}
        for way, end in (("forwards", ""), ("backwards", "_reverse")):
            for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                mine[f"gru.{name}{end}"] = ours[f"encoder.{way}.{name}"]
        for block in ("down1", "down2", "lateral", "up1", "up2"):
            for half, (layer, norm) in {"first": (0, 1), "second": (3, 4)}.items():
                mine[f"{block}.{layer}.weight"] = ours[f"ram.{block}.{half}.weight"]
                for name in ("weight", "bias", "running_mean", "running_var"):
                    mine[f"{block}.{norm}.{name}"] = ours[f"ram.{block}.{half}.norm.{name}"]
        for task in self.tasks:
            mine[f"heads.{task}.query.weight"] = ours[f"head.query.{task}"]
            mine[f"heads.{task}.final.weight"] = ours[f"head.weight.{task}"]
            mine[f"heads.{task}.final.bias"] = ours[f"head.bias.{task}"]
        self.load_state_dict(mine, strict=False)  # all but the counters of the normalisations

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """(B, T) int64 -> {task: (B, C)}."""
        h = self.gru(self.dropout(self.table(tokens)))[0].transpose(1, 2)  # (B, D, T)
        d1 = self.down1(h)
        u1 = self.up1(self.lateral(self.down2(d1))) + d1
        features = self.dropout(torch.tanh(self.up2(u1) * h)).transpose(1, 2)
        return {task: head(features) for task, head in self.heads.items()}


def collate(
    notes: list[list[int]], codes: list[dict[str, list[int]]], tasks: dict[str, int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Turn lists into padded tokens (B, T) and dense targets {task: (B, C)}."""
    tokens = pad_sequence([torch.tensor(note) for note in notes], batch_first=True)
    targets = {}
    for task, count in tasks.items():
        dense = torch.zeros(len(notes), count)
        for row, mine in enumerate(codes):
            for code in mine[task]:
                dense[row, code] = 1
        targets[task] = dense
    return tokens, targets


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """MARN's loss as its authors compute it: alpha (1 - p_t)^2 BCE, mean; alpha 0.999."""
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (0.999 * (1 - torch.exp(-bce)) ** 2 * bce).mean()


class Loop:
    """Training and evaluation as one would write them first.

    Args:
        model: the network.
        notes: words of each note, as lists.
        codes: codes of each note, as lists.
        weights: of the tasks' losses.
    """

    def __init__(
        self,
        model: Reference,
        notes: list[list[int]],
        codes: list[dict[str, list[int]]],
        weights: dict[str, float],
    ) -> None:
        self.model, self.notes, self.codes, self.weights = model, notes, codes, weights
        self.optimiser = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0
        )

    def batch(self, notes: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return some notes as tokens and targets."""
        return collate(
            [self.notes[i] for i in notes], [self.codes[i] for i in notes], self.model.tasks
        )

    def loss(self, logits: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Weigh the losses of the tasks."""
        losses = [self.weights[task] * focal(x, targets[task]) for task, x in logits.items()]
        return torch.stack(losses).sum()

    def step(self, notes: list[int]) -> None:
        """Change the weights by the gradient of a batch."""
        tokens, targets = self.batch(notes)
        loss = self.loss(self.model(tokens), targets)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()

    def epoch(self, batch_size: int) -> None:
        """Train on all notes once, in random batches."""
        self.model.train()
        order = torch.randperm(len(self.notes)).tolist()
        for start in range(0, len(order), batch_size):
            self.step(order[start : start + batch_size])

    @torch.no_grad()
    def predict(self) -> dict[str, Tensor]:
        """Return the logits of all notes, {task: (N, C)}, one note at a time."""
        self.model.eval()
        rows = [self.model(torch.tensor([note])) for note in self.notes]
        return {task: torch.cat([row[task] for row in rows]) for task in self.model.tasks}
