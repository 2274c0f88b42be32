"""CAML: one convolution and label attention."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from marn.models.base import Coder
from marn.nn.layers import length_mask


class CAML(Coder):
    """Convolutional Attention for Multi-Label classification.

    The published size is 6.2M parameters. This system has 6,151,892 with 8,921 codes, 51,919
    embedding rows and the unused query bias, and 6,142,971 without that bias.

    The kernel is even and padded by half its size on both sides, so that a note of n tokens has
    n + 1 positions: position i covers tokens i - 5 to i + 4.

    Args:
        filters: D, number of channels of the convolution; 50.
        kernel_size: number of tokens that it spans; 10.
        **shared: see `Coder`; `max_length` is 2,500 here.

    References:
        Mullenbach et al. 2018, Eqs. 1-5 and Table 2; released scripts of caml-mimic.
    """

    name = "caml"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 1e-4,
        "clip_norm": None,
        "epochs": 200,
    }

    def __init__(self, *, filters: int = 50, kernel_size: int = 10, **shared: Any) -> None:
        shared.setdefault("max_length", 2500)
        super().__init__(feature_size=filters, **shared)
        self.surplus = 2 * (kernel_size // 2) - kernel_size + 1
        self.convolution = nn.Conv1d(
            self.embedding_size, filters, kernel_size, padding=kernel_size // 2
        )
        nn.init.xavier_uniform_(self.convolution.weight)

    def positions(self, lengths: Tensor) -> Tensor:
        """Count positions, one more than tokens with an even kernel: (B,) -> (B,)."""
        return lengths + self.surplus

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Convolve, with an even kernel: (B, T, E) -> (B, T + 1, D); with an odd one (B, T, D)."""
        h = torch.tanh(self.convolution(x.transpose(1, 2))).transpose(1, 2)
        if mask is None:
            return h
        return h * length_mask(self.positions(mask.sum(1)), h.shape[1])[..., None]
