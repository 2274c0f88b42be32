"""Building blocks shared by the systems: embedding, exact GRU and LSTM, convolutions, heads.

Shapes: B notes, T positions, E embedding width, D features, C codes. A mask is (B, T) bool, true
at real positions; None means that every position counts, padding included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from marn.errors import MarnError
from marn.nn.recurrent import two_way_gru


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """Mark the real positions of a padded batch.

    Args:
        lengths: (B,) int.
        width: T, the padded length.

    Returns:
        (B, T) bool.
    """
    return torch.arange(width, device=lengths.device) < lengths[:, None]


class WordEmbedding(nn.Module):
    """Look words up, then drop features out. Row 0, the padding, is zero and stays zero.

    Args:
        vocabulary_size: rows of the table: the words, padding and the unknown word.
        size: E, the width of a word vector.
        vectors: (vocabulary_size, E) float, initial table, but for row 0; by default rows drawn
            uniformly from +-sqrt(3/E) and scaled to length 1, the authors' draw for the unknown
            word.
        tune: whether training changes the table. The authors' commands leave it frozen.
        dropout: share of features dropped after the look-up.
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
        """(B, T) int64 -> (B, T, E)."""
        return self.dropout(self.table(tokens))


class _Bidirectional(nn.Module):
    """One recurrent layer read both ways, exact for padded batches.

    The backward direction reads each note from its own last word: its input is reversed note by
    note with a gather, and its output gathered back. That equals a packed sequence, in time linear
    in T (packed sequences are quadratic in training on CPU). Without a mask the backward
    direction starts in the padding.
    """

    cell: ClassVar[type[nn.GRU] | type[nn.LSTM]]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.forwards = self.cell(input_size, hidden_size, batch_first=True)
        self.backwards = self.cell(input_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, E), (B, T) -> (B, T, 2 d_r), zero at padding if there is a mask."""
        if mask is None:
            there, back = self.run(x, x.flip(1))
            return torch.cat([there, back.flip(1)], dim=2)
        steps = torch.arange(x.shape[1], device=x.device)
        reverse = torch.where(mask, mask.sum(1, keepdim=True) - 1 - steps, steps)  # (B, T)
        there, back = self.run(x, x.gather(1, reverse[..., None].expand_as(x)))
        back = back.gather(1, reverse[..., None].expand_as(back))
        return torch.cat([there, back], dim=2) * mask[..., None]

    def run(self, there: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Run each direction on its input: (B, T, E), (B, T, E) -> (B, T, d_r), (B, T, d_r)."""
        return self.forwards(there)[0], self.backwards(back)[0]


class BiGRU(_Bidirectional):
    """One-layer bidirectional GRU, Eqs. 1-3 of MARN, exact for padded batches.

    It equals a packed sequence. Without a mask the backward direction starts in the padding, as
    the authors' code does.

    Args:
        input_size: E.
        hidden_size: width of one direction, d_r; the output has D = 2 d_r features.
    """

    cell = nn.GRU

    def run(self, there: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Run each direction on its input; on a CPU both in one loop, which is faster."""
        if there.device.type != "cpu":
            return super().run(there, back)
        weights = [gru.all_weights[0] for gru in (self.forwards, self.backwards)]
        out = two_way_gru(torch.stack([there, back]), weights)
        return out[0], out[1]


class BiLSTM(_Bidirectional):
    """One-layer bidirectional LSTM, the encoder of LAAT; as `BiGRU` otherwise.

    Args:
        input_size: E.
        hidden_size: width of one direction, u; the output has D = 2 u features.
    """

    cell = nn.LSTM


class _Convolved(torch.autograd.Function):
    """`conv2d` over an image of height 1, with the gradient of its weights by plain products.

    oneDNN works that gradient out at half the pace of products of matrices, and at a quarter where
    notes are long (`python -m benchmarks convolution`).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, dilation: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = padding, dilation
        return _image_convolution(x, weight, bias, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        padding, dilation = ctx.options
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                _image(gradient),
                _image(x),
                weight[:, :, None],
                None,
                [1, 1],
                [0, padding],
                [1, dilation],
                False,
                [0, 0],
                1,
                [True, False, False],
            )[0]
            of_x = of_x.squeeze(2).transpose(1, 2)
        if ctx.needs_input_grad[1]:
            out, channels, kernel = weight.shape
            taps = weight.new_zeros(kernel, out, channels)
            for place, tap in enumerate(taps):
                shift = place * dilation - padding  # position t of the result read t + shift
                begin, end = max(0, -shift), min(gradient.shape[1], x.shape[1] - shift)
                if begin < end:
                    for made, read in zip(gradient, x, strict=True):
                        tap.addmm_(made[begin:end].T, read[begin + shift : end + shift])
            of_weight = taps.permute(1, 2, 0)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 1))
        return of_x, of_weight, of_bias, None, None


def _image(x: Tensor) -> Tensor:
    """(B, T, C) seen as a channels-last image of height 1, (B, C, 1, T)."""
    return x.transpose(1, 2)[:, :, None]


def _image_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, dilation: int
) -> Tensor:
    out = F.conv2d(
        _image(x), weight[:, :, None], bias, padding=(0, padding), dilation=(1, dilation)
    )
    return out.squeeze(2).transpose(1, 2)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Convolve over the positions, as `conv1d` does over the last dimension, with stride 1.

    Args:
        x: (B, T, C).
        weight: (O, C, K).
        bias: (O,).
        padding: zeros before the first and behind the last position.
        dilation: positions from one tap to the next.

    Returns:
        (B, T + 2 padding - dilation (K - 1), O).
    """
    # Channels last: no copy, and the faster kernel.
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return _Convolved.apply(x, weight, bias, padding, dilation)
    return _image_convolution(x, weight, bias, padding, dilation)


class Convolution(nn.Conv1d):
    """`nn.Conv1d` over the positions of (B, T, C), with its arguments, weights and start."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, channels_in) -> (B, T', channels_out)."""
        padding, dilation = int(self.padding[0]), self.dilation[0]
        return convolve(x, self.weight, self.bias, padding=padding, dilation=dilation)


class ResidualConvolution(nn.Module):
    r"""Residual block of MultiResCNN, which Fusion took over.

    .. math:: \mathrm{dropout}(\tanh(N(C(\tanh(N(C(x))))) + N(S(x))))

    with convolutions C of an odd kernel, a convolution S of kernel 1, none of them with a bias, and
    normalisations N of their own.

    Args:
        channels_in: features of a position before.
        channels_out: and after.
        kernel_size: tokens that C spans; odd, so that the length is kept.
        norm: makes a normalisation, given its channels: a module of (B, T, C) and a mask that
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
            raise MarnError(f"a residual block keeps the length by odd kernels, not {kernel_size}")
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


_SCORES = 2**28  # 1 GiB in fp32

Pooling = Literal["sum", "max", "mixed_max"]


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, at_once: int | None
) -> Tensor:
    """Average values under each query's softmax over the positions, unscaled, in bounded memory.

    On a CPU torch's fused kernel never holds the scores where keys and values are equally wide.
    Elsewhere it has none for values as wide as these, so some queries are done at a time, and the
    backward pass computes their scores anew.

    Args:
        queries: (C, A).
        keys: (B, T, A).
        values: (B, T, D).
        mask: (B, T) bool, or None.
        at_once: scores held at a time, at most, where the fused kernel cannot be used; one query
            of each note is the least. None for all.

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
        return _attend(queries, keys, values, mask)
    parts = [
        checkpoint(_attend, q, keys, values, mask, use_reentrant=False) for q in queries.split(size)
    ]
    return torch.cat(parts, dim=1)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """`attend` with all scores held at once."""
    scores = queries @ keys.transpose(1, 2)  # (B, C, T)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
    return scores.softmax(dim=2) @ values


class Head(nn.Module):
    """From features to logits; code l has a view v of the note, a classifier w and a bias b.

    A subclass makes `weight` and `bias` of each task and says what the view is.

    Args:
        tasks: number of codes of each task.
    """

    at_once: int | None = None
    """Attention scores held at a time, at most, where a head uses `attend`; None elsewhere. Fewer
    cost time and no exactness."""

    def __init__(self, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = dict(tasks)
        self.weight = nn.ParameterDict()
        self.bias = nn.ParameterDict()

    @property
    def declared_unused(self) -> int:
        """Parameters that the released code declares here and never uses."""
        return 0

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view of the note.

        Args:
            features: (B, T, D).
            mask: (B, T) bool or None.

        Returns:
            {task: (B, C, D)}.
        """
        raise NotImplementedError

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Tell what each code looks at: (B, T, D) -> (B, C, T), each row summing to 1."""
        raise NotImplementedError

    def forward(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """(B, T, D) -> logits {task: (B, C)}, the product of view and classifier plus the bias."""
        return {
            task: (view * self.weight[task]).sum(dim=2) + self.bias[task]
            for task, view in self.label_representations(features, mask).items()
        }


class LabelAttention(Head):
    r"""One attention and one classifier for each code of each task, Eqs. 12-15 of MARN.

    For code l with query :math:`u_l`, classifier :math:`w_l` and bias :math:`b_l`:

    .. math::
        a_l = \mathrm{softmax}_t(u_l \cdot h_t), \quad v_l = \sum_t a_{lt} h_t, \quad
        \mathrm{logit}_l = w_l \cdot v_l + b_l

    This is the sum pooling of Eq. 15 over the element-wise product of Eq. 14, the reading that the
    printed shapes force and that the released code takes (CAML's head, Mullenbach et al. 2018,
    Eqs. 3-5). All tasks share one call of scaled-dot-product attention, unscaled.

    The released code declares a bias of size C on the queries that never enters the forward pass;
    published parameter counts include it (`declared_unused`).

    Args:
        size: D, features of a position.
        tasks: number of codes of each task.
        pooling: from a view to a logit. `"sum"`: over the features of :math:`w_l \circ v_l` (MARN
            Eq. 15 and both releases). `"max"`: the largest of them (the word in MT-RAM
            Section 3.4). `"mixed_max"`: the largest feature of row l of W V with a C x C matrix W,
            which mixes the codes (MT-RAM Eq. 11 to the letter; 79.6 million weights at 8,921
            codes).

    Raises:
        MarnError: `pooling` is unknown.
    """

    at_once = _SCORES

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

    def forward(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """(B, T, D) -> logits {task: (B, C)}, pooled from the views plus the bias."""
        if self.pooling == "sum":
            return super().forward(features, mask)
        logits = {}
        for task, view in self.label_representations(features, mask).items():
            weight = self.weight[task]
            scores = weight @ view if self.pooling == "mixed_max" else weight * view  # (B, C, D)
            logits[task] = scores.amax(dim=2) + self.bias[task]
        return logits

    @property
    def declared_unused(self) -> int:
        """Parameters that the released code declares here and never uses."""
        return sum(self.tasks.values())

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view of the note, V of Eq. 13.

        Args:
            features: (B, T, D).
            mask: (B, T) bool or None.

        Returns:
            {task: (B, C, D)}.
        """
        queries = torch.cat([self.query[task] for task in self.tasks])  # (sum of C, D)
        view = attend(queries, features, features, mask, at_once=self.at_once)
        parts = view.split(list(self.tasks.values()), dim=1)
        return dict(zip(self.tasks, parts, strict=True))

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Weights of Eq. 12: (B, T, D) -> (B, C, T), each row summing to 1."""
        scores = self.query[task] @ features.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], float("-inf"))
        return scores.softmax(dim=2)


class TanhAttention(Head):
    r"""Label attention of LAAT: each code weighs positions by a hidden layer of their features.

    For code l of a task with projection P (D x A), query :math:`q_l`, classifier :math:`w_l` and
    bias :math:`b_l`:

    .. math::
        z_t = \tanh(h_t P), \quad a_l = \mathrm{softmax}_t(q_l \cdot z_t), \quad
        v_l = \sum_t a_{lt} h_t, \quad \mathrm{logit}_l = w_l \cdot v_l + b_l

    Each task has a projection of its own, as each level of JointLAAT has.

    Args:
        size: D, features of a position.
        tasks: number of codes of each task.
        attention_size: A, d_a in the paper.

    References:
        Vu, Nguyen and Nguyen 2020 (LAAT); P, q and w start from a normal distribution of standard
        deviation 0.03, as in the released code aehrc/LAAT.
    """

    at_once = _SCORES

    def __init__(self, size: int, tasks: Mapping[str, int], *, attention_size: int) -> None:
        super().__init__(tasks)
        self.projection = nn.ParameterDict()
        self.query = nn.ParameterDict()
        bound = size**-0.5
        for task, codes in self.tasks.items():
            self.projection[task] = nn.Parameter(torch.randn(size, attention_size) * 0.03)
            self.query[task] = nn.Parameter(torch.randn(codes, attention_size) * 0.03)
            self.weight[task] = nn.Parameter(torch.randn(codes, size) * 0.03)
            self.bias[task] = nn.Parameter(torch.empty(codes).uniform_(-bound, bound))

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view of the note: (B, T, D) -> {task: (B, C, D)}."""
        views = {}
        for task in self.tasks:
            keys = torch.tanh(features @ self.projection[task])  # (B, T, A)
            views[task] = attend(self.query[task], keys, features, mask, at_once=self.at_once)
        return views

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Tell what each code looks at: (B, T, D) -> (B, C, T), each row summing to 1."""
        keys = torch.tanh(features @ self.projection[task])
        scores = self.query[task] @ keys.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], float("-inf"))
        return scores.softmax(dim=2)


class PooledHead(Head):
    """One vector of the note, the same for every code, and an affine layer for each task.

    A subclass says how features are pooled. The affine layers start as `nn.Linear` does.

    Args:
        size: D, features of a position and of the pooled vector.
        tasks: number of codes of each task.
    """

    def __init__(self, size: int, tasks: Mapping[str, int]) -> None:
        super().__init__(tasks)
        bound = size**-0.5
        for task, codes in self.tasks.items():
            self.weight[task] = nn.Parameter(torch.empty(codes, size).uniform_(-bound, bound))
            self.bias[task] = nn.Parameter(torch.empty(codes).uniform_(-bound, bound))

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D), (B, T) -> (B, D)."""
        raise NotImplementedError

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code the pooled vector: (B, T, D) -> {task: (B, C, D)}."""
        pooled = self.pool(features, mask)[:, None]
        return {task: pooled.expand(-1, codes, -1) for task, codes in self.tasks.items()}

    def forward(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """(B, T, D) -> logits {task: (B, C)}."""
        pooled = self.pool(features, mask)
        return {task: F.linear(pooled, self.weight[task], self.bias[task]) for task in self.tasks}
