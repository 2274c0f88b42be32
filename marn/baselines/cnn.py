"""The plain CNN that CAML was compared with: one convolution and the maximum over the note."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marn.baselines.caml import CAML
from marn.models.base import Coder
from marn.nn.convolution import Convolution
from marn.nn.heads import PooledHead
from marn.nn.layers import length_mask


class MaxPool(PooledHead):
    """Pool a note into the largest value of each feature.

    A code's attention says where those values come from. The weight of a window is proportional to
    what it adds to the code's logit through the features that have their maximum there. Features
    that count against the code are left out.

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.

    References:
        Mullenbach et al. 2018 also find the most important window of this system by the arg-max,
        but sum classifier weights; here each weight is multiplied by the feature's value.
    """

    def __init__(self, size: int, tasks: Mapping[str, int]) -> None:
        super().__init__(size, tasks)
        for weight in self.weight.values():
            nn.init.xavier_uniform_(weight)

    def _largest(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if mask is not None:
            features = features.masked_fill(~mask[..., None], float("-inf"))
        return features.max(dim=1)  # values and places, (B, D) each

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Take the maximum over the positions: (B, T, D), (B, T) -> (B, D)."""
        return self._largest(features, mask)[0]

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Weight the positions of the maxima: (B, T, D) -> (B, C, T), each row summing to 1."""
        value, place = self._largest(features, mask)
        # The floor keeps the sum at 1 for a code that no feature supports.
        share = (value[:, None] * self.weight[task]).clamp(min=1e-12)  # (B, C, D)
        share = share / share.sum(dim=2, keepdim=True)
        weights = share.new_zeros(*share.shape[:2], features.shape[1])
        return weights.scatter_add_(2, place[:, None].expand_as(share), share)


class CNN(Coder):
    """Convolution, tanh, maximum over the note, one affine layer.

    Window i covers tokens i to i + 3. A note that is shorter than the kernel is one window, padded
    with zeros.

    With 51,919 embedding rows it has 5,417,450 parameters for 50 codes and 9,861,821 for 8,921; the
    papers give no size.

    Args:
        filters: D, number of channels of the convolution; 500.
        kernel_size: number of tokens that it spans; 4.
        **shared: see `Coder`; `max_length` is 2,500 here.

    References:
        Mullenbach et al. 2018, their baseline "CNN" (after Kim 2014); sizes and settings from the
        released scripts of caml-mimic.
    """

    name = "cnn"
    takes_words = False
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **CAML.training_defaults,
        "learning_rate": 3e-3,
        "epochs": 100,
    }

    def __init__(self, *, filters: int = 500, kernel_size: int = 4, **shared: Any) -> None:
        shared.setdefault("max_length", 2500)
        super().__init__(feature_size=filters, head=MaxPool, **shared)
        self.kernel_size = kernel_size
        self.convolution = Convolution(self.embedding_size, filters, kernel_size)
        nn.init.xavier_uniform_(self.convolution.weight)

    def positions(self, lengths: Tensor) -> Tensor:
        """Count the windows inside each note, at least one: (B,) -> (B,)."""
        return (lengths - self.kernel_size + 1).clamp(min=1)

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Convolve into windows: (B, T, E) -> (B, T', D)."""
        missing = max(0, self.kernel_size - x.shape[1])
        h = torch.tanh(self.convolution(F.pad(x, (0, 0, 0, missing))))
        if mask is None:
            return h
        return h * length_mask(self.positions(mask.sum(1)), h.shape[1])[..., None]

    def positions_to_tokens(self, weights: Tensor, lengths: Tensor, width: int) -> Tensor:
        """Divide a window's weight evenly among its tokens; see `Coder`."""
        span = lengths.clamp(max=self.kernel_size)[:, None, None]
        tokens = weights.new_zeros(*weights.shape[:2], width)
        for offset in range(min(self.kernel_size, width)):
            part = torch.where(span > offset, weights / span, 0)
            tokens = tokens + F.pad(part, (offset, width - offset - part.shape[2]))
        return tokens
