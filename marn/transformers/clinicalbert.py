"""ClinicalBERT: BERT reads one window of a note, and an affine layer reads [CLS]."""

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
    """Pool a note into the features of [CLS], or a narrow layer of them.

    Args:
        size: D, number of features per position.
        tasks: number of codes of each task.
        bottleneck: width of the narrow layer; None leaves it out.
        dropout: dropout probability after the narrow layer.
    """

    def __init__(
        self, size: int, tasks: Mapping[str, int], *, bottleneck: int | None, dropout: float
    ) -> None:
        super().__init__(bottleneck or size, tasks)
        self.narrow: nn.Module = nn.Identity()
        if bottleneck:
            self.narrow = nn.Sequential(nn.Linear(size, bottleneck), nn.Dropout(dropout))

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Pool the features of each note: (B, T, D), (B, T) -> (B, D), or (B, bottleneck)."""
        return self.narrow(features[:, 0])


class ClinicalBERT(TransformerCoder):
    """BERT on one window of a note, and an affine layer on the state of [CLS].

    The window is [CLS], the last 510 of the note's first `max_length` pieces, and [SEP]: as many
    positions as BERT has. RAM recalibrates the states of all positions, before that of [CLS] is
    selected. "ClinicalBERT" is the name of the weights of
    `pretrained="emilyalsentzer/Bio_ClinicalBERT"`; without them this is their architecture.

    The released code masks padding, so `padding="released"` changes nothing.

    With BERT-base, the 28,996 pieces of its cased vocabulary and the pooler, which the release
    declares and does not use, it has 108,348,722 parameters for 50 codes and 115,170,521 for 8,921.
    The slides "Deep Learning for Automated Medical Coding" (2022) print 113.8M, 1.2 % less than the
    latter. No number of codes in use gives that; with the bottleneck the count is 108,803,693.

    Args:
        read_as: `"state"`: the last layer's state at [CLS] goes into the affine layer, the reading
            of MARN's repository. `"pooled"`: that state goes through BERT's pooler and a layer of
            `bottleneck` features first, the reading of MultiResCNN's.
        bottleneck: width of the narrow layer of `"pooled"`; 50.
        window: number of pieces in the window; 510.
        **shared: see `TransformerCoder` and `Coder`; `max_length` is 2,498 here, 2,500 with [CLS]
            and [SEP].

    References:
        Alsentzer et al. 2019 (the weights); the BERT classes in the released code of MARN and
        MultiResCNN (the rest). New layers have the initial weights of `nn.Linear`, as in MARN's
        repository, whose own initialisation runs before they exist.
    """

    name = "clinicalbert"
    has_attention = takes_words = False
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 2e-5,  # the lowest of BERT's three: 2e-5, 3e-5, 5e-5
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
        self.padding = "masked"  # as in the release

    @property
    def declared_unused(self) -> int:
        """Number of parameters of BERT's pooler, a square affine layer, if it is not used."""
        size = self.transformer.config.hidden_size
        return super().declared_unused + (0 if self.pooled else size * size + size)

    def positions(self, lengths: Tensor) -> Tensor:
        """Count the pieces of the window, [CLS] and [SEP]: (B,) -> (B,)."""
        return lengths.clamp(max=self.window) + 2

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode the window: (B, P, E) -> (B, min(P, window) + 2, D), [CLS] first."""
        assert mask is not None  # as `packs` promises
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
