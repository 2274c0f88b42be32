"""Both directions of a GRU in one loop over time, for the CPU.

`nn.GRU` runs each direction on its own there and records a dozen operations a step for autograd.
Here a step is six operations for both directions together, and the gradient is written out by
hand. The result is the same to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_TOGETHER = 32  # steps that are worked out at once where the recurrence allows it


class _TwoWays(torch.autograd.Function):
    """The recurrence itself; W directions (two), T steps, B notes, E features, H units.

    Gates as in `nn.GRU`, in its order r, z, n: r and z are sigmoids, n = tanh(i_n + r (h U_n +
    b_n)), and the state becomes (1 - z) n + z h. What does not depend on the state before is done
    for S = 32 steps at a time: it stays in the processor's cache, and no array but the states
    grows with T in one piece, which the system would have to find anew at each call.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        keep: bool,
    ) -> Tensor:
        """Run over time.

        Args:
            ctx: what autograd keeps for `backward`.
            x: (W, T, B, E), what each direction reads.
            weight_ih: (W, 3H, E), from input to gates.
            weight_hh: (W, 3H, H), from state to gates.
            bias_ih: (W, 3H), of the former.
            bias_hh: (W, 3H), of the latter.
            keep: whether there will be a gradient.

        Returns:
            (T, W, B, H), the states.
        """
        ways, steps, notes, _ = x.shape
        units = weight_hh.shape[2]
        from_input, from_state = weight_ih.transpose(1, 2), weight_hh.transpose(1, 2).contiguous()
        added = bias_hh[:, None].expand(ways, notes, 3 * units)
        states = weight_hh.new_empty(steps, ways, notes, units)
        h = weight_hh.new_zeros(ways, notes, units)
        kept: list[Tensor] = []
        for some in _parts(steps):
            # (W, S, B, 3H); under autocast in half precision, which the recurrence is not.
            inputs = torch.baddbmm(bias_ih[:, None], x[:, some].flatten(1, 2), from_input)
            inputs = inputs.to(weight_hh.dtype).view(ways, -1, notes, 3 * units)
            # [r, z, h U_n + b_n] of each step, the sums of r and z turned into gates in place.
            recurrent = states.new_empty(inputs.shape[1], ways, notes, 3 * units)
            n = states.new_empty(inputs.shape[1], ways, notes, units)
            each = zip(
                inputs[..., : 2 * units].unbind(1),
                inputs[..., 2 * units :].unbind(1),
                recurrent.unbind(0),
                recurrent[..., : 2 * units].unbind(0),
                recurrent[..., :units].unbind(0),
                recurrent[..., units : 2 * units].unbind(0),
                recurrent[..., 2 * units :].unbind(0),
                n.unbind(0),
                states[some].unbind(0),
                strict=True,
            )
            for in_rz, in_n, at, at_rz, at_r, at_z, at_hidden, at_n, at_h in each:
                torch.baddbmm(added, h, from_state, out=at)
                at_rz.add_(in_rz).sigmoid_()
                torch.addcmul(in_n, at_r, at_hidden, out=at_n).tanh_()
                h = torch.lerp(at_n, h, at_z, out=at_h)
            if keep:
                kept += [recurrent, n]
        ctx.save_for_backward(x, weight_ih, weight_hh, states, *kept)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Run back over time: (T, W, B, H) -> gradients of the tensors of `forward`."""
        x, weight_ih, weight_hh, states, *kept = ctx.saved_tensors
        steps, ways, notes, units = states.shape
        # The gradient of a step is [n, z, r, product], n to r of the inputs, z to product of the
        # states; rows of the weights in these orders.
        to_input = torch.cat(weight_ih.split(units, 1)[::-1], 1)
        r_rows, z_rows, product_rows = weight_hh.split(units, 1)
        to_state = torch.cat([z_rows, r_rows, product_rows], 1)
        d_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_input, d_state = torch.zeros_like(weight_ih), torch.zeros_like(weight_hh)
        summed = states.new_zeros(ways, 4 * units)
        carried = torch.zeros_like(states[0])
        for number, some in reversed(list(enumerate(_parts(steps)))):
            recurrent, n = kept[2 * number : 2 * number + 2]
            r, z, hidden = recurrent.split(units, dim=3)
            start = states[some.start - 1] if some.start else torch.zeros_like(states[0])
            before = torch.cat([start[None], states[some][:-1]])
            # What turns the gradient of a state into those of n and z before their functions, and
            # that of n into those of r and of the product in n.
            of_state = torch.stack([(1 - z) * (1 - n * n), (before - n) * z * (1 - z)], dim=3)
            of_n = torch.stack([hidden * r * (1 - r), r], dim=3)
            found = states.new_empty(ways, len(n), notes, 4, units)
            each = zip(
                grad[some].unbind(0),
                z.unbind(0),
                of_state.unbind(0),
                of_n.unbind(0),
                found[..., :2, :].unbind(1),
                found[..., :1, :].unbind(1),
                found[..., 2:, :].unbind(1),
                found.flatten(3)[..., units:].unbind(1),
                strict=True,
            )
            for at, keep, by_state, by_n, at_nz, at_n, at_rp, at_zrp in reversed(list(each)):
                carried = carried + at
                torch.mul(carried[:, :, None], by_state, out=at_nz)
                torch.mul(at_n, by_n, out=at_rp)
                carried = torch.baddbmm(carried * keep, at_zrp, to_state)
            rows = found.view(ways, -1, 4 * units)
            of_input, of_hidden = rows[..., : 3 * units], rows[..., units:]
            summed += rows.sum(1)
            d_input.baddbmm_(of_input.transpose(1, 2), x[:, some].flatten(1, 2).to(states.dtype))
            d_state.baddbmm_(of_hidden.transpose(1, 2), before.transpose(0, 1).flatten(1, 2))
            if d_x is not None:
                d_x[:, some] = (of_input @ to_input).view_as(d_x[:, some])
        d_input = torch.cat(d_input.split(units, 1)[::-1], 1)
        z_rows, r_rows, product_rows = d_state.split(units, 1)
        d_state = torch.cat([r_rows, z_rows, product_rows], 1)
        n, z, r, product = summed.split(units, 1)
        return d_x, d_input, d_state, torch.cat([r, z, n], 1), torch.cat([r, z, product], 1), None


def _parts(steps: int) -> list[slice]:
    return [slice(start, min(start + _TOGETHER, steps)) for start in range(0, steps, _TOGETHER)]


def two_way_gru(x: Tensor, parameters: Sequence[Sequence[Tensor]]) -> Tensor:
    """Run a GRU over several readings of the same notes at once.

    Args:
        x: (W, B, T, E), what each direction reads, in its own order.
        parameters: for each direction `[weight_ih, weight_hh, bias_ih, bias_hh]` of an `nn.GRU`.

    Returns:
        (W, B, T, H), the states in the order that was read.
    """
    weights = [torch.stack(part) for part in zip(*parameters, strict=True)]
    states = _TwoWays.apply(x.transpose(1, 2), *weights, torch.is_grad_enabled())
    return states.permute(1, 2, 0, 3)
