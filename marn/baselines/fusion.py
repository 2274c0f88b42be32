"""Fusion: compressed multi-width convolutions, a transformer layer, and label attention."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marn.baselines.caml import CAML
from marn.errors import MarnError
from marn.models.base import Coder
from marn.models.segments import Segmented, cut_segments
from marn.nn.convolution import Convolution, ResidualConvolution
from marn.nn.layers import length_mask

HeadReading = Literal["standard", "released"]


class NoteNorm(nn.Module):
    """Normalise a note over its real positions and all channels, as `GroupNorm` with one group.

    Args:
        channels: C, number of features per position.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalise notes: (B, T, C), (B, T) -> (B, T, C), zero at padding if masked."""
        if mask is None:
            return F.group_norm(x.transpose(1, 2), 1, self.weight, self.bias).transpose(1, 2)
        real = mask[..., None]
        count = x.shape[2] * mask.sum(dim=1)[:, None, None]
        mean = (x * real).sum(dim=(1, 2), keepdim=True) / count
        variance = ((x - mean).square() * real).sum(dim=(1, 2), keepdim=True) / count
        return ((x - mean) * (variance + 1e-5).rsqrt() * self.weight + self.bias) * real


class PairPooling(nn.Module):
    """Replace each pair of positions by its mean, weighted by a softmax of two scores.

    A position's score is the product of its features with one vector. The last position of a note
    of odd length is paired with zeros, whose score is 0.

    Args:
        channels: C, number of features per position.

    References:
        Luo et al. 2021 and their released code, with windows of 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pool pairs: (B, T, C) -> (B, ceil(T / 2), C), zero where both positions are zero."""
        pairs = cut_segments(x, 2)  # (B, T', 2, C)
        return (self.score(pairs).softmax(dim=2) * pairs).sum(dim=2)


def sinusoids(length: int, size: int) -> Tensor:
    """Return the fixed position encodings of Vaswani et al. 2017, Section 3.5, counted from 1.

    Args:
        length: number of positions.
        size: number of features per position.

    Returns:
        (length, size) float32: sines at even features, cosines at odd ones.
    """
    places = torch.arange(1, length + 1)[:, None]
    angles = places / 10_000 ** (torch.arange(0, size, 2) / size)  # (length, ceil(size / 2))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :size]


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer network, each added to its input and then normalised.

    Args:
        size: D, number of features per position.
        heads: number of attention heads; must divide D.
        hidden_size: width of the hidden layer of the network, which has ReLU.
        reading: `"standard"`: each head is a slice of the features, and scores are divided by the
            root of its width. `"released"`: positions and features are cut into heads in memory
            order, which mixes them, and scores are divided by the root of width // 4.

    Raises:
        MarnError: `heads` does not divide `size`.

    References:
        Vaswani et al. 2017, Section 3; the released code of Luo et al. 2021.
    """

    def __init__(self, size: int, heads: int, hidden_size: int, reading: HeadReading) -> None:
        super().__init__()
        if size % heads:
            raise MarnError(f"{heads} heads do not divide {size} features; change heads or widths")
        self.heads, self.reading = heads, reading
        self.query = nn.Linear(size, size)
        # In the standard reading a bias of the keys would add a constant to a query's scores.
        self.key = nn.Linear(size, size, bias=reading == "released")
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)
        self.first = nn.Linear(size, hidden_size)
        self.second = nn.Linear(hidden_size, size)
        self.norms = nn.ModuleList([nn.LayerNorm(size), nn.LayerNorm(size)])

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, size = x.shape
        width = size // self.heads
        released = self.reading == "released"

        def cut(h: Tensor) -> Tensor:  # (B, T, D) -> (B, heads, T, width)
            if released:
                return h.reshape(batch, self.heads, length, width)
            return h.view(batch, length, self.heads, width).transpose(1, 2)

        out = F.scaled_dot_product_attention(
            cut(self.query(x)),
            cut(self.key(x)),
            cut(self.value(x)),
            attn_mask=None if mask is None else mask[:, None, None],
            scale=(width // 4 if released else width) ** -0.5,
        )
        return self.out((out if released else out.transpose(1, 2)).reshape(x.shape))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply the layer: (B, T, D), (B, T) -> (B, T, D), meaningless at padding."""
        x = self.norms[0](x + self._attend(x, mask))
        return self.norms[1](x + self.second(torch.relu(self.first(x))))


class FusionCoder(Segmented, Coder):
    """Convolutions of several widths, pooled in pairs, with residual blocks and a transformer.

    Each kernel size has a branch: convolution, tanh, `PairPooling`, residual block. The branches
    are concatenated, fixed position encodings are added, and one transformer layer, tanh and
    dropout follow. A position covers two tokens; with `word_path` it gets the sum of their vectors.

    With 51,919 embedding rows and the unused biases it has 7,563,124 parameters for 50 codes and
    12,903,466 for 8,921; the paper gives no size.

    The figures that MARN's Table 1 quotes (micro-F1 72.5) are, according to Fusion's authors, on
    other notes than the usual 50-code split, where they report 67.4.

    Args:
        kernel_sizes: number of tokens that each branch spans, odd; 3, 5, 9, 15, 19 and 25.
        widths: number of features after the convolution and after the residual block; 100 and 50.
        heads: number of attention heads of the transformer layer; 4.
        hidden_size: width of the hidden layer in the transformer layer; 1,024.
        heads_as: how features are cut into heads. `"released"` depends on the padded length and so
            needs `padding="released"`; see `TransformerLayer` for it and for `"standard"`.
        dropout: dropout probability after the transformer layer; 0.2.
        **shared: see `Coder`; `max_length` is 2,500 here.

    Raises:
        MarnError: a kernel size is even, `heads` does not divide the features, or `heads_as` does
            not fit `padding`.

    References:
        Luo et al. 2021 (Fusion); sizes, order of operations and the switches layer-norm,
        attention-pool and transformer as in the commands of the released code. It is not known here
        whether that code has dropout inside the transformer layer; this system has none.
    """

    name = "fusion"
    segment_size = 2
    training_defaults: ClassVar[Mapping[str, Any]] = {**CAML.training_defaults, "epochs": 30}

    def __init__(
        self,
        *,
        kernel_sizes: Sequence[int] = (3, 5, 9, 15, 19, 25),
        widths: tuple[int, int] = (100, 50),
        heads: int = 4,
        hidden_size: int = 1024,
        heads_as: HeadReading = "standard",
        dropout: float = 0.2,
        **shared: Any,
    ) -> None:
        shared.setdefault("max_length", 2500)
        before, after = widths
        size = len(kernel_sizes) * after
        super().__init__(feature_size=size, **shared)
        if heads_as == "released" and self.padding == "masked":
            raise MarnError("heads_as='released' depends on padding; it needs padding='released'")
        self.convolutions = nn.ModuleList()
        self.pools = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for kernel_size in kernel_sizes:
            first = Convolution(self.embedding_size, before, kernel_size, padding=kernel_size // 2)
            nn.init.xavier_uniform_(first.weight)
            self.convolutions.append(first)
            self.pools.append(PairPooling(before))
            self.blocks.append(
                ResidualConvolution(before, after, kernel_size, norm=NoteNorm, dropout=0.0)
            )
        self.transformer = TransformerLayer(size, heads, hidden_size, heads_as)
        self.dropout = nn.Dropout(dropout)

    @property
    def declared_unused(self) -> int:
        """Number of biases of the label queries and, with standard heads, of the attention keys."""
        keys = self.transformer.key
        return super().declared_unused + (keys.out_features if keys.bias is None else 0)

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode pairs of tokens: (B, T, E) -> (B, ceil(T / 2), D)."""
        halved = None
        if mask is not None:
            halved = length_mask(self.positions(mask.sum(1)), (mask.shape[1] + 1) // 2)
        branches = []
        for convolution, pool, block in zip(
            self.convolutions, self.pools, self.blocks, strict=True
        ):
            h = torch.tanh(convolution(x))
            branches.append(block(pool(h if mask is None else h * mask[..., None]), halved))
        h = torch.cat(branches, dim=2)  # (B, T', D)
        h = h + sinusoids(*h.shape[1:]).to(h)
        h = self.dropout(torch.tanh(self.transformer(h, halved)))
        return h if halved is None else h * halved[..., None]
