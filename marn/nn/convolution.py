"""Convolutions over the positions of a note."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from marn.errors import MarnError
from marn.nn.layers import convolve


class Convolution(nn.Conv1d):
    """`nn.Conv1d` over the positions of (B, T, C), with its arguments, weights and start."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, channels_in) -> (B, T', channels_out)."""
        padding, dilation = int(self.padding[0]), self.dilation[0]
        return convolve(x, self.weight, self.bias, padding=padding, dilation=dilation)


class ResidualConvolution(nn.Module):
    r"""Add a shortcut to two convolutions, the residual block of MultiResCNN and Fusion.

    .. math:: \mathrm{dropout}(\tanh(N(C(\tanh(N(C(x))))) + N(S(x))))

    with convolutions C of an odd kernel, a convolution S of kernel 1, all without a bias, and a
    normalisation N for each.

    Args:
        channels_in: features of a position in the input.
        channels_out: features of a position in the output.
        kernel_size: tokens that C spans; odd, so that the length is kept.
        norm: creates a normalisation of so many channels: a module of (B, T, C) and a mask that
            leaves padding zero, as `marn.nn.ram.TokenNorm` does.
        dropout: share dropped at the end.

    Raises:
        MarnError: `kernel_size` is even.

    References:
        Li and Yu 2020 (MultiResCNN) and its released code.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        *,
        norm: Callable[[int], nn.Module],
        dropout: float,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise MarnError(f"kernel_size must be odd to keep the length, but got {kernel_size}")
        same = kernel_size // 2
        self.first = Convolution(channels_in, channels_out, kernel_size, padding=same, bias=False)
        self.second = Convolution(channels_out, channels_out, kernel_size, padding=same, bias=False)
        self.shortcut = Convolution(channels_in, channels_out, 1, bias=False)
        self.norms = nn.ModuleList([norm(channels_out) for _ in range(3)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, channels_in), zero at padding if there is a mask -> (B, T, channels_out), same."""
        first, second, third = self.norms
        main = second(self.second(torch.tanh(first(self.first(x), mask))), mask)
        return self.dropout(torch.tanh(main + third(self.shortcut(x), mask)))
