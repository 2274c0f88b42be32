"""Cut notes into segments of equal length, of which the last may be shorter."""

import torch
from torch import Tensor
from torch.nn import functional as F

from marn.nn.layers import length_mask


class Segmented:
    """Mix-in for a system whose positions are segments of `segment_size` tokens."""

    segment_size: int

    def positions(self, lengths: Tensor) -> Tensor:
        """Count the segments of notes of these lengths: (B,) -> (B,)."""
        return (lengths + self.segment_size - 1) // self.segment_size

    def join_words(self, h: Tensor, x: Tensor) -> Tensor:
        """Concatenate segments and sums of their words: (B, S, D), (B, T, E) -> (B, S, D + E)."""
        return torch.cat([h, cut_segments(x, self.segment_size).sum(dim=2)], dim=2)

    def positions_to_tokens(self, weights: Tensor, lengths: Tensor, width: int) -> Tensor:
        """Divide the weight of each segment evenly among its tokens; see `Coder`."""
        size = self.segment_size
        starts = torch.arange(weights.shape[2], device=weights.device) * size
        tokens = (lengths[:, None] - starts).clamp(1, size)  # (B, S)
        shares = (weights / tokens[:, None]).repeat_interleave(size, dim=2)[:, :, :width]
        return shares * length_mask(lengths, width)[:, None]


def cut_segments(x: Tensor, size: int) -> Tensor:
    """Cut rows into consecutive segments, the last one padded with zeros.

    Args:
        x: (B, T) or (B, T, E).
        size: w, number of positions in a segment.

    Returns:
        (B, ceil(T / w), w) or (B, ceil(T / w), w, E).
    """
    fill = (0, 0) * (x.dim() - 2) + (0, -x.shape[1] % size)
    return F.pad(x, fill).unflatten(1, (-1, size))
