"""PLM-ICD: a transformer on windows of a note, and LAAT's attention over all of them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from marn.models.segments import cut_segments
from marn.nn.heads import TanhAttention
from marn.transformers.base import TransformerCoder


class PLMICD(TransformerCoder):
    """A transformer on consecutive windows of a note; codes attend to all pieces.

    It is the modern reference, and is not in MARN's tables.

    With BERT-base and the 28,996 pieces of its cased vocabulary it has 122,021,081 parameters for
    8,921 codes and 108,386,354 for 50; the paper gives no size.

    With `padding="released"` the transformer does not read padding, but the attention gives it
    weight, as in the authors' code. That code also pads the last window; here only notes that are
    shorter than the longest of their batch have padding, and its features are zero.

    With `word_path` the word vectors are those of pieces, and titles are cut into pieces too.

    Args:
        window: number of pieces that are read together; 128. There is no [CLS] or [SEP], whereas
            the release puts one of each around the whole note.
        **shared: see `TransformerCoder` and `Coder`; `max_length` is 3,072 here.

    References:
        Huang, Tsai and Chen 2022 (ClinicalNLP); sizes and settings as in the command of their
        released code, MiuLab/PLM-ICD, which reads notes with RoBERTa-base-PM-M3-Voc; initial
        weights of the attention as in LAAT.
    """

    name = "plm_icd"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 5e-5,
        "schedule": "linear",
        "warmup": 0.1,  # 2,000 steps of 20,180 with MIMIC-III's 50 codes, of 119,300 with all
        "batch_size": 8,
        "clip_norm": None,
        "epochs": 20,
    }

    def __init__(self, *, window: int = 128, **shared: Any) -> None:
        shared.setdefault("max_length", 3072)
        super().__init__(
            lambda size, tasks: TanhAttention(size, tasks, attention_size=size), **shared
        )
        self.check_window(window)
        self.window = window

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode window by window: (B, P, E) -> (B, P, D)."""
        assert mask is not None  # as `packs` promises
        size = min(self.window, x.shape[1])
        windows = cut_segments(x, size)  # (B, S, w, E)
        states = self.read(windows.flatten(0, 1), cut_segments(mask, size).flatten(0, 1))
        return states.view(len(x), -1, states.shape[2])[:, : x.shape[1]]
