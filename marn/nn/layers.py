"""Layers on the way from tokens to logits: embedding, BiGRU, label attention.

RAM, which is between the last two, is in `marn.nn.ram`.

Shapes: B notes, T positions, E embedding width, D features, C codes. A mask is (B, T) bool, True
at real positions; None means that every position counts, padding included.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from marn.errors import MarnError

Pooling = Literal["sum", "max", "mixed_max"]

SCORES_AT_ONCE = 2**28  # attention scores held at a time: 1 GiB in fp32


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """Mark the real positions of a padded batch.

    Args:
        lengths: (B,) int.
        width: T, the padded length.

    Returns:
        (B, T) bool.

    Example:
        >>> length_mask(torch.tensor([1, 3]), 3).int().tolist()
        [[1, 0, 0], [1, 1, 1]]
    """
    return torch.arange(width, device=lengths.device) < lengths[:, None]


class WordEmbedding(nn.Module):
    """Look up word vectors and apply dropout. Row 0, for padding, is always zero.

    Args:
        vocabulary_size: number of rows: the words, padding and the unknown word.
        size: E, the width of a word vector.
        vectors: (vocabulary_size, E) float, the initial table except for row 0. By default rows
            are drawn uniformly from ±sqrt(3/E) and scaled to length 1, as the released code draws
            the unknown word.
        tune: whether training changes the table; the released commands leave it frozen.
        dropout: dropout probability after the look-up.
    """

    def __init__(
        self,
        vocabulary_size: int,
        size: int,
        *,
        vectors: Tensor | None = None,
        tune: bool = True,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if vectors is None:
            bound = (3 / size) ** 0.5
            vectors = torch.empty(vocabulary_size, size).uniform_(-bound, bound)
            vectors = F.normalize(vectors, dim=1)
        table = vectors.detach().clone()
        table[0] = 0
        self.table = nn.Embedding(vocabulary_size, size, padding_idx=0, _weight=table)
        self.table.weight.requires_grad_(tune)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed words: (B, T) int64 -> (B, T, E)."""
        return self.dropout(self.table(tokens))


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """Take positions of each note in another order: (B, T, D), (B, T') int64 -> (B, T', D).

    Whole rows are copied: on a CPU ten times as fast as a gather, which copies numbers one by one.
    """
    first = x.shape[1] * torch.arange(len(x), device=x.device)[:, None]
    return x.flatten(0, 1).index_select(0, (first + order).flatten()).unflatten(0, order.shape)


def run_recurrent(layer: nn.GRU | nn.LSTM, x: Tensor) -> Tensor:
    """Return the states of a recurrent layer, batch first: (B, T, E) -> (B, T, H).

    On a CPU it keeps the precision of its weights under autocast: torch has no LSTM in bf16 on
    processors without AVX-512.
    """
    if x.device.type != "cpu":
        return layer(x)[0]
    with torch.autocast("cpu", enabled=False):
        return layer(x.to(layer.all_weights[0][0].dtype))[0]


class Bidirectional(nn.Module):
    """Run one recurrent layer over padded notes in both directions.

    The backward direction reads each note from its last word: its input is reversed per note, and
    its output is reversed back. This equals a packed sequence, but takes time linear in T (training
    on a CPU with packed sequences is quadratic). Without a mask the backward direction starts in
    the padding, as in the released code.

    Args:
        input_size: E, number of features per position in the input.
        hidden_size: d_r, width of one direction; the output has D = 2 d_r features.
    """

    cell: ClassVar[type[nn.GRU] | type[nn.LSTM]]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.forwards = self.cell(input_size, hidden_size, batch_first=True)
        self.backwards = self.cell(input_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode notes: (B, T, E), (B, T) -> (B, T, 2 d_r), zero at padding if masked."""
        if mask is None:
            ahead, back = self.run(x, x.flip(1))
            return torch.cat([ahead, back.flip(1)], dim=2)
        steps = torch.arange(x.shape[1], device=x.device)
        reverse = torch.where(mask, mask.sum(1, keepdim=True) - 1 - steps, steps)  # (B, T)
        ahead, back = self.run(x, reorder(x, reverse))
        return torch.cat([ahead, reorder(back, reverse)], dim=2) * mask[..., None]

    def run(self, ahead: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Run each direction on its input: (B, T, E), (B, T, E) -> (B, T, d_r), (B, T, d_r)."""
        return run_recurrent(self.forwards, ahead), run_recurrent(self.backwards, back)


class BiLSTM(Bidirectional):
    """One-layer bidirectional LSTM, the encoder of LAAT."""

    cell = nn.LSTM


class BiGRU(Bidirectional):
    """One-layer bidirectional GRU, Eqs. 1-3 of MARN."""

    cell = nn.GRU

    def run(self, ahead: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Run each direction on its input; on a CPU both run in one loop, which is faster."""
        if ahead.device.type != "cpu":
            return super().run(ahead, back)
        weights = [gru.all_weights[0] for gru in (self.forwards, self.backwards)]
        out = bidirectional_gru(torch.stack([ahead, back]), weights)
        return out[0], out[1]


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Convolve over the positions, as `conv1d` does over the last dimension, with stride 1.

    The note is treated as a channels-last image of height 1, which needs no copy and runs up to a
    quarter faster on a CPU than `conv1d` on the transposed note.

    Args:
        x: (B, T, C).
        weight: (O, C, K).
        bias: (O,).
        padding: number of zeros before the first and after the last position.
        dilation: distance between two taps of the kernel, in positions.

    Returns:
        (B, T + 2 padding - dilation (K - 1), O).
    """
    image = x.transpose(1, 2)[:, :, None]  # (B, C, 1, T)
    out = F.conv2d(image, weight[:, :, None], bias, padding=(0, padding), dilation=(1, dilation))
    return out.squeeze(2).transpose(1, 2)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, at_once: int | None
) -> Tensor:
    """Average the values under each query's unscaled softmax, in bounded memory.

    On a CPU, torch's fused kernel never holds the scores if keys and values are equally wide.
    Elsewhere it has no kernel for values this wide, so the queries are processed in parts whose
    scores the backward pass recomputes.

    Args:
        queries: (C, A).
        keys: (B, T, A).
        values: (B, T, D).
        mask: (B, T) bool, or None.
        at_once: largest number of scores held at a time where the fused kernel cannot be used (at
            least one query per note); None for all.

    Returns:
        (B, C, D).
    """
    queries = queries.to(keys.dtype)
    size = len(queries) if at_once is None else max(1, at_once // keys[..., 0].numel())
    on_cpu = keys.device.type == "cpu"
    if on_cpu and (keys.shape[2] == values.shape[2] or size >= len(queries)):
        return F.scaled_dot_product_attention(
            queries.expand(len(keys), 1, -1, -1),
            keys[:, None],
            values[:, None],
            attn_mask=None if mask is None else mask[:, None, None],
            scale=1.0,
        )[:, 0]
    if size >= len(queries):
        return attention_weights(queries, keys, mask) @ values
    parts = [
        checkpoint(lambda q: attention_weights(q, keys, mask) @ values, part, use_reentrant=False)
        for part in queries.split(size)
    ]
    return torch.cat(parts, dim=1)


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """Weigh the positions for each query, Eq. 12: (C, A), (B, T, A), (B, T) -> (B, C, T)."""
    scores = queries @ keys.transpose(1, 2)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
    return scores.softmax(dim=2)


class Head(nn.Module):
    """Turn features into logits: each code has a view v of the note, a classifier w and a bias b.

    A view is the code's own representation of the note; the logit is the dot product of view and
    classifier plus the bias. A subclass creates `weight` and `bias` for each task and defines the
    views. Its constructor takes `size`, the number D of features per position, and `tasks`.

    Args:
        tasks: number of codes of each task.
    """

    at_once: int | None = None
    """Largest number of attention scores held at a time, for heads that use `attend`; None for the
    others. A smaller number costs time, not accuracy."""

    def __init__(self, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = dict(tasks)
        self.weight = nn.ParameterDict()
        self.bias = nn.ParameterDict()

    def by_task(self, x: Tensor) -> dict[str, Tensor]:
        """Split what holds the codes of all tasks: (B, sum of C, …) -> {task: (B, C, …)}."""
        parts = x.split(list(self.tasks.values()), dim=1)
        return dict(zip(self.tasks, parts, strict=True))

    @property
    def declared_unused(self) -> int:
        """Number of parameters that the released code declares here and never uses."""
        return 0

    def start_words(self, task: str, vectors: Tensor) -> None:
        """Initialise a task's queries and classifiers from word vectors, if the head supports it.

        Args:
            task: one of `tasks`.
            vectors: v, (C, E), a vector for each code; the last E features are set to 2 v in a
                query and to v in a classifier.
        """
        raise NotImplementedError

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view of the note: (B, T, D), (B, T) -> {task: (B, C, D)}."""
        raise NotImplementedError

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Compute each code's weights over the positions: (B, T, D) -> (B, C, T), sums of 1."""
        raise NotImplementedError

    def forward(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Compute logits: (B, T, D) -> {task: (B, C)}."""
        return {
            task: (view * self.weight[task]).sum(dim=2) + self.bias[task]
            for task, view in self.label_representations(features, mask).items()
        }


class LabelAttention(Head):
    r"""Label attention, Eqs. 12-15 of MARN: one query and one classifier for each code.

    For code l with query :math:`u_l`, classifier :math:`w_l` and bias :math:`b_l`:

    .. math::
        a_l = \mathrm{softmax}_t(u_l \cdot h_t), \quad v_l = \sum_t a_{lt} h_t, \quad
        \mathrm{logit}_l = w_l \cdot v_l + b_l

    This reads Eqs. 14-15 as sum pooling over an element-wise product, which the printed shapes
    require and the released code does (CAML's head, Mullenbach et al. 2018, Eqs. 3-5). All tasks
    share one call of attention.

    The released code also declares a bias of size C on the queries that never enters the forward
    pass; published parameter counts include it (`declared_unused`).

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.
        pooling: how a view becomes a logit. `"sum"`: sum of :math:`w_l \circ v_l` over the
            features (MARN Eq. 15 and both releases). `"max"`: its largest feature (the word used in
            MT-RAM Section 3.4). `"mixed_max"`: the largest feature of row l of W V, with a C x C
            matrix W that mixes the codes (MT-RAM Eq. 11 read literally; 79.6 million weights at
            8,921 codes).

    Raises:
        MarnError: `pooling` is unknown.
    """

    at_once = SCORES_AT_ONCE

    def __init__(self, size: int, tasks: Mapping[str, int], *, pooling: Pooling = "sum") -> None:
        super().__init__(tasks)
        if pooling not in get_args(Pooling):
            raise MarnError(f"pooling must be one of {get_args(Pooling)}, but got {pooling!r}")
        self.pooling = pooling
        self.query = nn.ParameterDict()
        for task, codes in self.tasks.items():
            width = codes if pooling == "mixed_max" else size
            self.query[task] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(codes, size)))
            self.weight[task] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(codes, width)))
            bound = width**-0.5
            self.bias[task] = nn.Parameter(torch.empty(codes).uniform_(-bound, bound))

    @property
    def declared_unused(self) -> int:
        """Number of biases on the queries, one per code."""
        return sum(self.tasks.values())

    def start_words(self, task: str, vectors: Tensor) -> None:
        """Initialise from word vectors, see `Head.start_words`; only queries if `"mixed_max"`."""
        size = self.query[task].shape[1]
        words = slice(size - vectors.shape[1], size)
        self.query[task].data[:, words] = 2 * vectors
        if self.pooling != "mixed_max":  # its classifiers weight codes, not features
            self.weight[task].data[:, words] = vectors

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view of the note, V of Eq. 13: (B, T, D) -> {task: (B, C, D)}."""
        queries = torch.cat([self.query[task] for task in self.tasks])  # (sum of C, D)
        return self.by_task(attend(queries, features, features, mask, at_once=self.at_once))

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Compute each code's weights over the positions, Eq. 12: (B, T, D) -> (B, C, T)."""
        return attention_weights(self.query[task], features, mask)

    def forward(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Compute logits from the views as `pooling` says: (B, T, D) -> {task: (B, C)}."""
        if self.pooling == "sum":
            return super().forward(features, mask)
        logits = {}
        for task, view in self.label_representations(features, mask).items():
            weight = self.weight[task]
            scores = weight @ view if self.pooling == "mixed_max" else weight * view  # (B, C, D)
            logits[task] = scores.amax(dim=2) + self.bias[task]
        return logits


# --- the GRU on a CPU -----------------------------------------------------------------------------

STEPS_AT_ONCE = 32
"""Number of steps whose input products are computed at once: enough for efficient products, few
enough that the arrays fit the cache and stay below 32 MB, above which glibc maps new memory for
each array."""


def bidirectional_gru(x: Tensor, parameters: Sequence[Sequence[Tensor]]) -> Tensor:
    """Run `nn.GRU` in several directions at once, in one loop over time.

    Per step `nn.GRU` runs each direction by itself on a CPU and records a dozen operations for
    autograd. Here a step takes six operations for all directions together, and the gradient is
    written out. The results agree up to rounding; a training step of a small model takes half the
    time.

    Args:
        x: (W, B, T, E), the input of each direction, in its own reading order.
        parameters: for each direction `[weight_ih, weight_hh, bias_ih, bias_hh]` of an `nn.GRU`.

    Returns:
        (W, B, T, H), the states in the same reading order.
    """
    weights = [torch.stack(part) for part in zip(*parameters, strict=True)]
    states = _Recurrence.apply(x.transpose(1, 2), *weights, torch.is_grad_enabled())
    return states.permute(1, 2, 0, 3)


def _blocks(steps: int) -> list[slice]:
    starts = range(0, steps, STEPS_AT_ONCE)
    return [slice(start, min(start + STEPS_AT_ONCE, steps)) for start in starts]


class _Recurrence(torch.autograd.Function):
    """Compute the states of all steps, and their gradient.

    Shapes: W directions, T steps, B notes, E features, H units, S steps at once. The gates are
    those of `nn.GRU`, in its order r, z, n: r and z are sigmoids,
    n = tanh(i_n + r (h U_n + b_n)), and the new state is (1 - z) n + z h.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (W, T, B, E)
        weight_ih: Tensor,  # (W, 3H, E)
        weight_hh: Tensor,  # (W, 3H, H)
        bias_ih: Tensor,  # (W, 3H)
        bias_hh: Tensor,  # (W, 3H)
        keep: bool,  # whether a gradient will be needed
    ) -> Tensor:  # (T, W, B, H)
        ways, steps, notes, _ = x.shape
        units = weight_hh.shape[2]
        from_input, from_state = weight_ih.transpose(1, 2), weight_hh.transpose(1, 2).contiguous()
        added = bias_hh[:, None].expand(ways, notes, 3 * units)
        states = weight_hh.new_empty(steps, ways, notes, units)
        h = weight_hh.new_zeros(ways, notes, units)
        kept: list[Tensor] = []
        for block in _blocks(steps):
            # (W, S, B, 3H); autocast computes this in half precision, but not the recurrence.
            inputs = torch.baddbmm(bias_ih[:, None], x[:, block].flatten(1, 2), from_input)
            inputs = inputs.to(weight_hh.dtype).view(ways, -1, notes, 3 * units)
            # [r, z, h U_n + b_n] of each step; the sums of r and z become gates in place.
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
                states[block].unbind(0),
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
        x, weight_ih, weight_hh, states, *kept = ctx.saved_tensors
        steps, ways, notes, units = states.shape
        # A step's gradient is laid out as [n, z, r, product]: n to r belong to the inputs, z to
        # product to the states. The rows of the weights are put in the same orders.
        to_input = torch.cat(weight_ih.split(units, 1)[::-1], 1)
        r_rows, z_rows, product_rows = weight_hh.split(units, 1)
        to_state = torch.cat([z_rows, r_rows, product_rows], 1)
        d_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_input, d_state = torch.zeros_like(weight_ih), torch.zeros_like(weight_hh)
        summed = states.new_zeros(ways, 4 * units)
        carried = torch.zeros_like(states[0])
        for number, block in reversed(list(enumerate(_blocks(steps)))):
            recurrent, n = kept[2 * number : 2 * number + 2]
            r, z, hidden = recurrent.split(units, dim=3)
            start = states[block.start - 1] if block.start else torch.zeros_like(states[0])
            before = torch.cat([start[None], states[block][:-1]])
            # Factors that turn the gradient of a state into those of n and z before tanh and
            # sigmoid, and the one of n into those of r and of the product inside n.
            of_state = torch.stack([(1 - z) * (1 - n * n), (before - n) * z * (1 - z)], dim=3)
            of_n = torch.stack([hidden * r * (1 - r), r], dim=3)
            found = states.new_empty(ways, len(n), notes, 4, units)
            each = zip(
                grad[block].unbind(0),
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
            d_input.baddbmm_(of_input.transpose(1, 2), x[:, block].flatten(1, 2).to(states.dtype))
            d_state.baddbmm_(of_hidden.transpose(1, 2), before.transpose(0, 1).flatten(1, 2))
            if d_x is not None:
                d_x[:, block] = (of_input @ to_input).view_as(d_x[:, block])
        d_input = torch.cat(d_input.split(units, 1)[::-1], 1)
        z_rows, r_rows, product_rows = d_state.split(units, 1)
        d_state = torch.cat([r_rows, z_rows, product_rows], 1)
        n, z, r, product = summed.split(units, 1)
        return d_x, d_input, d_state, torch.cat([r, z, n], 1), torch.cat([r, z, product], 1), None
