"""GatedCNN-NCI after Ji et al. 2021: gated convolutions, and messages between note and codes."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marn.models.base import Coder
from marn.nn.layers import LabelAttention, attention_weights, convolve
from marn.reconstructions import ASSUMED


class GatedPropagation(nn.Module):
    r"""Dilated causal convolutions with the gates of an LSTM and the same weights at all levels.

    Level i looks back in steps of :math:`2^i` tokens, and reads the words x again. With hidden
    states z and cells c of the level below, zero below the first:

    .. math::
        [i, o, g, f] &= \mathrm{conv}_{2^i}([x; z]) \\
        c'_t &= \sigma(f_t)\, c_{t - 2^i} + \sigma(i_t) \tanh(g_t) \\
        z'_t &= \sigma(o_t) \tanh(c'_t)

    With a kernel of 2 a position sees itself and the 2^levels - 1 tokens before it.

    Args:
        size: E, width of a word vector.
        hidden_size: h, width of the states.
        kernel_size: number of tokens that a convolution spans.
        levels: number of times that the weights are applied.
    """

    def __init__(self, size: int, hidden_size: int, kernel_size: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.weight = nn.Parameter(torch.randn(4 * hidden_size, size + hidden_size, kernel_size))
        self.weight.data.mul_(0.01)
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve level by level: (B, T, E) -> (B, T, h)."""
        hidden, kernel = self.weight.shape[0] // 4, self.weight.shape[2]
        cell = state = x.new_zeros(*x.shape[:2], hidden)
        for level in range(self.levels):
            step = 2**level
            seen = F.pad(torch.cat([x, state], dim=2), (0, 0, step * (kernel - 1), 0))
            gates = convolve(seen, self.weight, self.bias, dilation=step)
            inner, outer, new, keep = gates.chunk(4, dim=2)
            before = F.pad(cell, (0, 0, step, 0))[:, : x.shape[1]]
            cell = torch.sigmoid(keep) * before + torch.sigmoid(inner) * torch.tanh(new)
            state = torch.sigmoid(outer) * torch.tanh(cell)
        return state


class NoteCodeInteraction(LabelAttention):
    r"""Label attention after positions and codes have exchanged messages.

    The codes of all tasks and the positions of a note are the two sides of a graph. Code l starts
    as its query :math:`e_l`, position t as its features :math:`h_t`. In a round, with
    :math:`a = \mathrm{softmax}_t(e_l \cdot h_t)`:

    .. math::
        e'_l = \mathrm{ReLU}\left(P \left[e_l; \sum_t a_{lt} h_t\right] + p\right), \quad
        h'_t = h_t + Q \frac{\sum_l a_{lt} e'_l}{\sum_l a_{lt}} + q

    Logits are those of `LabelAttention` with the last :math:`e_l` as queries. All rounds share P
    and Q. Each round holds the scores of all codes and positions in memory.

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.
        rounds: number of rounds of messages; 0 makes it `LabelAttention`.
        told: number of leading features that messages consist of and change; all by default. The
            rest, which `word_path` adds, only contribute to the weights a.
    """

    def __init__(
        self, size: int, tasks: Mapping[str, int], *, rounds: int, told: int | None = None
    ) -> None:
        super().__init__(size, tasks)
        self.rounds, self.told = rounds, told or size
        if rounds:
            self.to_codes = nn.Linear(2 * self.told, self.told)
            self.to_positions = nn.Linear(self.told, self.told)

    def interact(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Exchange the messages.

        Args:
            features: (B, T, D), zero at padding if there is a mask.
            mask: (B, T) bool or None.

        Returns:
            The codes of all tasks (B, sum of C, D), and the positions (B, T, D), zero at padding if
            there is a mask.
        """
        codes = torch.cat([self.query[task] for task in self.tasks]).expand(len(features), -1, -1)
        code, code_words = codes.tensor_split([self.told], dim=2)
        place, words = features.tensor_split([self.told], dim=2)
        for _ in range(self.rounds):
            weights = attention_weights(codes, features, mask)  # (B, sum of C, T)
            code = torch.relu(self.to_codes(torch.cat([code, weights @ place], dim=2)))
            share = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
            place = place + self.to_positions(share.transpose(1, 2) @ code)
            if mask is not None:
                place = place * mask[..., None]
            codes = torch.cat([code, code_words], dim=2)
            features = torch.cat([place, words], dim=2)
        return codes, features

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view of the note: (B, T, D) -> {task: (B, C, D)}."""
        if not self.rounds:
            return super().label_representations(features, mask)
        codes, features = self.interact(features, mask)
        return self.by_task(attention_weights(codes, features, mask) @ features)

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Compute each code's weights after the last round: (B, T, D) -> (B, C, T)."""
        codes, features = self.interact(features, mask)
        return attention_weights(self.by_task(codes)[task], features, mask)


class GatedCNNNCI(Coder):
    """Gated convolutional network with note-code interaction, after Ji et al. 2021.

    This is a reconstruction: no code was released, and only the paper's abstract and the authors'
    slides were read. They say that word embeddings are injected into every level, that information
    passes through gates, that levels share weights, that notes and codes exchange messages over a
    graph, and that there are 7.6M parameters. Everything else is an assumption: the gates of a
    trellis network (Bai et al. 2019), causal convolutions as in DCAN by the same first author,
    positions as the graph's note nodes, messages by label attention, and all sizes.

    The published size of 7.6M fits 120 hidden features and kernels of 2, with 8,921 codes, 51,919
    embedding rows and the unused query bias: 7,605,902, of which 43,440 are for the messages. Other
    sizes may fit as well.

    Args:
        hidden_size: h, width of the gated convolutions; 120, fitted.
        kernel_size: number of tokens that a convolution spans; 2, fitted.
        levels: number of levels of the convolutions; 6, an assumption.
        rounds: number of rounds of messages between note and codes; 1, an assumption. 0 leaves
            messages out.
        dropout: dropout probability of the encoder's features; 0.2, an assumption.
        **shared: see `Coder`; `max_length` is 2,500 here.

    References:
        Ji, Pan and Marttinen 2021 (Findings of ACL), abstract; "Deep Learning for Automated Medical
        Coding" (slides, 2022), parameter table. Training settings are those of DCAN's release.
    """

    name = "gatedcnn_nci"
    training_defaults = ASSUMED

    def __init__(
        self,
        *,
        hidden_size: int = 120,
        kernel_size: int = 2,
        levels: int = 6,
        rounds: int = 1,
        dropout: float = 0.2,
        **shared: Any,
    ) -> None:
        shared.setdefault("max_length", 2500)
        head = partial(NoteCodeInteraction, rounds=rounds, told=hidden_size)
        super().__init__(feature_size=hidden_size, head=head, **shared)
        self.encoder = GatedPropagation(self.embedding_size, hidden_size, kernel_size, levels)
        self.dropout = nn.Dropout(dropout)

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode: (B, T, E) -> (B, T, h); padding follows all tokens, so none of them sees it."""
        h = self.dropout(self.encoder(x))
        return h if mask is None else h * mask[..., None]
