"""The Recalibrated Aggregation Module (RAM), Eqs. 4-11 of MARN.

RAM compresses the features of a note twice, smooths them, restores their width twice, and uses the
result to reweigh its input. Only the number of channels changes, never the length.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from marn import parallel
from marn.errors import MarnError
from marn.nn.layers import convolve

Fusion = Literal["multiply", "add"]
Up = Literal["deconv", "conv", "linear"]
RamStart = Literal["released", "identity"]


class TokenNorm(nn.BatchNorm1d):
    """Normalise the channels over the real tokens of a batch.

    With a mask, padding does not enter the statistics and stays zero; without one this is
    `BatchNorm1d` over all B x T positions, as in the released code. With several ranks
    (`marn.parallel`) the statistics are those of the whole batch, not of one rank's share.

    In training the moments are computed here, with sums in fp64 as in torch's kernel for
    (B, C, T). Its kernel for (N, C) sums in fp32, which loses 1.5 digits over 64,000 tokens.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise features: (B, T, C), (B, T) -> (B, T, C), zero at padding if masked."""
        rows = x.reshape(-1, x.shape[2])
        real = torch.ones_like(rows[:, :1]) if mask is None else mask.reshape(-1, 1).to(x.dtype)
        if not self.training:
            return (super().forward(rows) * real).view_as(x)
        exact = rows.to(torch.promote_types(x.dtype, torch.float32))
        moments = self._moments(exact.detach(), real)
        out = _BatchNorm.apply(exact, self.weight, self.bias, *moments, real)
        return out.to(x.dtype).view_as(x)

    @torch.no_grad()
    def _moments(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centre the rows by the mean of the real rows of all ranks; update the running moments.

        A single token has no variance: it is normalised by the running moments, which then do not
        change.

        Args:
            rows: (N, C).
            real: (N, 1), 1 for tokens and 0 for padding.

        Returns:
            The rows minus their mean (N, C), zero at padding; and in fp64 their mean (C,), the
            inverse of their standard deviation (C,), and the number of real rows of all ranks ().
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        counts = not parallel.is_shadow()  # whether this rank's rows belong to the batch
        sums = torch.cat([_column_sums(rows * real), _column_sums(real)])  # (C + 1,)
        sums = parallel.all_reduce(sums * counts)
        total = sums[-1]
        if total <= 1:
            mean, var = self.running_mean.to(sums.dtype), self.running_var.to(sums.dtype)
            centred = (rows - self.running_mean).mul_(real)
            return centred, mean, (var + self.eps).rsqrt(), total
        mean = sums[:-1] / total
        rounded = mean.to(rows.dtype)
        centred = (rows - rounded).mul_(real)
        var = parallel.all_reduce(_column_sums(centred * centred) * counts) / total
        self.num_batches_tracked += 1  # type: ignore[operator, assignment]
        self.running_mean.lerp_(rounded, self.momentum)
        self.running_var.lerp_((var * (total / (total - 1))).to(rows.dtype), self.momentum)
        return centred, mean, (var + self.eps).rsqrt(), total


def _column_sums(rows: Tensor) -> Tensor:
    """Sum over the rows: (N, C) -> (C,), in fp64 (fp32 on an MPS device).

    Blocks of 16 rows are first summed in the rows' precision, which is as exact and twice as fast.
    """
    whole = len(rows) // 16 * 16
    blocks = rows[:whole].view(whole // 16, 16, rows.shape[1]).sum(1)
    dtype = torch.float32 if rows.device.type == "mps" else torch.float64
    return blocks.sum(0, dtype=dtype) + rows[whole:].sum(0, dtype=dtype)


class _BatchNorm(torch.autograd.Function):
    """Normalise, scale and shift rows; in the gradient, the moments depend on all rows.

    Each rank's gradient is that of the sum of the losses of all ranks. Values per channel are in
    fp64, so that each element is rounded no more often than in torch's kernels.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,  # (N, C)
        weight: Tensor,  # (C,)
        bias: Tensor,  # (C,)
        centred: Tensor,  # (N, C)
        mean: Tensor,  # (C,)
        scale: Tensor,  # (C,)
        total: Tensor,  # ()
        real: Tensor,  # (N, 1)
    ) -> Tensor:  # (N, C)
        ctx.save_for_backward(weight, centred, mean, scale, total, real)
        ctx.counts = not parallel.is_shadow()
        factor = weight * scale
        shift = bias - (mean - mean.to(rows.dtype)) * factor  # `centred` used the rounded mean
        return torch.addcmul(shift.to(rows.dtype), centred, factor.to(rows.dtype)).mul_(real)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        weight, centred, mean, scale, total, real = ctx.saved_tensors
        gradient, dtype = gradient * real, gradient.dtype
        rest = mean - mean.to(dtype)
        d_bias = _column_sums(gradient)
        d_weight = (_column_sums(gradient * centred) - rest * d_bias) * scale
        factor = weight * scale
        d_rows = gradient * factor.to(dtype)
        if total > 1:  # otherwise the moments are constants
            sums = parallel.all_reduce(torch.stack([d_bias, d_weight])) / total * ctx.counts
            slope = sums[1] * scale
            shift = (sums[0] - rest * slope) * factor
            d_rows = d_rows.sub_(
                torch.addcmul(shift.to(dtype), centred, (slope * factor).to(dtype))
            )
        return (d_rows.mul_(real), d_weight.to(dtype), d_bias.to(dtype), *[None] * 5)


class ConvNorm(nn.Module):
    """Convolve over the tokens with kernel 3, stride 1 and no bias; then normalise (`TokenNorm`).

    The length stays the same. The paper prints 3 x 3; over a sequence this is a one-dimensional
    kernel of 3.

    Args:
        channels_in: number of features per position in the input.
        channels_out: number of features per position in the output.
        transposed: whether the weights are those of a deconvolution, which at stride 1 is a
            convolution with a flipped kernel: the same functions, initialised at another scale.
    """

    def __init__(self, channels_in: int, channels_out: int, *, transposed: bool = False) -> None:
        super().__init__()
        layer = nn.ConvTranspose1d if transposed else nn.Conv1d
        self.weight = layer(channels_in, channels_out, 3, padding=1, bias=False).weight
        self.transposed = transposed
        self.norm = TokenNorm(channels_out)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Convolve and normalise: (B, T, channels_in) -> (B, T, channels_out)."""
        weight = self.weight.transpose(0, 1).flip(2) if self.transposed else self.weight
        return self.norm(convolve(x, weight, padding=1), mask)


class Block(nn.Module):
    """Convolution, normalisation, tanh, convolution, normalisation (Eqs. 4, 5 and 6).

    Args:
        channels_in: number of features per position in the input.
        channels_out: number of features per position in the output.
        transposed: whether each of the two convolutions is a deconvolution.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, transposed: tuple[bool, bool] = (False, False)
    ) -> None:
        super().__init__()
        self.first = ConvNorm(channels_in, channels_out, transposed=transposed[0])
        self.second = ConvNorm(channels_out, channels_out, transposed=transposed[1])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply the block: (B, T, channels_in) -> (B, T, channels_out)."""
        return self.second(torch.tanh(self.first(x, mask)), mask)


class Projection(nn.Linear):
    """Restore the width with one matrix, without a bias so that padding stays zero."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # type: ignore[override]
        """Project features: (B, T, channels_in) -> (B, T, channels_out)."""
        return super().forward(x)


def up_block(kind: Up, channels_in: int, channels_out: int) -> nn.Module:
    """Create an up-sample block, Eq. 6.

    Args:
        kind: `up` of `RecalibratedAggregation`.
        channels_in: number of features per position in the input.
        channels_out: number of features per position in the output.
    """
    if kind == "linear":
        return Projection(channels_in, channels_out, bias=False)
    return Block(channels_in, channels_out, transposed=(True, kind == "deconv"))


class RecalibratedAggregation(nn.Module):
    r"""RAM: :math:`O = \mathrm{dropout}(\tanh(F_{US}(F_{US}(L_1) + D_1) \odot H))`.

    :math:`D_1 = F_{DS}(H)` (Eq. 7), :math:`D_2 = F_{DS}(D_1)` (Eq. 8), :math:`L_1 = F_{LS}(D_2)`
    (Eq. 9), :math:`U_1 = F_{US}(L_1) \oplus D_1` (Eq. 10), O by Eq. 11. Half of an odd width is
    rounded down; widths are restored exactly.

    Args:
        size: D, number of features per position; 600 in the papers.
        fusion: how the result is combined with H: `"multiply"` (Eq. 11) or `"add"` (MT-RAM
            Table 4).
        up: the up-sample blocks. `"deconv"`: two deconvolutions (the released code, MT-RAM
            Eqs. 5-7). `"conv"`: the second is a convolution that keeps the width (Eq. 6 of MARN as
            printed): the same functions at stride 1, initialised otherwise. `"linear"`: one matrix
            instead of the block (MARN Section 3.2, footnote 2, which reports it as worse).
        tanh: whether tanh is applied, as in Eq. 11 of the journal version and in the released code;
            the preprint's Eq. 11 has no tanh.
        dropout: dropout probability at the end; 0.2 in the papers.
        start: initial values of the last normalisation. `"released"`: weight 1 and bias 0, as in
            torch, so that O starts as noise. `"identity"`: weight 0.1, and bias 1 if the result
            multiplies H or 0 if it is added, so that O starts near tanh(H). Only the initial values
            differ; no paper has this, and it needs an `up` that ends in a normalisation.

    Raises:
        MarnError: an option is unknown, `size` < 4, or `start="identity"` with `up="linear"`.
    """

    def __init__(
        self,
        size: int,
        *,
        fusion: Fusion = "multiply",
        up: Up = "deconv",
        tanh: bool = True,
        dropout: float = 0.2,
        start: RamStart = "released",
    ) -> None:
        super().__init__()
        choices = {"fusion": (fusion, Fusion), "up": (up, Up), "start": (start, RamStart)}
        for name, (given, known) in choices.items():
            if given not in get_args(known):
                raise MarnError(f"{name} must be one of {get_args(known)}, but got {given!r}")
        if size < 4:
            raise MarnError(f"RAM needs at least 4 features to halve them twice, but got {size}")
        half, quarter = size // 2, size // 4
        self.down1 = Block(size, half)
        self.down2 = Block(half, quarter)
        self.lateral = Block(quarter, quarter)
        self.up1 = up_block(up, quarter, half)
        self.up2 = up_block(up, half, size)
        self.fusion = fusion
        self.squash = torch.tanh if tanh else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        if start == "identity":
            if not isinstance(self.up2, Block):
                raise MarnError(
                    f"start='identity' needs a normalisation at the end of RAM, but up={up!r} has "
                    "none; choose up='deconv' or 'conv'"
                )
            nn.init.constant_(self.up2.second.norm.weight, 0.1)
            nn.init.constant_(self.up2.second.norm.bias, 1.0 if fusion == "multiply" else 0.0)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """Recalibrate the features of every position.

        Args:
            h: (B, T, D); zero at padding if there is a mask.
            mask: (B, T) bool, or None to let padding take part.

        Returns:
            (B, T, D), zero at padding if there is a mask.
        """
        d1 = self.down1(h, mask)  # (B, T, D // 2), Eq. 7
        d2 = self.down2(d1, mask)  # (B, T, D // 4), Eq. 8
        l1 = self.lateral(d2, mask)  # (B, T, D // 4), Eq. 9
        u1 = self.up1(l1, mask) + d1  # (B, T, D // 2), Eq. 10
        u2 = self.up2(u1, mask)  # (B, T, D)
        return self.dropout(self.squash(u2 * h if self.fusion == "multiply" else u2 + h))  # Eq. 11
