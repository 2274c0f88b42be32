"""MARN, its predecessor MT-RAM, and the encoder that both stand on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Unpack

from torch import Tensor

from marn.models.base import Coder, SharedOptions
from marn.nn.layers import BiGRU, LabelAttention, Pooling


class BiGRULabelAttention(Coder):
    """BiGRU and label attention: MARN without RAM, second task and focal loss.

    The base system "BiGRU" of MT-RAM's Table 3 and MARN's ablations. The "BiGRU" of MARN's Table 1
    is another one, CAML's GRU without label attention.

    Args:
        hidden_size: d_r, width of one direction; 300 in MT-RAM (Section 4.3) and both releases.
        pooling: see `LabelAttention`; `"sum"` in both releases.
        **shared: see `Coder`.

    References:
        Sun et al. 2022 (MARN), Eqs. 1-3 and 12-15.
    """

    name = "bigru_la"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 8e-3,  # MT-RAM Section 4.3, for all its base systems
    }
    paper_settings: ClassVar[Mapping[str, Any]] = {
        "optimiser": "Adam",
        "monitor": "macro_f1_caml",
        "max_length": 2500,
        "embedding_dropout": 0.2,
        "tune_embeddings": False,
        "source": "MT-RAM, Section 4.3; released code VRCMF/MT-RAM",
    }

    def __init__(
        self, *, hidden_size: int = 300, pooling: Pooling = "sum", **shared: Unpack[SharedOptions]
    ) -> None:
        super().__init__(
            feature_size=2 * hidden_size, head=partial(LabelAttention, pooling=pooling), **shared
        )
        self.encoder = BiGRU(self.embedding_size, hidden_size)

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Eqs. 1-3: (B, T, E) -> (B, T, 2 d_r)."""
        return self.encoder(x, mask)


class MARN(BiGRULabelAttention):
    """Multitask Balanced and Recalibrated Network.

    BiGRU, RAM, label attention for every task on the same features; trained with the focal loss
    and 0.7 of it on ICD, 0.3 on CCS codes.

    Parameters beside the embedding, unused query bias counted: 4,007,876 with 50 + 38 codes,
    14,979,732 with 8,921 + 295.

    Args:
        hidden_size: d_r, width of one direction; 300.
        pooling: see `LabelAttention`; MT-RAM's paper writes of max pooling.
        **shared: see `Coder`; `recalibrate` is `"multiply"` here.

    References:
        Sun et al. 2022, Eqs. 1-17; settings from its Section 4.2 and, where it is silent (gradient
        clipping, dropout after the embedding), from the released code VRCMF/MARN.
    """

    name = "marn"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "focal",
        "learning_rate": 1e-3,
        "task_weights": {"icd": 0.7, "ccs": 0.3},
    }
    paper_settings: ClassVar[Mapping[str, Any]] = {
        "optimiser": "Adam",
        "monitor": "precision_at_5",
        "max_length": 4000,
        "embedding_dropout": 0.2,
        "tune_embeddings": False,
        "source": "Sun et al. 2022, Section 4.2; released code VRCMF/MARN",
    }

    def __init__(
        self, *, hidden_size: int = 300, pooling: Pooling = "sum", **shared: Unpack[SharedOptions]
    ) -> None:
        shared.setdefault("recalibrate", "multiply")
        super().__init__(hidden_size=hidden_size, pooling=pooling, **shared)


class MTRAM(MARN):
    """MT-RAM, the predecessor: the same network trained with binary cross-entropy.

    Between the two releases only the loss differs; the papers also differ in the learning rate and
    in the length of the notes.

    Args:
        hidden_size: d_r, width of one direction; 300.
        pooling: see `LabelAttention`; MT-RAM's paper writes of max pooling.
        **shared: see `Coder`; `max_length` is 2,500 here.

    References:
        Sun et al. 2021 (ECML-PKDD), Eqs. 1-14 and Section 4.3.
    """

    name = "mt_ram"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 8e-3,
        "task_weights": {"icd": 0.7, "ccs": 0.3},
    }
    paper_settings: ClassVar[Mapping[str, Any]] = BiGRULabelAttention.paper_settings

    def __init__(
        self, *, hidden_size: int = 300, pooling: Pooling = "sum", **shared: Unpack[SharedOptions]
    ) -> None:
        shared.setdefault("max_length", 2500)
        super().__init__(hidden_size=hidden_size, pooling=pooling, **shared)
