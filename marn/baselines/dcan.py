"""DCAN: dilated causal convolutions with residual connections, and label attention."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from marn.models.base import Coder
from marn.nn.convolution import Convolution


class _CausalConvolution(nn.Module):
    """Weight-normalised convolution over the present and past tokens; then ReLU and dropout."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, dilation: int, dropout: float
    ) -> None:
        super().__init__()
        past = (kernel_size - 1) * dilation
        self.convolution = weight_norm(
            Convolution(channels_in, channels_out, kernel_size, padding=past, dilation=dilation)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve causally: (B, T, channels_in) -> (B, T, channels_out)."""
        # Padding on both sides gives more positions than tokens; the first T see only the past.
        return self.dropout(torch.relu(self.convolution(x)[:, : x.shape[1]]))


class _TemporalBlock(nn.Module):
    """Two causal convolutions and a shortcut; ReLU of their sum."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, dilation: int, dropout: float
    ) -> None:
        super().__init__()
        self.first = _CausalConvolution(channels_in, channels_out, kernel_size, dilation, dropout)
        self.second = _CausalConvolution(channels_out, channels_out, kernel_size, dilation, dropout)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = Convolution(channels_in, channels_out, 1)
            nn.init.xavier_uniform_(self.shortcut.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class DCAN(Coder):
    """Dilated convolutional attention network.

    Level i has dilation 2^i. A position sees itself and the 2 (kernel_size - 1) (2^levels - 1)
    tokens before it.

    The published size is 8.7M parameters. The released defaults are placeholders and give other
    sizes; 500 filters, 100 projected features and 2 levels are an assumption that fits: 8,698,542
    parameters with 8,921 codes, 51,919 embedding rows and the unused query bias.

    Args:
        filters: number of channels of the convolutions; 500, an assumption.
        projected: D, number of features after the affine layer that follows them; 100, an
            assumption.
        levels: number of temporal blocks; 2, an assumption.
        kernel_size: number of tokens that a convolution spans; 2 as in the release.
        dropout: dropout probability after each convolution; 0.2.
        **shared: see `Coder`; `max_length` is 2,500 here.

    References:
        Ji, Cambria and Marttinen 2020 (DCAN) and the released code shaoxiongji/DCAN. Its weight
        normalisation overwrites its Xavier initialisation of the convolutions, so they have torch's
        initial weights here. Its label smoothing is `TrainConfig(label_smoothing=0.1)`.
    """

    name = "dcan"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 1e-4,
        "clip_norm": None,
    }

    def __init__(
        self,
        *,
        filters: int = 500,
        projected: int = 100,
        levels: int = 2,
        kernel_size: int = 2,
        dropout: float = 0.2,
        **shared: Any,
    ) -> None:
        shared.setdefault("max_length", 2500)
        super().__init__(feature_size=projected, **shared)
        widths = [self.embedding_size, *[filters] * levels]
        self.blocks = nn.Sequential(
            *(
                _TemporalBlock(before, after, kernel_size, 2**level, dropout)
                for level, (before, after) in enumerate(pairwise(widths))
            )
        )
        self.projection = nn.Linear(filters, projected)
        nn.init.xavier_uniform_(self.projection.weight)

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode: (B, T, E) -> (B, T, D); padding follows all tokens, so none of them sees it."""
        h = torch.relu(self.projection(self.blocks(x)))
        return h if mask is None else h * mask[..., None]
