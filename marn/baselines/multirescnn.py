"""MultiResCNN: convolutions of several widths, each with residual blocks, and label attention."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from marn.baselines.caml import CAML
from marn.models.base import Coder
from marn.nn.convolution import Convolution, ResidualConvolution
from marn.nn.ram import TokenNorm


class _Branch(nn.Module):
    """Convolution, tanh and residual blocks, all with the same kernel size."""

    def __init__(
        self, channels: int, widths: Sequence[int], kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.first = Convolution(channels, widths[0], kernel_size, padding=kernel_size // 2)
        nn.init.xavier_uniform_(self.first.weight)
        self.blocks = nn.ModuleList(
            ResidualConvolution(before, after, kernel_size, norm=TokenNorm, dropout=dropout)
            for before, after in pairwise(widths)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = torch.tanh(self.first(x))
        if mask is not None:
            h = h * mask[..., None]
        for block in self.blocks:
            h = block(h, mask)
        return h


class MultiResCNN(Coder):
    """Multi-filter residual CNN.

    Each kernel size has a branch: convolution, tanh, residual blocks. The branches' features are
    concatenated.

    The published size is 11.9M parameters. This system has 11,924,742 with 8,921 codes, 51,919
    embedding rows and the unused query bias. Without the embedding it has 1,392,500 for 50 codes
    and 6,732,842 for 8,921.

    Args:
        kernel_sizes: number of tokens that each branch spans, odd; 3, 5, 9, 15, 19 and 25.
        widths: number of features after the first convolution and after each residual block; 100
            and 50. The release also has deeper ones: 100, 100, 50; 100, 150, 100, 50; and 100, 200,
            150, 100, 50.
        dropout: dropout probability after each residual block; 0.2.
        **shared: see `Coder`; `max_length` is 2,500 here.

    Raises:
        MarnError: a kernel size is even.

    References:
        Li and Yu 2020; batch normalisation, dropout and settings as in the released code
        foxlf823/Multi-Filter-Residual-Convolutional-Neural-Network. With `padding="masked"` the
        statistics are over real tokens.
    """

    name = "multirescnn"
    training_defaults: ClassVar[Mapping[str, Any]] = {**CAML.training_defaults, "epochs": 500}

    def __init__(
        self,
        *,
        kernel_sizes: Sequence[int] = (3, 5, 9, 15, 19, 25),
        widths: Sequence[int] = (100, 50),
        dropout: float = 0.2,
        **shared: Any,
    ) -> None:
        shared.setdefault("max_length", 2500)
        super().__init__(feature_size=len(kernel_sizes) * widths[-1], **shared)
        self.branches = nn.ModuleList(
            _Branch(self.embedding_size, widths, size, dropout) for size in kernel_sizes
        )

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode and concatenate the branches: (B, T, E) -> (B, T, D)."""
        return torch.cat([branch(x, mask) for branch in self.branches], dim=2)
