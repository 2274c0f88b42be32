"""The Recalibrated Aggregation Module (RAM), Eqs. 4-11 of MARN.

It abstracts the features of a note twice, smooths them, restores their width twice, and lets the
result reweigh what came in. Only the number of channels changes, never the length.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marn import parallel
from marn.errors import MarnError
from marn.nn.layers import convolve

Fusion = Literal["multiply", "add"]
Up = Literal["deconv", "conv", "linear"]


class _Standardised(torch.autograd.Function):
    """Rows less their mean, over their deviation, where both come from the rows of all processes.

    The moments are constants where `rows_of_all` is 1 or less. Each process's gradient is that of
    the sum of all losses; it costs one sum over the processes each way.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, mean: Tensor, deviation: Tensor, rows_of_all: Tensor
    ) -> Tensor:
        out = (rows - mean) / deviation
        ctx.save_for_backward(out, deviation, rows_of_all)
        ctx.counts = not parallel.is_shadow()
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        out, deviation, rows_of_all = ctx.saved_tensors
        sums = parallel.all_reduce(torch.stack([gradient.sum(0), (gradient * out).sum(0)]))
        moved = sums / rows_of_all * (rows_of_all > 1) * ctx.counts  # (2, C)
        return (gradient - moved[0] - out * moved[1]) / deviation, None, None, None


class TokenNorm(nn.BatchNorm1d):
    """Batch normalisation of the channels over the real tokens of a batch.

    With a mask, padding neither enters the statistics nor leaves zero; without one this is
    `BatchNorm1d` over all B x T positions, as in the released code. On several devices
    (`marn.parallel`) the statistics are those of the whole batch, not of a device's share.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, C), (B, T) -> (B, T, C), zero at padding if there is a mask."""
        flat = x.reshape(-1, x.shape[2])
        if mask is None:
            return self._normalise(flat).view_as(x)
        if not self.training:
            return self._normalise(flat).view_as(x) * mask[..., None]
        rows = mask.flatten().nonzero()[:, 0]
        if len(rows) == len(flat):
            return self._normalise(flat).view_as(x)
        out = torch.zeros_like(flat)
        out[rows] = self._normalise(flat[rows]).to(flat.dtype)  # keeps nothing for the gradient
        return out.view_as(x)

    def _normalise(self, rows: Tensor) -> Tensor:
        if self.training and parallel.world_size() > 1:
            exact = rows.to(torch.promote_types(rows.dtype, torch.float32))
            return self._normalise_together(exact).to(rows.dtype)
        if len(rows) > 1 or not self.training:
            return super().forward(rows)
        # One token has no variance; it is normalised by the running statistics.
        return F.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def _normalise_together(self, rows: Tensor) -> Tensor:
        """Do the same by the moments of the rows of all processes: (n, C) -> (n, C)."""
        running_mean, running_var = self.running_mean, self.running_var
        assert running_mean is not None
        assert running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            var, mean = torch.var_mean(rows, dim=0, correction=0)  # (C,), (C,)
            size = var.new_full((1,), len(rows) * (not parallel.is_shadow()))
            found = parallel.all_gather(torch.cat([size, mean, var]))  # (P, 1 + 2 C)
            sizes, means, variances = found.split([1, len(mean), len(mean)], dim=1)
            total = sizes.sum()
            mean = (sizes * means).sum(0) / total
            squares = (sizes * (variances + (means - mean).square())).sum(0)
            # One token has no variance; it is normalised by the running statistics.
            several = total > 1
            share = self.momentum * several
            self.num_batches_tracked += several
            mean = torch.where(several, mean, running_mean)
            var = torch.where(several, squares / total, running_var)
            running_mean.lerp_(mean, share)
            running_var.lerp_(
                torch.where(several, squares / (total - 1).clamp(min=1), running_var), share
            )
            deviation = (var + self.eps).sqrt()
        return _Standardised.apply(rows, mean, deviation, total) * self.weight + self.bias


class _Convolution(nn.Module):
    """Kernel 3 over tokens, stride 1, length kept, no bias; then `TokenNorm`.

    The paper writes 3 x 3; over a sequence that is a one-dimensional kernel of 3. `transposed`
    holds the weights of a deconvolution, which with stride 1 is a convolution whose kernel is
    flipped: the same functions, another scale at the start.
    """

    def __init__(self, channels_in: int, channels_out: int, *, transposed: bool = False) -> None:
        super().__init__()
        layer = nn.ConvTranspose1d if transposed else nn.Conv1d
        self.weight = layer(channels_in, channels_out, 3, padding=1, bias=False).weight
        self.transposed = transposed
        self.norm = TokenNorm(channels_out)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, channels_in) -> (B, T, channels_out)."""
        weight = self.weight.transpose(0, 1).flip(2) if self.transposed else self.weight
        return self.norm(convolve(x, weight, padding=1), mask)


class _Block(nn.Module):
    """Convolution, normalisation, tanh, convolution, normalisation (Eqs. 4, 5 and 6).

    `transposed` says of each of the two whether it is a deconvolution.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, transposed: tuple[bool, bool] = (False, False)
    ) -> None:
        super().__init__()
        self.first = _Convolution(channels_in, channels_out, transposed=transposed[0])
        self.second = _Convolution(channels_out, channels_out, transposed=transposed[1])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.second(torch.tanh(self.first(x, mask)), mask)


class _Projection(nn.Linear):
    """A position's features restored by one matrix; without a bias, so that padding stays zero."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # type: ignore[override]
        return super().forward(x)


def _up(kind: Up, channels_in: int, channels_out: int) -> nn.Module:
    if kind == "linear":
        return _Projection(channels_in, channels_out, bias=False)
    return _Block(channels_in, channels_out, transposed=(True, kind == "deconv"))


class RecalibratedAggregation(nn.Module):
    r"""RAM: :math:`O = \mathrm{dropout}(\tanh(F_{US}(F_{US}(L_1) + D_1) \odot H))`.

    :math:`D_1 = F_{DS}(H)` (Eq. 7), :math:`D_2 = F_{DS}(D_1)` (Eq. 8), :math:`L_1 = F_{LS}(D_2)`
    (Eq. 9), :math:`U_1 = F_{US}(L_1) \oplus D_1` (Eq. 10), O by Eq. 11. Widths that do not divide
    by 4 are halved downwards and restored exactly.

    Args:
        size: D, the features of a position; 600 in the papers.
        fusion: how the last result meets H: `"multiply"` (Eq. 11) or `"add"` (MT-RAM Table 4).
        up: the up-sample blocks. `"deconv"`: two deconvolutions (the released code, MT-RAM
            Eqs. 5-7). `"conv"`: the second one is a convolution that keeps the width (Eq. 6 of
            MARN as printed); the same functions at stride 1, from another start. `"linear"`: one
            matrix instead of the block (MARN Section 3.2, footnote 2, which finds it worse).
        tanh: whether O is squashed, as Eq. 11 of the journal version and the released code have
            it; the preprint's Eq. 11 prints none.
        dropout: share dropped at the end; 0.2 in the papers.

    Raises:
        MarnError: `fusion` or `up` is unknown, or `size` < 4.
    """

    def __init__(
        self,
        size: int,
        *,
        fusion: Fusion = "multiply",
        up: Up = "deconv",
        tanh: bool = True,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if fusion not in get_args(Fusion):
            raise MarnError(f"fusion must be one of {get_args(Fusion)}, but got {fusion!r}")
        if up not in get_args(Up):
            raise MarnError(f"up must be one of {get_args(Up)}, but got {up!r}")
        if size < 4:
            raise MarnError(f"RAM needs at least 4 features to halve twice, but got {size}")
        half, quarter = size // 2, size // 4
        self.down1 = _Block(size, half)
        self.down2 = _Block(half, quarter)
        self.lateral = _Block(quarter, quarter)
        self.up1 = _up(up, quarter, half)
        self.up2 = _up(up, half, size)
        self.fusion = fusion
        self.squash = torch.tanh if tanh else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """Recalibrate the features of every position.

        Args:
            h: (B, T, D); zero at padding if there is a mask.
            mask: (B, T) bool, or None to let padding take part.

        Returns:
            (B, T, D), zero at padding if there is a mask.
        """
        d1 = self.down1(h, mask)  # (B, T, D // 2)
        d2 = self.down2(d1, mask)  # (B, T, D // 4)
        u1 = self.up1(self.lateral(d2, mask), mask) + d1  # (B, T, D // 2)
        u2 = self.up2(u1, mask)  # (B, T, D)
        return self.dropout(self.squash(u2 * h if self.fusion == "multiply" else u2 + h))
