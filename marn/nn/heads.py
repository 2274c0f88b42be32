"""Heads of other systems: the label attention of LAAT, and one pooled vector for all codes."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marn.nn.layers import SCORES_AT_ONCE, Head, attend, attention_weights


class TanhAttention(Head):
    r"""Label attention of LAAT, with a hidden tanh layer between features and queries.

    For code l of a task with projection P (D x A), query :math:`q_l`, classifier :math:`w_l` and
    bias :math:`b_l`:

    .. math::
        z_t = \tanh(h_t P), \quad a_l = \mathrm{softmax}_t(q_l \cdot z_t), \quad
        v_l = \sum_t a_{lt} h_t, \quad \mathrm{logit}_l = w_l \cdot v_l + b_l

    Each task has its own projection, as each level of JointLAAT does.

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.
        attention_size: A, width of the hidden layer; d_a in the paper.

    References:
        Vu, Nguyen and Nguyen 2020 (LAAT). P, q and w are drawn from a normal distribution with
        standard deviation 0.03, as in the released code aehrc/LAAT.
    """

    at_once = SCORES_AT_ONCE

    def __init__(self, size: int, tasks: Mapping[str, int], *, attention_size: int) -> None:
        super().__init__(tasks)
        self.projection = nn.ParameterDict()
        self.query = nn.ParameterDict()
        bound = size**-0.5
        for task, codes in self.tasks.items():
            self.projection[task] = nn.Parameter(torch.randn(size, attention_size) * 0.03)
            self.query[task] = nn.Parameter(torch.randn(codes, attention_size) * 0.03)
            self.weight[task] = nn.Parameter(torch.randn(codes, size) * 0.03)
            self.bias[task] = nn.Parameter(torch.empty(codes).uniform_(-bound, bound))

    def start_words(self, task: str, vectors: Tensor) -> None:
        """Initialise from word vectors, see `Head.start_words`.

        The identity is added to the projection, so that the hidden layer shows the word vectors to
        the queries, nearly unchanged because tanh(x) is about x near 0. A layer narrower than E
        shows their first A features.
        """
        size, width = len(self.projection[task]), vectors.shape[1]
        shown = min(width, self.projection[task].shape[1])
        words = slice(size - width, size)
        self.projection[task].data[words, :shown] += torch.eye(width, shown)
        self.query[task].data[:, :shown] = 2 * vectors[:, :shown]
        self.weight[task].data[:, words] = vectors

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view of the note: (B, T, D) -> {task: (B, C, D)}."""
        views = {}
        for task in self.tasks:
            keys = torch.tanh(features @ self.projection[task])  # (B, T, A)
            views[task] = attend(self.query[task], keys, features, mask, at_once=self.at_once)
        return views

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Compute each code's weights over the positions: (B, T, D) -> (B, C, T), sums of 1."""
        keys = torch.tanh(features @ self.projection[task])
        return attention_weights(self.query[task], keys, mask)


class PooledHead(Head):
    """Pool a note into one vector for all codes; each task has an affine layer on it.

    A subclass defines the pooling. The affine layers are initialised as in `nn.Linear`.

    Args:
        size: D', width of the pooled vector.
        tasks: number of codes of each task.
    """

    def __init__(self, size: int, tasks: Mapping[str, int]) -> None:
        super().__init__(tasks)
        bound = size**-0.5
        for task, codes in self.tasks.items():
            self.weight[task] = nn.Parameter(torch.empty(codes, size).uniform_(-bound, bound))
            self.bias[task] = nn.Parameter(torch.empty(codes).uniform_(-bound, bound))

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Pool the features of each note: (B, T, D), (B, T) -> (B, D')."""
        raise NotImplementedError

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code the pooled vector: (B, T, D) -> {task: (B, C, D')}."""
        pooled = self.pool(features, mask)[:, None]
        return {task: pooled.expand(-1, codes, -1) for task, codes in self.tasks.items()}

    def forward(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Compute logits: (B, T, D) -> {task: (B, C)}."""
        pooled = self.pool(features, mask)
        return {task: F.linear(pooled, self.weight[task], self.bias[task]) for task in self.tasks}
