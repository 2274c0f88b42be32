"""MARN, its predecessor MT-RAM, and their base system, a BiGRU with label attention.

The layers are in `marn.nn.layers` and `marn.nn.ram`. `marn.plain` has the whole model and its
training in one file, in torch alone; tests check that the two agree.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from marn.models.base import Coder
from marn.nn.layers import BiGRU, LabelAttention, Pooling, length_mask


class BiGRULabelAttention(Coder):
    """BiGRU with label attention: MARN without RAM and the focal loss.

    This is the base system "BiGRU" of MT-RAM's Table 3 and of MARN's ablations. The "BiGRU" of
    MARN's Table 1 is a different one, CAML's GRU without label attention.

    Args:
        hidden_size: d_r, width of one direction; 300 in MT-RAM (Section 4.3) and both releases.
        pooling: see `LabelAttention`; `"sum"` in both releases, while MT-RAM's paper mentions max.
        **shared: options of `Coder`.

    References:
        Sun et al. 2022 (MARN), Eqs. 1-3 and 12-15.
    """

    name = "bigru_la"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 8e-3,  # MT-RAM Section 4.3, for all its base systems
    }

    def __init__(self, *, hidden_size: int = 300, pooling: Pooling = "sum", **shared: Any) -> None:
        super().__init__(
            feature_size=2 * hidden_size, head=partial(LabelAttention, pooling=pooling), **shared
        )
        self.encoder = BiGRU(self.embedding_size, hidden_size)

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode, Eqs. 1-3: (B, T, E) -> (B, T, 2 d_r)."""
        return self.encoder(x, mask)


class MARN(BiGRULabelAttention):
    """Multitask Balanced and Recalibrated Network: BiGRU, RAM, label attention for each task.

    It is trained with the focal loss, weighted 0.7 for ICD and 0.3 for CCS codes. Without the
    embedding, and with the unused query bias, it has 4,007,876 parameters for 50 + 38 codes and
    14,979,732 for 8,921 + 295.

    Args:
        **shared: options of `BiGRULabelAttention`; `recalibrate` is `"multiply"` by default.

    References:
        Sun et al. 2022, Eqs. 1-17. Settings from its Section 4.2 or, where that says nothing
        (gradient clipping, dropout after the embedding), from the released code VRCMF/MARN.
    """

    name = "marn"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "focal",
        "learning_rate": 1e-3,
        "task_weights": {"icd": 0.7, "ccs": 0.3},
    }

    def __init__(self, **shared: Any) -> None:
        shared.setdefault("recalibrate", "multiply")
        super().__init__(**shared)

    def features(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute O of Eq. 11: (B, T), (B,) -> (B, T, 2 d_r) and its mask (B, T).

        These are the steps of `Coder.features`, written out.
        """
        tokens = tokens[:, : self.max_length]
        lengths = lengths.clamp(max=self.max_length).to(tokens.device)
        mask = length_mask(lengths, tokens.shape[1]) if self.padding == "masked" else None
        x = self.embedding(tokens)  # (B, T, E)
        h = self.encoder(x, mask)  # (B, T, 2 d_r), Eqs. 1-3
        o = self.ram(h, mask) if self.ram else h  # (B, T, 2 d_r), Eqs. 4-11
        if self.word_path:
            o = self.join_words(o, x)  # (B, T, 2 d_r + E)
        return o, mask

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Score notes, see `Coder.forward`: (B, T), (B,) -> logits {task: (B, C)}."""
        o, mask = self.features(tokens, lengths)
        return self.head(o, mask)  # Eqs. 12-15


class MTRAM(MARN):
    """MT-RAM, the predecessor of MARN: the same network trained with binary cross-entropy.

    Only the loss differs between the two releases; the papers also differ in the learning rate and
    in the length of the notes.

    Args:
        **shared: options of `MARN`; `max_length` is 2,500 by default.

    References:
        Sun et al. 2021 (ECML-PKDD), Eqs. 1-14 and Section 4.3.
    """

    name = "mt_ram"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 8e-3,
        "task_weights": {"icd": 0.7, "ccs": 0.3},
    }

    def __init__(self, **shared: Any) -> None:
        shared.setdefault("max_length", 2500)
        super().__init__(**shared)
