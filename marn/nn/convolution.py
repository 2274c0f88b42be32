"""Convolutions over the positions of a note."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from marn.errors import MarnError
from marn.nn.layers import convolve


class Convolution(nn.Conv1d):
    """Convolve as `nn.Conv1d`, with its arguments and initial weights, but over (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve over the positions: (B, T, channels_in) -> (B, T', channels_out)."""
        padding, dilation = int(self.padding[0]), self.dilation[0]
        return convolve(x, self.weight, self.bias, padding=padding, dilation=dilation)


class ResidualConvolution(nn.Module):
    r"""Apply two convolutions and a shortcut: the residual block of MultiResCNN and Fusion.

    .. math:: \mathrm{dropout}(\tanh(N(C(\tanh(N(C(x))))) + N(S(x))))

    Both C are convolutions with an odd kernel, S is one with kernel 1, none has a bias, and each is
    followed by its own normalisation N.

    Args:
        channels_in: number of features per position in the input.
        channels_out: number of features per position in the output.
        kernel_size: number of tokens that C spans; odd, so that the length is kept.
        norm: creates a normalisation, given the number of channels: a module that takes (B, T, C)
            and a mask and leaves padding zero, as `marn.nn.ram.TokenNorm` does.
        dropout: dropout probability at the end.

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
        """Apply the block: (B, T, channels_in) -> (B, T, channels_out), both zero where masked."""
        first, second, third = self.norms
        main = second(self.second(torch.tanh(first(self.first(x), mask))), mask)
        return self.dropout(torch.tanh(main + third(self.shortcut(x), mask)))
