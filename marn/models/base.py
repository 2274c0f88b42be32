"""Define what all systems share: embedding, encoder, optional RAM, and one head for all tasks.

A system is one file with a subclass of `Coder`, which implements `encode` and overrides whatever
else differs. RAM, the tasks and the treatment of padding are options of every system. Losses and
thresholds are defined elsewhere.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from marn.corpus import Corpus
from marn.errors import MarnError
from marn.models.descriptions import title_vectors
from marn.nn.layers import Head, LabelAttention, WordEmbedding, length_mask
from marn.nn.ram import Fusion, RamStart, RecalibratedAggregation, Up
from marn.settings import Count, check

Padding = Literal["masked", "released"]
BiasStart = Literal["released", "prior"]
CodeStart = Literal["released", "titles"]


class Coder(nn.Module):
    """Score a note for every code of every task.

    Subclasses define `name`, `training_defaults` and `encode`, and pass `feature_size` to this
    constructor.

    Args:
        feature_size: D, number of features that `encode` returns for each position.
        head: creates the layer from features to logits, given D and the tasks.
        vocabulary_size: number of embedding rows: words, padding and the unknown word (51,919 for
            the 51,917 words of MIMIC-III).
        tasks: number of codes of each task, such as `{"icd": 50, "ccs": 38}`.
        vectors: (vocabulary_size, E) float32, initial word vectors; random by default.
        embedding_size: E if there are no `vectors`; 100 in all the papers.
        tune_embeddings: whether training changes the word vectors. True in the commands of CAML
            and MultiResCNN; those of MARN and MT-RAM leave them frozen.
        embedding_dropout: dropout probability after the embedding; 0.2 in CAML, MultiResCNN,
            MT-RAM and MARN.
        max_length: number of tokens that are read, from the start of the note. 4,000 in MARN; 2,500
            in MT-RAM, CAML and MultiResCNN.
        recalibrate: fusion of the RAM after the encoder: `"multiply"` (MARN Eq. 11) or `"add"`
            (MT-RAM Table 4); None leaves RAM out.
        ram_dropout: dropout probability after RAM; 0.2 in MARN.
        ram_up: `up` of `RecalibratedAggregation`.
        ram_tanh: `tanh` of `RecalibratedAggregation`.
        ram_start: `start` of `RecalibratedAggregation`.
        padding: `"masked"`: a note's logits do not depend on its batch. `"released"`: padding takes
            part in the GRU, batch normalisation and label attention, as in the released code.
        bias_start: initial output bias of each code. `"released"`: random, near 0, as in the
            released code. `"prior"`: the code's log odds in the training notes, which `marn.build`
            takes from the corpus (Lin et al. 2017, Section 3.3; none of the papers of this project
            does this).
        word_path: concatenate each position's features, after RAM if there is one, with its word
            vector, so that label attention and classifiers get D + E features. An encoder that
            learns from a few hundred notes blurs which word is at which position (chapter 7); none
            of the papers has this path.
        code_start: initial queries and classifiers of the codes. `"released"`: random. `"titles"`:
            the words of the code's title, see `start_at_titles`; it needs `word_path` and a corpus.

    Raises:
        MarnError: an option is out of range, or does not fit the system or the other options.
    """

    name: ClassVar[str]
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    """Training settings of the paper, by field of `TrainConfig`; whatever else the paper says about
    training is in `marn/experiments/recipes.csv`."""
    has_attention: ClassVar[bool] = True
    """Whether `attention` works; it raises otherwise."""
    packs: ClassVar[bool] = False
    """Whether the released code hides padding from the encoder; then `encode` always has a mask."""
    takes_words: ClassVar[bool] = True
    """Whether the system accepts `word_path`, for which codes must attend to positions."""
    registry: ClassVar[dict[str, "type[Coder]"]] = {}
    fingerprint: dict[str, str] | None = None
    """Hashes of the words and codes that the model was trained with; see `marn.evaluation`."""
    options: dict[str, Any]
    """Options given to `build`, except the corpus; written into the card of a saved model."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        name = cls.__dict__.get("name")
        if name is None:
            return
        known = Coder.registry.get(name)
        # The same name from the same module: a notebook cell was run again.
        if known is not None and known.__module__ != cls.__module__:
            raise MarnError(
                f"a system named {name!r} already exists in {known.__module__}; choose another name"
            )
        Coder.registry[name] = cls

    def __init__(
        self,
        *,
        feature_size: int,
        head: Callable[[int, Mapping[str, int]], Head] = LabelAttention,
        vocabulary_size: int,
        tasks: Mapping[str, int],
        vectors: Tensor | None = None,
        embedding_size: int = 100,
        tune_embeddings: bool = True,
        embedding_dropout: float = 0.2,
        max_length: int = 4000,
        recalibrate: Fusion | None = None,
        ram_dropout: float = 0.2,
        ram_up: Up = "deconv",
        ram_tanh: bool = True,
        ram_start: RamStart = "released",
        padding: Padding = "masked",
        bias_start: BiasStart = "released",
        word_path: bool = False,
        code_start: CodeStart = "released",
    ) -> None:
        super().__init__()
        check("padding", Padding, padding)
        check("bias_start", BiasStart, bias_start)
        check("code_start", CodeStart, code_start)
        check("max_length", Count, max_length)
        _check_sizes(vocabulary_size, tasks, vectors)
        self.options = {}
        self.tasks = dict(tasks)
        self.max_length = max_length
        self.padding = padding
        self.bias_start = bias_start
        self.word_path = word_path
        self.code_start = code_start
        self.embedding = WordEmbedding(
            vocabulary_size,
            embedding_size if vectors is None else vectors.shape[1],
            vectors=vectors,
            tune=tune_embeddings,
            dropout=embedding_dropout,
        )
        self.ram = None
        if recalibrate:
            self.ram = RecalibratedAggregation(
                feature_size,
                fusion=recalibrate,
                up=ram_up,
                tanh=ram_tanh,
                dropout=ram_dropout,
                start=ram_start,
            )
        self.head = head(feature_size + word_path * self.embedding_size, self.tasks)
        if code_start == "titles" and not word_path:
            raise MarnError("code_start='titles' needs the words; set word_path=True")
        if word_path and not self.takes_words:
            raise MarnError(
                f"{self.name} cannot take word_path, which needs label attention over words; "
                "choose bigru_la, marn or caml"
            )

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Score notes.

        Args:
            tokens: (B, T) int64, padded with 0.
            lengths: (B,) int, real tokens of each note, >= 1.

        Returns:
            Logits {task: (B, C)}; a sigmoid turns them into probabilities.
        """
        return self.head(*self.features(tokens, lengths))

    def features(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode and recalibrate notes, and return the input of the head.

        Args:
            tokens: as in `forward`.
            lengths: as in `forward`.

        Returns:
            Features, (B, T', D) or with `word_path` (B, T', D + E); and their mask, (B, T') bool,
            or None with `padding="released"`.
        """
        tokens, lengths = self.to_subwords(tokens, lengths)
        masked = self.padding == "masked"
        seen = length_mask(lengths, tokens.shape[1]) if masked or self.packs else None
        x = self.embedding(tokens)  # (B, T, E)
        if seen is not None:
            x = x * seen[..., None]  # zero at padding
        h = self.encode(x, seen)  # (B, T', D)
        mask = length_mask(self.positions(lengths), h.shape[1]) if masked else None
        if self.ram is not None:
            h = self.ram(h, mask)
        return (self.join_words(h, x) if self.word_path else h), mask

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the features of each position.

        Args:
            x: (B, T, E), embedded words, zero at padding.
            mask: (B, T) bool, or None where padding takes part.

        Returns:
            (B, T', D), zero at padding if there is a mask. T' is T unless the system lengthens or
            shortens the note; see `positions` and `positions_to_tokens`.
        """
        raise NotImplementedError

    def to_subwords(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Cut notes into the units to embed: the first `max_length` words, unless overridden.

        Args:
            tokens: as in `forward`.
            lengths: as in `forward`.

        Returns:
            Rows of the embedding (B, U) int64, padded with 0, and the number of units of each note
            (B,).
        """
        tokens = tokens[:, : self.max_length]
        return tokens, lengths.clamp(max=self.max_length).to(tokens.device)

    def positions(self, lengths: Tensor) -> Tensor:
        """Count the encoded positions of notes with these lengths: (B,) -> (B,)."""
        return lengths

    def join_words(self, h: Tensor, x: Tensor) -> Tensor:
        """Concatenate features and word vectors: (B, T', D), (B, T, E) -> (B, T', D + E).

        A position after the last word gets zeros for the word vector.
        """
        return torch.cat([h, F.pad(x, (0, 0, 0, h.shape[1] - x.shape[1]))], dim=2)

    def attention(self, tokens: Tensor, lengths: Tensor, task: str) -> Tensor:
        """Compute how much each code attends to each token.

        Args:
            tokens: as in `forward`.
            lengths: as in `forward`.
            task: one of `tasks`.

        Returns:
            (B, C, T') float with T' = min(T, max_length). With `padding="masked"` the weights over
            a note's real tokens sum to 1; with `"released"` padding receives a share.

        Raises:
            MarnError: the model lacks the task, or its system has no attention.
        """
        if not self.has_attention:
            having = sorted(name for name, system in self.registry.items() if system.has_attention)
            raise MarnError(f"{self.name} has no attention; choose one of {having}")
        if task not in self.tasks:
            raise MarnError(f"task must be one of {sorted(self.tasks)}, but got {task!r}")
        features, mask = self.features(tokens, lengths)
        weights = self.head.attention(features, mask, task)
        units, sizes = self.to_subwords(tokens, lengths)
        width = units.shape[1]
        sizes = sizes.clamp(max=width) if mask is not None else torch.full_like(sizes, width)
        over_units = self.positions_to_tokens(weights, sizes, width)
        return self.subwords_to_words(over_units, tokens[:, : self.max_length], lengths)

    def positions_to_tokens(self, weights: Tensor, lengths: Tensor, width: int) -> Tensor:
        """Assign the weights of positions to tokens.

        Unless overridden, position i belongs to token i, and surplus positions belong to the last
        token.

        Args:
            weights: (B, C, T'), zero at positions beyond `lengths`.
            lengths: (B,) tokens of each note that may receive weight, >= 1.
            width: T, the tokens of a row.

        Returns:
            (B, C, T) with the sums of `weights`.
        """
        if weights.shape[2] == width:
            return weights
        steps = torch.arange(weights.shape[2], device=weights.device)
        target = torch.minimum(steps, lengths[:, None] - 1)  # (B, T')
        folded = weights.new_zeros(*weights.shape[:2], width)
        return folded.scatter_add_(2, target[:, None].expand_as(weights), weights)

    def subwords_to_words(self, weights: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Sum the weights (B, C, U) of units by word, (B, C, T), for tokens cut to `max_length`."""
        return weights

    def code_features(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Give each code's view of each note, V of Eq. 13: {task: (B, C, D)}."""
        return self.head.label_representations(*self.features(tokens, lengths))

    def penalty(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Compute what training adds to the loss of a batch: {task: (B, C)} targets -> scalar.

        It is 0 unless overridden.
        """
        return self.embedding.table.weight.new_zeros(())

    @classmethod
    def options_from_corpus(cls, corpus: Corpus) -> dict[str, Any]:
        """Take options from a corpus, beyond vocabulary and tasks; none unless overridden.

        Options given to `build` have priority. The values are written into the card of a saved
        model, so they must consist of lists, dictionaries, numbers and text.
        """
        return {}

    def saved_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options that rebuild this model from its card: all, unless overridden."""
        return options

    @torch.no_grad()
    def start_at_shares(self, corpus: Corpus) -> None:
        """Set each output bias to its code's log odds in the training notes: `bias_start="prior"`.

        If n of N notes have the code, its log odds are log((n + 1/2) / (N - n + 1/2)), which is
        finite even if no note has the code, or every note.

        Raises:
            MarnError: the corpus lacks the split "train" or a task, or a task has another number of
                codes.
        """
        for task, bias in self.head.bias.items():
            having = torch.from_numpy(corpus.frequency(task)) + 0.5  # (C,)
            if len(having) != len(bias):
                raise MarnError(
                    f"tasks gives {len(bias)} {task} codes, but the corpus has {len(having)}; "
                    "bias_start='prior' needs the codes of the corpus"
                )
            bias.copy_((having / (len(corpus["train"]) + 1 - having)).log())

    @torch.no_grad()
    def start_at_titles(self, corpus: Corpus) -> None:
        """Initialise queries and classifiers from the codes' titles: `code_start="titles"`.

        With v from `marn.models.descriptions.title_vectors`, the last E features, those of words,
        are set to 2 v in a query and to v in a classifier. `even_table` prepares the word vectors.

        Raises:
            MarnError: the corpus has other codes than the model.
        """
        if {task: corpus.tasks.get(task) for task in self.tasks} != self.tasks:
            raise MarnError(
                f"the model's tasks are {self.tasks}, but corpus {corpus.name!r} has "
                f"{corpus.tasks}; code_start='titles' needs the codes of the corpus"
            )
        for task, titles in title_vectors(corpus, self.even_table(), self.rows_of).items():
            if task in self.tasks:
                self.head.start_words(task, titles)

    def even_table(self) -> Tensor:
        """Centre the word vectors and scale them to length 1, so that dot products compare words.

        Returns:
            The embedding table (rows, E), which is changed in place.
        """
        table = self.embedding.table.weight.data
        table[1:] = F.normalize(table[1:] - table[1:-1].mean(dim=0), dim=1)
        return table

    def rows_of(self, words: NDArray[Any]) -> NDArray[Any]:
        """Return the embedding rows of words: (n,) -> (m,), the same unless overridden."""
        return words

    @property
    def embedding_size(self) -> int:
        """E, the width of a word vector."""
        return self.embedding.table.embedding_dim

    @property
    def declared_unused(self) -> int:
        """Number of parameters that the released code declares and never uses."""
        return self.head.declared_unused

    def count_parameters(self, *, embeddings: bool = True, unused: bool = False) -> int:
        """Count parameters, frozen ones included.

        Args:
            embeddings: include the word vectors.
            unused: include those that the released code declares and never uses (the bias of the
                label queries); published counts include them.
        """
        count = sum(parameter.numel() for parameter in self.parameters())
        if not embeddings:
            count -= self.embedding.table.weight.numel()
        return count + (self.declared_unused if unused else 0)


def _check_sizes(vocabulary_size: int, tasks: Mapping[str, int], vectors: Tensor | None) -> None:
    if not tasks or any(codes < 1 for codes in tasks.values()):
        raise MarnError(f"tasks must give each task at least one code, but got {dict(tasks)}")
    if vocabulary_size < 3:
        raise MarnError(
            f"vocabulary_size must be at least 3 (padding, a word, the unknown word), "
            f"but got {vocabulary_size}"
        )
    if vectors is not None and len(vectors) != vocabulary_size:
        raise MarnError(
            f"vectors have {len(vectors)} rows, but vocabulary_size is {vocabulary_size}"
        )
