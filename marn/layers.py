"""Building blocks shared by the systems: word embedding, exact BiGRU, label attention.

Shapes: B notes, T positions, E embedding width, D features, C codes. A mask is (B, T) bool, true
at real positions; None means that every position counts, padding included.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """Mark the real positions of a padded batch.

    Args:
        lengths: (B,) int.
        width: T, the padded length.

    Returns:
        (B, T) bool.
    """
    return torch.arange(width, device=lengths.device) < lengths[:, None]


class WordEmbedding(nn.Module):
    """Look words up, then drop features out. Row 0, the padding, is zero and stays zero.

    Args:
        vocabulary_size: rows of the table: the words, padding and the unknown word.
        size: E, the width of a word vector.
        vectors: (vocabulary_size, E) float, initial table; by default rows drawn uniformly from
            +-sqrt(3/E) and scaled to length 1, the authors' draw for the unknown word.
        tune: whether training changes the table. The authors' commands leave it frozen.
        dropout: share of features dropped after the look-up.
    """

    def __init__(
        self,
        vocabulary_size: int,
        size: int,
        *,
        vectors: Tensor | None = None,
        tune: bool = True,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if vectors is None:
            bound = (3 / size) ** 0.5
            vectors = torch.empty(vocabulary_size, size).uniform_(-bound, bound)
            vectors = F.normalize(vectors, dim=1)
            vectors[0] = 0
        self.table = nn.Embedding(vocabulary_size, size, padding_idx=0, _weight=vectors.clone())
        self.table.weight.requires_grad_(tune)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, E)."""
        return self.dropout(self.table(tokens))


class BiGRU(nn.Module):
    """One-layer bidirectional GRU, Eqs. 1-3 of MARN, exact for padded batches.

    The backward direction reads each note from its own last word: its input is reversed note by
    note with a gather, and its output gathered back. That equals a packed sequence, in time linear
    in T (packed sequences are quadratic in training on CPU). Without a mask the backward
    direction starts in the padding, as the authors' code does.

    Args:
        input_size: E.
        hidden_size: width of one direction, d_r; the output has D = 2 d_r features.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.forwards = nn.GRU(input_size, hidden_size, batch_first=True)
        self.backwards = nn.GRU(input_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, E), (B, T) -> (B, T, 2 d_r), zero at padding if there is a mask."""
        there, _ = self.forwards(x)
        if mask is None:
            back, _ = self.backwards(x.flip(1))
            return torch.cat([there, back.flip(1)], dim=2)
        steps = torch.arange(x.shape[1], device=x.device)
        reverse = torch.where(mask, mask.sum(1, keepdim=True) - 1 - steps, steps)  # (B, T)
        back, _ = self.backwards(x.gather(1, reverse[..., None].expand_as(x)))
        back = back.gather(1, reverse[..., None].expand_as(back))
        return torch.cat([there, back], dim=2) * mask[..., None]


class LabelAttention(nn.Module):
    r"""One attention and one classifier for each code of each task, Eqs. 12-15 of MARN.

    For code l with query :math:`u_l`, classifier :math:`w_l` and bias :math:`b_l`:

    .. math::
        a_l = \mathrm{softmax}_t(u_l \cdot h_t), \quad v_l = \sum_t a_{lt} h_t, \quad
        \mathrm{logit}_l = w_l \cdot v_l + b_l

    This is the sum pooling of Eq. 15 over the element-wise product of Eq. 14, the reading that the
    printed shapes force and that the released code takes (CAML's head, Mullenbach et al. 2018,
    Eqs. 3-5). All tasks share one call of scaled-dot-product attention, unscaled.

    The released code declares a bias of size C on the queries that never enters the forward pass;
    published parameter counts include it (`declared_unused`).

    Args:
        size: D, features of a position.
        tasks: number of codes of each task.
    """

    def __init__(self, size: int, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = dict(tasks)
        self.query = nn.ParameterDict()
        self.weight = nn.ParameterDict()
        self.bias = nn.ParameterDict()
        bound = size**-0.5
        for task, codes in self.tasks.items():
            self.query[task] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(codes, size)))
            self.weight[task] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(codes, size)))
            self.bias[task] = nn.Parameter(torch.empty(codes).uniform_(-bound, bound))

    @property
    def declared_unused(self) -> int:
        """Parameters that the released code declares here and never uses."""
        return sum(self.tasks.values())

    def attended(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view of the note, V of Eq. 13.

        Args:
            features: (B, T, D).
            mask: (B, T) bool or None.

        Returns:
            {task: (B, C, D)}.
        """
        queries = torch.cat([self.query[task] for task in self.tasks])  # (sum of C, D)
        queries = queries.to(features.dtype).expand(len(features), 1, -1, -1)
        keys = features[:, None]  # (B, 1, T, D)
        view = F.scaled_dot_product_attention(
            queries, keys, keys, attn_mask=None if mask is None else mask[:, None, None], scale=1.0
        )
        parts = view[:, 0].split(list(self.tasks.values()), dim=1)
        return dict(zip(self.tasks, parts, strict=True))

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Weights of Eq. 12: (B, T, D) -> (B, C, T), each row summing to 1."""
        scores = self.query[task] @ features.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], float("-inf"))
        return scores.softmax(dim=2)

    def forward(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """(B, T, D) -> logits {task: (B, C)}."""
        return {
            task: (view * self.weight[task]).sum(dim=2) + self.bias[task]
            for task, view in self.attended(features, mask).items()
        }
