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

_TOGETHER = 32  # steps whose elementwise parts of the gradient are worked out at once


class _TwoWays(torch.autograd.Function):
    """The recurrence itself; W directions (two), T steps, B notes, H units, gates r, z, n.

    Gates as in `nn.GRU`: r and z are sigmoids, n = tanh(i_n + r (h U_n + b_n)), and the state
    becomes (1 - z) n + z h.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Run over time.

        Args:
            ctx: what autograd keeps for `backward`.
            inputs: (T, W, B, 3H), each step's input already multiplied by its weights.
            weight: (W, 3H, H), from state to gates.
            bias: (W, 3H), of the same.

        Returns:
            (T, W, B, H), the states.
        """
        steps, ways, notes, gates = inputs.shape
        units = gates // 3
        weight_t = weight.transpose(1, 2).contiguous()
        added = bias[:, None].expand(ways, notes, gates)
        # [r, z, h U_n + b_n] of each step, the sums of r and z turned into gates in place.
        recurrent = torch.empty_like(inputs)
        n = inputs.new_empty(steps, ways, notes, units)
        states = torch.empty_like(n)
        h = inputs.new_zeros(ways, notes, units)
        each = zip(
            inputs[..., : 2 * units].unbind(0),
            inputs[..., 2 * units :].unbind(0),
            recurrent.unbind(0),
            recurrent[..., : 2 * units].unbind(0),
            recurrent[..., :units].unbind(0),
            recurrent[..., units : 2 * units].unbind(0),
            recurrent[..., 2 * units :].unbind(0),
            n.unbind(0),
            states.unbind(0),
            strict=True,
        )
        for in_rz, in_n, at, at_rz, at_r, at_z, at_hidden, at_n, at_h in each:
            torch.baddbmm(added, h, weight_t, out=at)
            at_rz.add_(in_rz).sigmoid_()
            torch.addcmul(in_n, at_r, at_hidden, out=at_n).tanh_()
            h = torch.lerp(at_n, h, at_z, out=at_h)
        ctx.save_for_backward(states, recurrent, n, weight)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run back over time: (T, W, B, H) -> gradients of the three inputs."""
        states, recurrent, n, weight = ctx.saved_tensors
        steps, ways, notes, units = states.shape
        before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
        found = states.new_empty(steps, ways, notes, 4, units)  # n, z, r, product
        turned = torch.cat(
            [weight[:, units : 2 * units], weight[:, :units], weight[:, 2 * units :]], 1
        )
        carried = torch.zeros_like(states[0])
        # Some steps at a time, so that what they need together stays in the processor's cache.
        for start in reversed(range(0, steps, _TOGETHER)):
            some = slice(start, start + _TOGETHER)
            r, z, hidden = recurrent[some].split(units, dim=3)
            # What turns the gradient of a state into those of n and z before their functions, and
            # that of n into those of r and of the product in n.
            of_state = torch.stack(
                [(1 - z) * (1 - n[some] * n[some]), (before[some] - n[some]) * z * (1 - z)], dim=3
            )
            of_n = torch.stack([hidden * r * (1 - r), r], dim=3)
            each = zip(
                grad[some].unbind(0),
                z.unbind(0),
                of_state.unbind(0),
                of_n.unbind(0),
                found[some, ..., :2, :].unbind(0),
                found[some, ..., :1, :].unbind(0),
                found[some, ..., 2:, :].unbind(0),
                found[some, ..., 1:, :].flatten(3).unbind(0),
                strict=True,
            )
            for at, keep, by_state, by_n, at_nz, at_n, at_rp, at_zrp in reversed(list(each)):
                carried = carried + at
                torch.mul(carried[:, :, None], by_state, out=at_nz)
                torch.mul(at_n, by_n, out=at_rp)
                carried = torch.baddbmm(carried * keep, at_zrp, turned)
        d_n, d_z, d_r, d_product = found.unbind(3)
        of_gates = torch.cat([d_r, d_z, d_product], 3).transpose(0, 1)
        of_gates = of_gates.reshape(ways, steps * notes, 3 * units)
        by_way = before.transpose(0, 1).reshape(ways, steps * notes, units)
        of_inputs = torch.cat([d_r, d_z, d_n], 3)
        return of_inputs, of_gates.transpose(1, 2) @ by_way, of_gates.sum(1)


def two_way_gru(x: Tensor, parameters: Sequence[Sequence[Tensor]]) -> Tensor:
    """Run a GRU over several readings of the same notes at once.

    Args:
        x: (W, B, T, E), what each direction reads, in its own order.
        parameters: for each direction `[weight_ih, weight_hh, bias_ih, bias_hh]` of an `nn.GRU`.

    Returns:
        (W, B, T, H), the states in the order that was read.
    """
    ways, notes, steps, _ = x.shape
    weight_ih, weight_hh, bias_ih, bias_hh = (
        torch.stack(part) for part in zip(*parameters, strict=True)
    )
    read = x.transpose(1, 2).reshape(ways, steps * notes, -1)
    inputs = torch.baddbmm(bias_ih[:, None], read, weight_ih.transpose(1, 2))
    inputs = inputs.view(ways, steps, notes, -1).transpose(0, 1).contiguous()
    # Under autocast the product above is in half precision; the recurrence is not.
    states = _TwoWays.apply(inputs.to(weight_hh.dtype), weight_hh, bias_hh)
    return states.permute(1, 2, 0, 3)
