"""Read notes with a transformer of the library `transformers`: pieces, windows, weights.

A system is a subclass of `TransformerCoder`. The library is an extra,
`pip install "marn[transformers]"`, and is imported when such a system is built, not before.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from marn.corpus import Corpus
from marn.errors import MarnError
from marn.models.base import Coder
from marn.nn.layers import Head, length_mask

DEVIATION = 0.02
"""Standard deviation of random weights, as in BERT."""

ENCODERS = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie"),
    *("megatron-bert", "modernbert", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta"),
)
"""Accepted values of `model_type`: text encoders that consist of one model. Others may name a
second model, which the library would fetch."""

CODE = ("auto_map", "implementation", "kernel", "quantization")
"""Parts of the keys of a configuration that could make the library fetch and run code."""

_COUNTS = ("num_", "layers", "group")  # parts of the keys of layers, heads, labels and the like
_MOST = 1 << 12  # limit of each: the library makes lists of that many before any tensor


def cut_words(words: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Cut every row of a vocabulary into word pieces.

    Each word is preceded by a space, as in running text, because some tokenizers mark it.

    Args:
        words: the V words, in the order of their ids.
        tokenizer: a tokenizer of `transformers`.

    Returns:
        Piece ids for V + 4 rows: padding (none), the words, the unknown word, [CLS] and [SEP].
        Every row except padding has at least one.

    Raises:
        MarnError: the tokenizer lacks one of the three special pieces.
    """
    special = [tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    if None in special:
        raise MarnError("the pretrained tokenizer needs pieces for unknown, [CLS] and [SEP]")
    cut = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return [[], *(pieces or special[:1] for pieces in cut), *([piece] for piece in special)]


class Pieces(nn.Module):
    """Look up the pieces of each word in tables that are saved with the weights.

    Args:
        rows: the pieces of each word, as rows of the embedding; row 0 is padding and empty.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        super().__init__()
        ends = torch.tensor([len(row) for row in rows]).cumsum(0)
        self.starts: Tensor
        self.ids: Tensor
        self.register_buffer("starts", F.pad(ends, (1, 0)))  # (rows + 1,)
        self.register_buffer("ids", torch.tensor([piece for row in rows for piece in row]))

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Concatenate the pieces of a note's words.

        Args:
            tokens: (B, T) int64, padded with 0.
            lengths: (B,) int, real tokens of each note, >= 1.

        Returns:
            Rows of the embedding (B, P), padded with 0; their number in each note (B,); and the
            column of each piece's word (B, P), which is the last column at padding.
        """
        width = tokens.shape[1]
        counts = self.starts[tokens + 1] - self.starts[tokens]
        ends = (counts * length_mask(lengths, width)).cumsum(dim=1)  # (B, T)
        sizes = ends[:, -1]
        steps = torch.arange(int(sizes.max()), device=tokens.device).expand(len(tokens), -1)
        word = torch.searchsorted(ends, steps.contiguous(), right=True).clamp(max=width - 1)
        place = steps - (ends - counts).gather(1, word)  # of the piece in its word
        real = length_mask(sizes, steps.shape[1])
        index = self.starts[tokens.gather(1, word)] + place
        return self.ids[index.where(real, 0)].where(real, 0), sizes, word


def _library() -> Any:
    """Import `transformers`, which takes seconds."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MarnError(
            'this system needs the package transformers: pip install "marn[transformers]"'
        ) from error
    return transformers


def _check_type(configuration: Mapping[str, Any], source: str) -> None:
    kind = configuration.get("model_type")
    if kind not in ENCODERS:
        raise MarnError(f"model_type of {source} must be one of {ENCODERS}, but got {kind!r}")


def read_pretrained(source: str) -> tuple[Any, Any]:
    """Read a tokenizer and a model without running their code or opening pickles.

    Args:
        source: a folder, which is read without asking the Hub, or a name on the Hub.

    Returns:
        The tokenizer, and the model in single precision and training mode.

    Raises:
        MarnError: they cannot be read, or the model's type is not one of `ENCODERS`.
    """
    library = _library()
    options = {"local_files_only": Path(source).is_dir()}
    try:
        # As a dictionary first: a configuration object may fetch the models that it names.
        configuration, _ = library.PretrainedConfig.get_config_dict(source, **options)
        _check_type(configuration, repr(source))
        options["trust_remote_code"] = False
        tokenizer = library.AutoTokenizer.from_pretrained(source, **options)
        model = library.AutoModel.from_pretrained(source, use_safetensors=True, **options)
    except MarnError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MarnError(
            f"pretrained {source!r} cannot be read ({reason}); give a folder with config.json, "
            "model.safetensors and a tokenizer, or the name of such a model on the Hub and, for "
            "the first time, a connection"
        ) from error
    return tokenizer, model.float().train()


def _is_plain(key: str, value: Any) -> bool:
    """Return whether a setting is a number or a word, and cannot name code."""
    values = value if isinstance(value, list) else [value]
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in values)
    return plain and not any(part in key for part in CODE)


def random_transformer(configuration: Mapping[str, Any], *, pieces: bool) -> Any:
    """Create a transformer with random weights; neither the Hub nor any file is read.

    Args:
        configuration: see `TransformerCoder`.
        pieces: whether the table of pieces will be used.

    Raises:
        MarnError: the configuration's type is not one of `ENCODERS`, or a setting could name code,
            is too large, or does not fit the others.
    """
    library = _library()
    settings: dict[str, Any] = {"model_type": "bert", **configuration}
    if settings["model_type"] == "bert" and not pieces:
        settings.setdefault("vocab_size", 1)
    _check_type(settings, "configuration")
    refused = [key for key, value in settings.items() if not _is_plain(key, value)]
    if refused:
        raise MarnError(f"configuration must not have {refused}, which can name code; leave it out")
    for key, value in settings.items():
        if any(part in key for part in _COUNTS) and isinstance(value, int) and value > _MOST:
            raise MarnError(f"{key} must be at most {_MOST}, but got {value}; choose fewer")
    try:
        config = library.AutoConfig.for_model(**settings)
        for key in ("num_hidden_layers", "hidden_size", "num_attention_heads"):
            if getattr(config, key) < 1:
                raise MarnError(f"{key} must be at least 1, but got {getattr(config, key)}")
        return library.AutoModel.from_config(config, trust_remote_code=False)
    except MarnError:
        raise
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MarnError(f"no transformer has this configuration: {reason}") from error


def with_padding_first(
    own: nn.Embedding, padding: int, rows: Sequence[Sequence[int]]
) -> tuple[Tensor, list[list[int]]]:
    """Swap padding with row 0 in a transformer's embedding of pieces.

    Args:
        own: the embedding of N pieces with D features.
        padding: row of its padding.
        rows: the pieces of each word, as rows of `own`.

    Returns:
        The new table (N, D), and the pieces of each word as rows of it.

    Raises:
        MarnError: a word has a piece that the table lacks.
    """
    if max(map(max, filter(None, rows))) >= own.num_embeddings:
        raise MarnError(
            f"the transformer has {own.num_embeddings} pieces, but its tokenizer has more; give "
            "both from the same model"
        )
    moved = torch.arange(own.num_embeddings)
    moved[0], moved[padding] = padding, 0
    return own.weight.detach()[moved], [moved[row].tolist() for row in rows]


def word_table(count: int, size: int, vectors: Tensor | None) -> Tensor:
    """Create the embedding of whole words, [CLS] and [SEP].

    Args:
        count: number of words, padding and the unknown word included.
        size: E, width of a word vector.
        vectors: (count, E), initial vectors of the words; random by default.

    Returns:
        (count + 2, E) float32, with [CLS] and [SEP] last.

    Raises:
        MarnError: `vectors` has another number of rows.
    """
    if vectors is not None and len(vectors) != count:
        raise MarnError(f"vectors have {len(vectors)} rows, but vocabulary_size is {count}")
    table = torch.empty(count + 2, size).normal_(std=DEVIATION)
    table[0] = 0
    if vectors is not None:
        table[:count] = vectors
    return table


class TransformerCoder(Coder):
    """Extend `Coder` by a transformer that reads a note piece by piece.

    A corpus has a note as the ids of its lower-case words. With a pretrained transformer each word
    of the vocabulary is cut into word pieces once, and a note is the sequence of the pieces of its
    words. Letter case, punctuation and numbers, which were seen in pretraining, are therefore lost,
    and so are words outside the vocabulary. Without a pretrained transformer each word is one piece
    and the weights are random.

    `max_length` counts pieces here, as in the papers. The attention to a word is the sum over its
    pieces.

    A saved model has the pieces among its weights and the configuration in its card, so it loads
    without the network and without the folder it came from.

    Args:
        head: creates the layer from features to logits, given D and the tasks.
        pooled: whether to keep the transformer's pooler.
        configuration: settings of a transformer with random weights, as in its config.json.
            `model_type`, "bert" by default, is one of `ENCODERS`. Other settings have the library's
            defaults, for "bert" those of BERT-base, which the papers use.
        pretrained: folder of a pretrained transformer, or its name on the Hub, such as
            "emilyalsentzer/Bio_ClinicalBERT", instead of a configuration. Its weights must be
            safetensors.
        words: the vocabulary, which `pretrained` cuts into pieces; `build` takes it from a corpus.
        piece_count: number of pieces of all words, if the weights to be loaded include them; for
            cards of saved models.
        **shared: see `Coder`. If E, given by `embedding_size` or `vectors`, differs from the
            transformer's, an affine layer maps one to the other, as in ELECTRA. Word vectors
            initialise a random transformer; a pretrained one has vectors of its pieces.
            `embedding_dropout` is 0 here, because a transformer has its own dropout.

    Raises:
        MarnError: the options contradict each other, or the transformer cannot be built or read.

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
        configuration: Mapping[str, Any] | None = None,
        pretrained: str | Path | None = None,
        words: Sequence[str] | None = None,
        piece_count: int | None = None,
        **shared: Any,
    ) -> None:
        if pretrained is not None and configuration is not None:
            raise MarnError("pretrained has its own configuration; leave out configuration")
        if piece_count is not None and configuration is None:
            raise MarnError("piece_count goes with configuration, as in the card of a saved model")
        count = shared["vocabulary_size"]
        rows: list[list[int]] | None = None
        if pretrained is None:
            transformer = random_transformer(configuration or {}, pieces=piece_count is not None)
            if piece_count is not None:  # stand-ins for the pieces in the weights to be loaded
                rows = [[0] * piece_count, *[[]] * (count + 1)]
        elif words is None or len(words) != count - 2:
            raise MarnError(
                f"pretrained cuts the {count - 2} words of the vocabulary into pieces; build with "
                "a corpus, or give words"
            )
        else:
            tokenizer, transformer = read_pretrained(str(pretrained))
            rows = cut_words(words, tokenizer)
        own = transformer.get_input_embeddings()
        width = own.embedding_dim
        vectors = shared.pop("vectors", None)
        if rows is not None:
            if shared.pop("embedding_size", width) != width:
                raise MarnError(f"a piece has {width} features here; leave out embedding_size")
            table, rows = with_padding_first(own, transformer.config.pad_token_id or 0, rows)
        else:
            size = shared.get("embedding_size", width) if vectors is None else vectors.shape[1]
            table = word_table(count, size, vectors)
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
    def options_from_corpus(cls, corpus: Corpus) -> dict[str, Any]:
        """Take the words of the vocabulary, which `pretrained` cuts into pieces."""
        return {"words": corpus.vocabulary.words}

    def saved_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Replace `words` and `pretrained` by the configuration and the number of pieces."""
        kept = {key: value for key, value in options.items() if key not in ("words", "pretrained")}
        if self.source is None or self.pieces is None:
            return kept
        config = json.loads(self.transformer.config.to_json_string(use_diff=True))
        config = {
            key: value
            for key, value in config.items()
            if _is_plain(key, value) and "dtype" not in key and key != "transformers_version"
        }
        # Where it came from, without a path of this machine.
        config["_name_or_path"] = self.source.name if self.source.is_dir() else str(self.source)
        return kept | {"configuration": config, "piece_count": len(self.pieces.ids)}

    def to_subwords(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Cut notes into pieces: (B, T) -> the first `max_length` of each, (B, P) and (B,)."""
        tokens, lengths = super().to_subwords(tokens, lengths)
        if self.pieces is None:
            return tokens, lengths
        return super().to_subwords(*self.pieces(tokens, lengths)[:2])

    def rows_of(self, words: NDArray[Any]) -> NDArray[Any]:
        """Cut words into the rows of their pieces: (n,) -> (p,)."""
        if self.pieces is None or not len(words):
            return words
        row = torch.from_numpy(words.astype(np.int64))[None]
        return self.pieces(row, torch.tensor([len(words)]))[0][0].numpy()

    def even_table(self) -> Tensor:
        """Centre vectors, see `Coder`; a pretrained transformer's are copied, not changed."""
        if self.pieces is None:
            return super().even_table()
        table = self.embedding.table.weight
        return F.normalize(table - table[1:].mean(dim=0), dim=1)

    def subwords_to_words(self, weights: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Add up the weights of a word's pieces: (B, C, P) -> (B, C, T)."""
        if self.pieces is None:
            return weights
        _, _, word = self.pieces(tokens, lengths.to(tokens.device))
        word = word[:, None, : weights.shape[2]].expand_as(weights)
        return weights.new_zeros(*weights.shape[:2], tokens.shape[1]).scatter_add_(2, word, weights)

    def check_window(self, size: int, marks: int = 0) -> None:
        """Refuse windows longer than the transformer has positions.

        Args:
            size: number of pieces in a window.
            marks: number of further positions that a window needs: 2 with [CLS] and [SEP].

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
            mask: (N, w) bool; an empty window stays empty.

        Returns:
            The pieces (N, w + 2, E), and their mask (N, w + 2).
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
        """Run the transformer on each window that is not empty.

        Args:
            x: (N, w, E), embedded pieces.
            mask: (N, w) bool.

        Returns:
            (N, w, D), the states of the last layer, zero at padding and in empty windows.
        """
        filled = mask.any(dim=1).nonzero()[:, 0]
        real = mask[filled]
        states = self.transformer(
            inputs_embeds=self.projection(x[filled]), attention_mask=real.long()
        ).last_hidden_state
        out = states.new_zeros(len(x), *states.shape[1:])
        return out.index_copy(0, filled, states * real[..., None])
