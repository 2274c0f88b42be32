"""LAAT: BiLSTM and label attention through a hidden layer."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from marn.models.base import Coder
from marn.nn.heads import TanhAttention
from marn.nn.layers import BiLSTM, Head


class LAAT(Coder):
    """Label attention model for ICD coding.

    Without the embedding it has 16,750,809 parameters for 8,921 codes, and 902,706 for 50 codes
    with the paper's sizes for them, `hidden_size=256, attention_size=256`. Layers that the released
    module declares and never uses are not counted. The paper keeps the word vectors fixed
    (`tune_embeddings=False`).

    Args:
        head: creates the layer from features to logits.
        hidden_size: u, width of one direction of the LSTM; 512.
        attention_size: d_a, width of the attention's hidden layer; 512.
        **shared: see `Coder`; `embedding_dropout` is 0.3 here. With `padding="released"` the LSTM
            does not read padding, but the attention gives it weight, as in the authors' code.

    References:
        Vu, Nguyen and Nguyen 2020 (IJCAI); padding, initial weights and settings as in the
        released code aehrc/LAAT.
    """

    name = "laat"
    packs = True
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 1e-3,
        "batch_size": 8,
        "clip_norm": None,
        "epochs": 50,
        "patience": 6,  # "more than five epochs" in the release
        "schedule": "plateau",  # by 0.9 after more than five epochs without a better score
    }

    def __init__(
        self,
        head: Callable[..., Head] = TanhAttention,
        *,
        hidden_size: int = 512,
        attention_size: int = 512,
        **shared: Any,
    ) -> None:
        shared.setdefault("embedding_dropout", 0.3)
        head = partial(head, attention_size=attention_size)
        super().__init__(feature_size=2 * hidden_size, head=head, **shared)
        self.encoder = BiLSTM(self.embedding_size, hidden_size)

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode with the BiLSTM: (B, T, E) -> (B, T, 2 u)."""
        return self.encoder(x, mask)
