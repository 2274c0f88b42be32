"""The plain GRU that CAML was compared with: the states at the two ends of a note."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from marn.baselines.cnn import CNN
from marn.models.base import Coder
from marn.nn.heads import PooledHead
from marn.nn.layers import BiGRU


class FinalStates(PooledHead):
    """Pool a note into the final state of each direction: at the last and at the first token.

    Without a mask the last token is the last position of the batch, padding included.

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.
        backwards: number of features, at the end, that belong to the backward direction.
    """

    def __init__(self, size: int, tasks: Mapping[str, int], *, backwards: int) -> None:
        super().__init__(size, tasks)
        self.split = size - backwards

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Select the final states: (B, T, D), (B, T) -> (B, D)."""
        if mask is None:
            ends = features[:, -1]
        else:
            rows = torch.arange(len(features), device=features.device)
            ends = features[rows, mask.sum(1) - 1]
        return torch.cat([ends[:, : self.split], features[:, 0, self.split :]], dim=1)


class PlainBiGRU(Coder):
    """GRU whose final states go into one affine layer; no attention.

    This is the "BiGRU" of MARN's Tables 1 and 2. MT-RAM's Table 3 has another one, with label
    attention: `bigru_la`. RAM recalibrates the states of all tokens, before the final ones are
    selected.

    With 51,919 embedding rows it has 5,767,438 parameters for 50 codes and 10,318,261 for 8,921;
    the papers give no size.

    Args:
        hidden_size: width of one direction; 256.
        bidirectional: whether to read in both directions. The released script for 50 codes omits
            this and has 512 units in one direction (6,160,654 parameters).
        **shared: see `Coder`; `max_length` is 2,500 and `embedding_dropout` 0 here.

    References:
        Mullenbach et al. 2018, their baseline "Bi-GRU"; sizes and settings from the released
        scripts of caml-mimic.
    """

    name = "bigru"
    has_attention = takes_words = False
    training_defaults = CNN.training_defaults

    def __init__(
        self, *, hidden_size: int = 256, bidirectional: bool = True, **shared: Any
    ) -> None:
        shared.setdefault("max_length", 2500)
        shared.setdefault("embedding_dropout", 0.0)
        backwards = hidden_size if bidirectional else 0
        head = partial(FinalStates, backwards=backwards)
        super().__init__(feature_size=hidden_size + backwards, head=head, **shared)
        self.encoder = (
            BiGRU(self.embedding_size, hidden_size)
            if bidirectional
            else nn.GRU(self.embedding_size, hidden_size, batch_first=True)
        )

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the states: (B, T, E) -> (B, T, D)."""
        if isinstance(self.encoder, BiGRU):
            return self.encoder(x, mask)
        states, _ = self.encoder(x)
        return states if mask is None else states * mask[..., None]
