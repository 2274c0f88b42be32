"""Attentive LSTM after Shi et al. 2017: codes attend to written diagnoses by their titles."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from marn.corpus import Corpus
from marn.errors import MarnError
from marn.models.base import Coder
from marn.models.descriptions import Descriptions, check_descriptions, descriptions
from marn.models.segments import Segmented, cut_segments
from marn.nn.layers import Head, WordEmbedding, attention_weights, run_recurrent

LETTERS = 20
"""Number of letters that are read of a word."""


def spell(words: Sequence[str]) -> list[list[int]]:
    """Encode the words of a vocabulary by their letters, numbered from 1.

    Args:
        words: the words, without padding and the unknown word.

    Returns:
        The letters of padding, which has none; of each word, up to `LETTERS`; and of the unknown
        word, which has one letter that no other word has, with the highest number.

    Example:
        >>> spell(["ab", "b"])
        [[], [1, 2], [2], [3]]
    """
    alphabet = sorted({letter for word in words for letter in word[:LETTERS]})
    number = {letter: place for place, letter in enumerate(alphabet, start=1)}
    return [[], *([number[c] for c in word[:LETTERS]] for word in words), [len(alphabet) + 1]]


def last_states(lstm: nn.LSTM, x: Tensor, sizes: Tensor) -> Tensor:
    """Run an LSTM and return its state at the end of each sequence.

    Args:
        lstm: one layer, one direction, batch first.
        x: (N, T, E); whatever follows the end of a sequence has no effect.
        sizes: (N,) int, length of each sequence; one of length 0 has state 0.

    Returns:
        (N, H).
    """
    states = run_recurrent(lstm, x)
    ends = states[torch.arange(len(x), device=x.device), sizes.clamp(min=1) - 1]
    return ends * (sizes > 0)[:, None]


class SpelledEmbedding(WordEmbedding):
    """Concatenate each word vector with the last state of an LSTM over the word's letters.

    Args:
        vectors: (rows, E), initial table; row 0 is padding.
        letters: (rows, at most `LETTERS`) int64, letters of each word, numbered from 1 and padded
            with 0.
        alphabet: number of rows of the letter embedding, row 0 for padding included.
        size: width of a letter's vector and of the LSTM's state.
        tune: whether training changes the word vectors.
        dropout: dropout probability at the end.
    """

    def __init__(
        self,
        vectors: Tensor,
        letters: Tensor,
        *,
        alphabet: int,
        size: int,
        tune: bool,
        dropout: float,
    ) -> None:
        super().__init__(*vectors.shape, vectors=vectors, tune=tune, dropout=dropout)
        self.register_buffer("letters", letters, persistent=False)
        self.alphabet = nn.Embedding(alphabet, size, padding_idx=0)
        self.speller = nn.LSTM(size, size, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed words: (B, T) int64 -> (B, T, E + size)."""
        words, places = tokens.unique(return_inverse=True)
        letters = self.get_buffer("letters")[words]  # (words, letters)
        spelled = last_states(self.speller, self.alphabet(letters), (letters > 0).sum(dim=1))
        return self.dropout(torch.cat([self.table(tokens), spelled[places]], dim=2))


class TitleAttention(Head):
    r"""Label attention in which each code looks for its title among the written diagnoses.

    An LSTM reads the words of the title of code l, which have a separate embedding; its last state
    is :math:`c_l`. With diagnoses :math:`h_j`, classifier :math:`w_l` and bias :math:`b_l`:

    .. math::
        a_{lj} = \mathrm{softmax}_j(h_j \cdot c_l), \quad e_l = \sum_j a_{lj} h_j, \quad
        \mathrm{logit}_l = w_l \cdot [e_l; c_l] + b_l

    A classifier shared by all codes could not tell them apart in a note of a single diagnosis,
    where all e_l are equal.

    Args:
        size: D, number of features of a diagnosis.
        tasks: number of codes of each task.
        titles: {task: for each code the rows of its words in `words`, at least one}.
        words: embedding of the words of all titles; row 0 is padding.
        word_size: number of features that `words` returns for a word.
    """

    def __init__(
        self,
        size: int,
        tasks: Mapping[str, int],
        *,
        titles: Mapping[str, Sequence[Sequence[int]]],
        words: WordEmbedding,
        word_size: int,
    ) -> None:
        super().__init__(tasks)
        self.words = words
        self.reader = nn.LSTM(word_size, size, batch_first=True)
        for task, codes in self.tasks.items():
            places = [torch.tensor(list(title)) for title in titles[task]]
            padded = pad_sequence(places, batch_first=True)  # (C, words)
            self.register_buffer(f"titles_{task}", padded, persistent=False)
            self.weight[task] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(codes, 2 * size)))
            self.bias[task] = nn.Parameter(torch.zeros(codes))

    def read(self, task: str) -> Tensor:
        """Encode the titles of a task: (C, D)."""
        titles = self.get_buffer(f"titles_{task}")
        return last_states(self.reader, self.words(titles), (titles > 0).sum(dim=1))

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Give each code its view, [e; c]: (B, S, D) -> {task: (B, C, 2 D)}."""
        views = {}
        for task in self.tasks:
            codes = self.read(task)
            found = attention_weights(codes, features, mask) @ features
            views[task] = torch.cat([found, codes.expand_as(found)], dim=2)
        return views

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Compute each code's weights over the diagnoses: (B, S, D) -> (B, C, S), sums of 1."""
        return attention_weights(self.read(task), features, mask)


class AttentiveLSTM(Segmented, Coder):
    """Attentive LSTM, after Shi et al. 2017.

    This is a reconstruction: no code was found, and only the paper's abstract was read; the rest is
    general knowledge of the paper. Its input is the list of diagnoses that the physician wrote at
    the end of an admission, which requires a parser of the sections of a note. Here a note is any
    text, and every `segment_size` consecutive words are read as one written diagnosis. Scores
    cannot be compared, because the inputs differ and the paper's 50 codes and split are not CAML's.
    Further assumptions: a word vector is followed by the word's spelling, read to the 20th letter;
    the last states represent words, diagnoses and titles; each code has its own classifier; all
    sizes. Of the paper's two kinds of attention this is the soft one, which the paper found better.
    The system does not accept `word_path`: a code's query is the state of an LSTM that has read the
    title, in which no features are words.

    Without the embedding it has 171,650 parameters for 50 codes, and another 100 for padding and
    for each word of the titles. The spelling adds 81,000, and 100 for each letter of the alphabet.
    The paper gives no size.

    Args:
        descriptions: for each task its codes' titles as word ids, in the order of the logits.
            `build` takes those of a corpus. The title of a code without words is the unknown word.
        spelling: the words of the vocabulary, in order; `build` takes those of a corpus. None
            leaves the letters out, which the paper found to be worse.
        segment_size: number of words of a written diagnosis; 10, an assumption.
        hidden_size: D, width of both LSTMs over words; 100, an assumption.
        letter_size: width of a letter's vector and of the LSTM over letters; 50, an assumption.
        **shared: see `Coder`; `max_length` is 2,500 here.

    Raises:
        MarnError: descriptions are missing, or they or the spelling do not fit.

    References:
        Shi, Xie, Hu, Zhang and Xing 2017 (arXiv 1711.04075), abstract.
    """

    name = "attentive_lstm"
    takes_words = False
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 1e-3,  # an assumption
    }

    def __init__(
        self,
        *,
        descriptions: Descriptions | None = None,
        spelling: Sequence[str] | None = None,
        segment_size: int = 10,
        hidden_size: int = 100,
        letter_size: int = 50,
        **shared: Any,
    ) -> None:
        shared.setdefault("max_length", 2500)
        rows = shared["vocabulary_size"]
        texts = check_descriptions(self.name, descriptions, shared["tasks"], rows, every=True)
        if spelling is not None and len(spelling) != rows - 2:
            raise MarnError(
                f"spelling must give the {rows - 2} words of the vocabulary, but gives "
                f"{len(spelling)}"
            )
        spelled = None if spelling is None else spell(spelling)
        word_size = 0 if spelling is None else letter_size

        def embed(ids: Sequence[int]) -> WordEmbedding:
            """Copy rows of the embedding that `Coder` created, with their letters."""
            table = self.embedding.table.weight
            options: dict[str, Any] = {
                "vectors": table.detach()[torch.tensor(ids)],
                "tune": table.requires_grad,
                "dropout": self.embedding.dropout.p,
            }
            if spelled is None:
                return WordEmbedding(len(ids), self.embedding_size, **options)
            letters = [torch.tensor(spelled[row], dtype=torch.int64) for row in ids]
            return SpelledEmbedding(
                letters=pad_sequence(letters, batch_first=True),
                alphabet=spelled[-1][0] + 1,
                size=letter_size,
                **options,
            )

        def head(size: int, tasks: Mapping[str, int]) -> TitleAttention:
            used = sorted({word for task in tasks for title in texts[task] for word in title})
            place = {word: row for row, word in enumerate(used, start=1)}
            return TitleAttention(
                size,
                tasks,
                titles={task: [[place[w] for w in t] for t in texts[task]] for task in tasks},
                words=embed([0, *used]),
                word_size=self.embedding_size + word_size,
            )

        super().__init__(feature_size=hidden_size, head=head, **shared)
        self.segment_size = segment_size
        self.reader = nn.LSTM(self.embedding_size + word_size, hidden_size, batch_first=True)
        self.embedding = embed(range(rows))

    @classmethod
    def options_from_corpus(cls, corpus: Corpus) -> dict[str, Any]:
        """Take the titles of the codes, and the words of the vocabulary for their spelling."""
        return {"descriptions": descriptions(corpus), "spelling": list(corpus.vocabulary.words)}

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode segments: (B, T, E') -> (B, S, D), where E' includes the spelling."""
        seen = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        segments = cut_segments(x, self.segment_size)  # (B, S, size, E')
        sizes = cut_segments(seen, self.segment_size).sum(dim=2)  # (B, S)
        states = last_states(self.reader, segments.flatten(0, 1), sizes.flatten())
        return states.view(len(x), -1, states.shape[1])
