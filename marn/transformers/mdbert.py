"""MDBERT: BERT reads segments, a small transformer reads the segments' vectors, codes attend."""

from typing import Any

from torch import Tensor, nn

from marn.baselines.fusion import sinusoids
from marn.models.segments import Segmented, cut_segments
from marn.nn.layers import LabelAttention, length_mask
from marn.transformers.base import TransformerCoder
from marn.transformers.clinicalbert import ClinicalBERT


class MDBERT(Segmented, TransformerCoder):
    """Reconstruction: Medical Document BERT, from words to segments to the document.

    A note is cut into segments of equal length. BERT reads each between [CLS] and [SEP], and its
    last state at [CLS] represents the segment. Fixed position encodings are added to these vectors,
    transformer layers of BERT's size read them, and codes attend to the result. Segments replace
    the paper's sentences, because a corpus has words without punctuation.

    No code was released. The number of document layers, their position encodings and the length of
    a segment are assumptions. MARN's description also mentions word-level features; here codes
    attend to segments only, which with `word_path` also have the sum of their pieces' vectors.
    Padding is masked at both levels; with `padding="released"` the label attention gives weight to
    segments that are padding, as the code of similar systems does.

    With BERT-base and the 28,996 pieces of its cased vocabulary it has 107,719,680 parameters in
    BERT (108,310,272 with its pooler, which is left out), 7,087,872 in each document layer, and
    76,900 or 13,720,498 in a head for 50 or 8,921 codes, unused biases included.

    Args:
        segment: number of pieces in a segment; 25, as in HLAN, whose hierarchy is the same.
        document_layers: number of transformer layers over segments; 2.
        **shared: see `TransformerCoder` and `Coder`; `max_length` is 2,500 here, HLAN's 100
            segments.

    References:
        Zhang and Jankowski 2022 (MDBERT), their abstract, and MARN's description in its
        Section 4.3; Dong et al. 2021 (HLAN) for 100 segments of 25; Vaswani et al. 2017 for the
        position encodings.
    """

    name = "mdbert"
    training_defaults = ClinicalBERT.training_defaults

    def __init__(self, *, segment: int = 25, document_layers: int = 2, **shared: Any) -> None:
        shared.setdefault("max_length", 2500)
        super().__init__(LabelAttention, **shared)
        self.check_window(segment, marks=2)
        self.segment_size = segment
        config = self.transformer.config
        self.document = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.hidden_size,
                config.num_attention_heads,
                getattr(config, "intermediate_size", 4 * config.hidden_size),
                dropout=getattr(config, "hidden_dropout_prob", 0.1),
                activation="gelu",
                batch_first=True,
            )
            for _ in range(document_layers)
        )

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode segments: (B, P, E) -> (B, S, D)."""
        assert mask is not None  # as `packs` promises
        segments = cut_segments(x, self.segment_size)  # (B, S, w, E)
        real = cut_segments(mask, self.segment_size).flatten(0, 1)  # (B S, w)
        states = self.read(*self.framed(segments.flatten(0, 1), real))  # (B S, w + 2, D)
        h = states[:, 0].view(*segments.shape[:2], -1)  # (B, S, D), at [CLS]
        whole = length_mask(self.positions(mask.sum(dim=1)), h.shape[1])
        h = h + sinusoids(*h.shape[1:]).to(h)
        for layer in self.document:
            h = layer(h, src_key_padding_mask=~whole)
        return h * whole[..., None]
