"""ClinicalBERT as a coder: the last window of a note through BERT, and [CLS] into one layer."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from marn.nn.heads import PooledHead
from marn.nn.layers import length_mask, reorder
from marn.transformers.base import TransformerCoder

Reading = Literal["state", "pooled"]


class FirstPosition(PooledHead):
    """The features of [CLS], through a narrow layer if asked to.

    Args:
        bottleneck: features of the narrow layer; None for none.
        dropout: share dropped after it.
    """

    def __init__(
        self, size: int, tasks: Mapping[str, int], *, bottleneck: int | None, dropout: float
    ) -> None:
        super().__init__(bottleneck or size, tasks)
        self.narrow: nn.Module = nn.Identity()
        if bottleneck:
            self.narrow = nn.Sequential(nn.Linear(size, bottleneck), nn.Dropout(dropout))

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D), (B, T) -> (B, D), or (B, bottleneck)."""
        return self.narrow(features[:, 0])


class ClinicalBERT(TransformerCoder):
    """One window of a note through BERT, and one vector of it into an affine layer.

    The window is [CLS], the last 510 of the note's first `max_length` pieces, and [SEP]: as many
    positions as BERT has. A RAM recalibrates the states of all positions, before [CLS]'s is chosen.
    "ClinicalBERT" is the name of the weights of `pretrained="emilyalsentzer/Bio_ClinicalBERT"`;
    without them this is its architecture.

    The released code masks padding, so `padding="released"` changes nothing.

    Parameters with BERT-base, the 28,996 pieces of its cased vocabulary and the pooler, which the
    release declares and does not use: 108,348,722 with 50 codes, 115,170,521 with 8,921. The slides
    print 113.8M, 1.2 % less; no number of codes in use gives that, and with the bottleneck the
    count is 108,803,693.

    Args:
        read_as: `"state"`: the last layer's state at [CLS] goes into the affine layer, the reading
            of MARN's repository. `"pooled"`: that state goes through BERT's pooler and a layer of
            `bottleneck` features first, the reading of MultiResCNN's.
        bottleneck: features of the narrow layer of `"pooled"`; 50.
        window: pieces of the window; 510.
        **shared: see `TransformerCoder` and `Coder`; `max_length` is 2,498 here, 2,500 with [CLS]
            and [SEP].

    References:
        Alsentzer et al. 2019 (the weights); the BERT classes in the released code of MARN and
        MultiResCNN (the rest). New layers start as `nn.Linear` does, as in MARN's repository, whose
        own initialisation runs before they exist.
    """

    name = "clinicalbert"
    has_attention = takes_words = False
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 2e-5,  # the least of BERT's three, 2e-5, 3e-5 and 5e-5
        "schedule": "linear",
        "warmup": 0.1,
    }

    def __init__(
        self, *, read_as: Reading = "state", bottleneck: int = 50, window: int = 510, **shared: Any
    ) -> None:
        shared.setdefault("max_length", 2498)
        pooled = read_as == "pooled"
        head = partial(FirstPosition, bottleneck=bottleneck if pooled else None, dropout=0.1)
        super().__init__(head, pooled, **shared)
        self.check_window(window, marks=2)
        self.window = window
        self.pooled = pooled
        self.padding = "masked"  # what the release does

    @property
    def declared_unused(self) -> int:
        """BERT's pooler, a square affine layer, where it is not read."""
        size = self.transformer.config.hidden_size
        return super().declared_unused + (0 if self.pooled else size * size + size)

    def positions(self, lengths: Tensor) -> Tensor:
        """Pieces of the window, [CLS] and [SEP]."""
        return lengths.clamp(max=self.window) + 2

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, P, E) -> (B, min(P, 510) + 2, D), [CLS] first."""
        assert mask is not None  # it packs
        sizes = mask.sum(dim=1)
        width = min(self.window, x.shape[1])
        steps = torch.arange(width, device=x.device)
        kept = (sizes - self.window).clamp(min=0)[:, None] + steps  # (B, width)
        states = self.read(
            *self.framed(reorder(x, kept), length_mask(sizes.clamp(max=width), width))
        )
        if not self.pooled:
            return states
        whole = length_mask(self.positions(sizes), width + 2)
        return torch.tanh(self.transformer.pooler.dense(states)) * whole[..., None]
