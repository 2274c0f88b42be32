"""The slot for transformers, which `transformers` runs: word pieces, windows, pretrained weights.

A system over a transformer is a subclass of `TransformerCoder`. The library is an extra,
`pip install "marn[transformers]"`, and is imported when such a system is built, not before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from marn.errors import MarnError
from marn.models.base import Coder, SharedOptions
from marn.nn.layers import Head, length_mask

DEVIATION = 0.02  # of random weights; BERT's
_NOT_KEPT = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
# What a configuration could have the library fetch and run.
_CODE = ("auto_map", "implementation", "kernel", "quantization")


class TransformerOptions(SharedOptions, total=False):
    """What every system over a transformer takes; `TransformerCoder` says what each means."""

    layers: int | None
    hidden_size: int | None
    heads: int | None
    intermediate_size: int | None
    dropout: float | None
    pretrained: str | Path | None
    words: Sequence[str] | None
    configuration: Mapping[str, Any] | None
    piece_count: int | None


def cut_words(words: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Cut every row of a vocabulary into word pieces.

    A blank stands before each word, as it does in a text; some tokenizers heed it.

    Args:
        words: the V words in the order of their numbers.
        tokenizer: of `transformers`.

    Returns:
        Ids of pieces for V + 4 rows: padding (none), the words, the unknown word, [CLS] and [SEP].
        Each row but the padding has at least one.

    Raises:
        MarnError: the tokenizer lacks one of the three special pieces.
    """
    special = [tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    if None in special:
        raise MarnError("the pretrained tokenizer needs pieces for unknown, [CLS] and [SEP]")
    cut = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return [[], *(pieces or special[:1] for pieces in cut), *([piece] for piece in special)]


class Pieces(nn.Module):
    """The pieces of each word, as tables that are saved with the weights.

    Args:
        rows: for each word its pieces, as rows of the embedding; row 0 is padding and empty.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        super().__init__()
        ends = torch.tensor([len(row) for row in rows]).cumsum(0)
        self.starts: Tensor
        self.ids: Tensor
        self.register_buffer("starts", F.pad(ends, (1, 0)))  # (rows + 1,)
        self.register_buffer("ids", torch.tensor([piece for row in rows for piece in row]))

    def places(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Say which word each piece of a note belongs to.

        Args:
            tokens: (B, T) int64, padded with 0.
            lengths: (B,) int, real tokens of each note, >= 1.

        Returns:
            The word of each piece (B, P), the last column after the end; the place of the piece in
            its word (B, P), with no meaning there; the pieces of each note (B,).
        """
        width = tokens.shape[1]
        counts = self.starts[tokens + 1] - self.starts[tokens]
        ends = (counts * length_mask(lengths, width)).cumsum(dim=1)  # (B, T)
        sizes = ends[:, -1]
        steps = torch.arange(int(sizes.max()), device=tokens.device).expand(len(tokens), -1)
        word = torch.searchsorted(ends, steps.contiguous(), right=True).clamp(max=width - 1)
        return word, steps - (ends - counts).gather(1, word), sizes

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Put the pieces of a note's words in a row.

        Args:
            tokens: (B, T) int64, padded with 0.
            lengths: (B,) int, real tokens of each note, >= 1.

        Returns:
            Rows of the embedding (B, P), padded with 0, and how many each note has (B,).
        """
        word, place, sizes = self.places(tokens, lengths)
        real = length_mask(sizes, word.shape[1])
        index = self.starts[tokens.gather(1, word)] + place
        return self.ids[index.where(real, 0)].where(real, 0), sizes


def cut_windows(x: Tensor, size: int) -> Tensor:
    """Cut rows into consecutive windows, the last one filled up with 0.

    Args:
        x: (B, T) or (B, T, E).
        size: w, positions of a window.

    Returns:
        (B, ceil(T / w), w) or (B, ceil(T / w), w, E).
    """
    fill = (0, 0) * (x.dim() - 2) + (0, -x.shape[1] % size)
    return F.pad(x, fill).unflatten(1, (-1, size))


def _library() -> Any:
    """Import `transformers`, which takes seconds."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MarnError(
            'this system needs the package transformers: pip install "marn[transformers]"'
        ) from error
    return transformers


def _pretrained(source: str) -> tuple[Any, Any]:
    """Read a tokenizer and a model; no code that lies beside them is run, no pickle opened."""
    library = _library()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = library.AutoModel.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MarnError(
            f"pretrained {source!r} cannot be read ({reason}); give a folder with config.json, "
            "model.safetensors and a tokenizer, or the name of such a model on the Hub and, for "
            "the first time, a connection"
        ) from error
    return tokenizer, model.float().train()


def _names_code(configuration: Any) -> bool:
    """Whether a configuration, at any depth, has a key of `_CODE`."""
    if isinstance(configuration, Mapping):
        return any(
            any(word in key for word in _CODE) or _names_code(value)
            for key, value in configuration.items()
        )
    return isinstance(configuration, list) and any(map(_names_code, configuration))


def _random(
    configuration: Mapping[str, Any] | None,
    *,
    layers: int = 12,
    hidden_size: int = 768,
    heads: int = 12,
    intermediate_size: int = 3072,
    dropout: float = 0.1,
) -> Any:
    """Make a transformer with random weights: of a configuration, or BERT of these sizes."""
    library = _library()
    for name, size in {"layers": layers, "hidden_size": hidden_size, "heads": heads}.items():
        if size < 1:
            raise MarnError(f"{name} must be at least 1, but got {size}")
    if _names_code(configuration):
        raise MarnError(f"a configuration may not have keys with {_CODE}: they can name code")
    try:
        if configuration is not None:
            config = library.AutoConfig.for_model(**configuration)
        else:
            config = library.BertConfig(
                vocab_size=1,  # the table of words is the coder's
                num_hidden_layers=layers,
                hidden_size=hidden_size,
                num_attention_heads=heads,
                intermediate_size=intermediate_size,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
            )
        return library.AutoModel.from_config(config, trust_remote_code=False)
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MarnError(f"no transformer can be made of these sizes: {reason}") from error


class TransformerCoder(Coder):
    """A system whose notes are read by a transformer, piece by piece.

    A corpus gives a note as the numbers of its lower-case words. With a pretrained transformer each
    word of the vocabulary is cut into word pieces once, and a note is the sequence of the pieces of
    its words. So letter case, punctuation and numbers, which the pretraining saw, are lost, and so
    are words outside the vocabulary. Without one, each word is one piece and the weights are
    random.

    `max_length` counts pieces here, as the papers do. Attention is given to words: the sums over
    their pieces.

    A saved model holds the pieces among its weights and the configuration in its card, so that it
    loads without the network and without the folder it came from.

    Args:
        head: makes the layer from features to logits, given D and the tasks.
        pooled: whether the transformer's pooler takes part; it is taken away otherwise.
        layers: of a random transformer, built as BERT; 12.
        hidden_size: D, features of a position of a random transformer; 768.
        heads: of a random transformer; 12.
        intermediate_size: width of a random transformer's inner networks; 3,072. These four are
            BERT-base's sizes, which the papers use.
        dropout: of a random transformer, on features and attention; 0.1, BERT's.
        pretrained: folder of a pretrained transformer, or its name on the Hub, as
            "emilyalsentzer/Bio_ClinicalBERT". Its weights must be safetensors.
        words: the vocabulary, which `pretrained` cuts in pieces; `build` takes it from a corpus.
        configuration: of a random transformer, as its config.json has it with `model_type`,
            instead of sizes. `build` puts that of a pretrained one into the card.
        piece_count: pieces of all words, where the weights to be loaded bring them along; `build`
            puts it into the card.
        **shared: see `Coder`. Where E, by `embedding_size` or `vectors`, is not D, an affine layer
            leads from E to D, as in ELECTRA. Word vectors serve a random transformer; a pretrained
            one has vectors of its pieces. `embedding_dropout` is 0 here, for a transformer has
            dropout of its own.

    Raises:
        MarnError: `transformers` is not installed, `pretrained` cannot be read, or options do not
            go together.

    References:
        Devlin et al. 2019 (BERT): sizes, and the normal distribution of random weights with a
        standard deviation of 0.02. Clark et al. 2020 (ELECTRA): E other than D.
    """

    packs = True

    def __init__(
        self,
        head: Callable[[int, Mapping[str, int]], Head],
        pooled: bool = False,
        *,
        layers: int | None = None,
        hidden_size: int | None = None,
        heads: int | None = None,
        intermediate_size: int | None = None,
        dropout: float | None = None,
        pretrained: str | Path | None = None,
        words: Sequence[str] | None = None,
        configuration: Mapping[str, Any] | None = None,
        piece_count: int | None = None,
        **shared: Unpack[SharedOptions],
    ) -> None:
        sizes: dict[str, Any] = {
            "layers": layers,
            "hidden_size": hidden_size,
            "heads": heads,
            "intermediate_size": intermediate_size,
            "dropout": dropout,
        }
        sizes = {key: value for key, value in sizes.items() if value is not None}
        whole: dict[str, Any] = {"pretrained": pretrained, "configuration": configuration}
        whole = {key: value for key, value in whole.items() if value is not None}
        if whole and len(whole) + len(sizes) > 1:
            first, other, *_ = [*whole, *sizes]
            raise MarnError(f"{first} says what the transformer is like; leave out {other}")
        if piece_count is not None and configuration is None:
            raise MarnError("piece_count goes with configuration, as in the card of a saved model")
        count = shared["vocabulary_size"]
        rows: list[list[int]] | None = None
        if pretrained is not None:
            if words is None or len(words) != count - 2:
                raise MarnError(
                    f"pretrained cuts the {count - 2} words of the vocabulary in pieces: build "
                    "with a corpus, or give words"
                )
            tokenizer, transformer = _pretrained(str(pretrained))
            rows = cut_words(words, tokenizer)
        else:
            transformer = _random(configuration, **sizes)
            if piece_count is not None:  # which pieces, the weights to be loaded will say
                rows = [[0] * piece_count, *[[]] * (count + 1)]
        if transformer.config.is_encoder_decoder:
            raise MarnError(f"{transformer.config.model_type} has a decoder; an encoder is needed")
        own = transformer.get_input_embeddings()
        width = own.embedding_dim
        vectors = shared.pop("vectors", None)
        if rows is not None:
            if shared.pop("embedding_size", width) != width:
                raise MarnError(f"a piece has {width} features here; leave embedding_size out")
            # Padding is row 0 of ours; a tokenizer that has another one there gives it that place.
            moved = torch.arange(own.num_embeddings)
            padding = transformer.config.pad_token_id or 0
            moved[0], moved[padding] = padding, 0
            table = own.weight.detach()[moved]
            if max(map(max, filter(None, rows))) >= len(moved):
                raise MarnError(f"{pretrained} has {len(moved)} pieces, but its tokenizer has more")
            rows = [moved[row].tolist() for row in rows]
        else:
            if vectors is not None and len(vectors) != count:
                raise MarnError(f"vectors have {len(vectors)} rows, but vocabulary_size is {count}")
            size = shared.get("embedding_size", width) if vectors is None else vectors.shape[1]
            table = torch.empty(count + 2, size).normal_(std=DEVIATION)  # [CLS], [SEP] come last
            table[0] = 0
            if vectors is not None:
                table[:count] = vectors
        shared.setdefault("embedding_dropout", 0.0)
        super().__init__(
            feature_size=transformer.config.hidden_size,
            head=head,
            **shared | {"vocabulary_size": len(table), "vectors": table},
        )
        transformer.set_input_embeddings(None)  # `encode` gets embedded pieces
        if not pooled:
            transformer.pooler = None
        elif getattr(transformer, "pooler", None) is None:
            raise MarnError(f"a {transformer.config.model_type} has no pooler")
        self.transformer = transformer
        self.pieces = None if rows is None else Pieces(rows)
        self.projection: nn.Module = nn.Identity()
        if self.embedding_size != width:
            self.projection = nn.Linear(self.embedding_size, width)
            nn.init.normal_(self.projection.weight, std=DEVIATION)
            nn.init.zeros_(self.projection.bias)
        self.source = None if pretrained is None else Path(pretrained)

    @classmethod
    def options_from_corpus(cls, corpus: Any) -> dict[str, Any]:
        """The words, for `pretrained` to cut."""
        return {"words": corpus.vocabulary.words}

    def saved_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Put configuration and number of pieces in the place of words and `pretrained`."""
        kept = {key: value for key, value in options.items() if key not in ("words", "pretrained")}
        if self.source is None or self.pieces is None:
            return kept
        config = json.loads(self.transformer.config.to_json_string(use_diff=True))
        config = {
            key: value
            for key, value in config.items()
            if key not in _NOT_KEPT and not _names_code({key: value})
        }
        # What it was made from, without the path of this machine.
        config["_name_or_path"] = self.source.name if self.source.is_dir() else str(self.source)
        return kept | {"configuration": config, "piece_count": len(self.pieces.ids)}

    def to_subwords(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Cut notes into pieces: (B, T) -> the first `max_length` of each, (B, P) and (B,)."""
        tokens, lengths = super().to_subwords(tokens, lengths)
        if self.pieces is None:
            return tokens, lengths
        return super().to_subwords(*self.pieces(tokens, lengths))

    def subwords_to_words(self, weights: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Add up the weights of a word's pieces: (B, C, P) -> (B, C, T)."""
        if self.pieces is None:
            return weights
        word, _, _ = self.pieces.places(tokens, lengths.to(tokens.device))
        word = word[:, None, : weights.shape[2]].expand_as(weights)
        return weights.new_zeros(*weights.shape[:2], tokens.shape[1]).scatter_add_(2, word, weights)

    def check_window(self, size: int, marks: int = 0) -> None:
        """Refuse windows that the transformer has no positions for.

        Args:
            size: pieces of a window.
            marks: what else stands in it: 2 with [CLS] and [SEP].

        Raises:
            MarnError: `size` is below 1, or too large.
        """
        table = getattr(getattr(self.transformer, "embeddings", None), "position_embeddings", None)
        room = max(size, 1)
        if table is not None:  # RoBERTa counts positions from the one after the padding's
            first = 0 if table.padding_idx is None else table.padding_idx + 1
            room = table.num_embeddings - first - marks
        if not 1 <= size <= room:
            raise MarnError(f"this transformer reads 1 to {room} pieces at once, but got {size}")

    def framed(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Put [CLS] before and [SEP] after the pieces of each window.

        Args:
            x: (N, w, E), embedded pieces.
            mask: (N, w) bool; a window may be empty, and stays so.

        Returns:
            (N, w + 2, E) and (N, w + 2).
        """
        rows = self.embedding.table.num_embeddings
        marks = torch.tensor([rows - 2, rows - 1], device=x.device)
        if self.pieces is not None:
            marks = self.pieces.ids[-2:]
        begin, end = self.embedding(marks)
        count = mask.sum(dim=1)[:, None]  # (N, 1)
        steps = torch.arange(x.shape[1] + 2, device=x.device)
        x = F.pad(x, (0, 0, 1, 1))
        x = torch.where((steps == 0)[:, None], begin, x)
        x = torch.where((steps == count + 1)[..., None], end, x)
        return x, (steps < count + 2) & (count > 0)

    def read(self, x: Tensor, mask: Tensor) -> Tensor:
        """Run the transformer on windows, each by itself; empty ones cost nothing.

        Args:
            x: (N, w, E), embedded pieces.
            mask: (N, w) bool.

        Returns:
            (N, w, D), the last layer's states, zero at padding.
        """
        filled = mask.any(dim=1).nonzero()[:, 0]
        real = mask[filled]
        states = self.transformer(
            inputs_embeds=self.projection(x[filled]), attention_mask=real.long()
        ).last_hidden_state
        out = states.new_zeros(len(x), *states.shape[1:])
        return out.index_copy(0, filled, states * real[..., None])
