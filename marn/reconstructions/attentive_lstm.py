"""Attentive LSTM after Shi et al. 2017: written diagnoses and code titles, read by letters."""

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
from marn.nn.layers import Head, WordEmbedding, attention_weights

LETTERS = 20
"""Letters of a word that are read."""


def spell(words: Sequence[str]) -> list[list[int]]:
    """Number the letters of the words of a vocabulary.

    Returns:
        The letters of padding, which has none, of each word, and of the unknown word, which has one
        that no other word has; as numbers from 1 to the unknown word's.

    Example:
        >>> spell(["ab", "b"])
        [[], [1, 2], [2], [3]]
    """
    alphabet = sorted({letter for word in words for letter in word[:LETTERS]})
    number = {letter: place for place, letter in enumerate(alphabet, start=1)}
    return [[], *([number[c] for c in word[:LETTERS]] for word in words), [len(alphabet) + 1]]


def last_states(lstm: nn.LSTM, x: Tensor, sizes: Tensor) -> Tensor:
    """Run an LSTM and give its state at the end of each sequence.

    Args:
        lstm: one layer, one direction, batch first.
        x: (N, L, E); what follows the end of a sequence has no effect.
        sizes: (N,) int; a sequence of length 0 has state 0.

    Returns:
        (N, H).
    """
    states, _ = lstm(x)
    ends = states[torch.arange(len(x), device=x.device), sizes.clamp(min=1) - 1]
    return ends * (sizes > 0)[:, None]


class SpelledEmbedding(WordEmbedding):
    """Word vectors, each followed by the last state of an LSTM over the letters of the word.

    Args:
        vectors: (rows, E), initial table; row 0 is padding.
        letters: (rows, up to `LETTERS`) int64, letters of the words as numbers from 1, then 0.
        alphabet: rows of the table of letters: the letters and 0.
        size: width of a letter's vector, and of the LSTM's state, which follow the E features.
        tune: whether training changes the word vectors.
        dropout: share of features dropped at the end.
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
        """(B, T) int64 -> (B, T, E + size)."""
        words, places = tokens.unique(return_inverse=True)
        letters = self.get_buffer("letters")[words]  # (words, letters)
        spelled = last_states(self.speller, self.alphabet(letters), (letters > 0).sum(dim=1))
        return self.dropout(torch.cat([self.table(tokens), spelled[places]], dim=2))


class TitleAttention(Head):
    r"""Each code looks for its title among the written diagnoses.

    The title of code l is read by an LSTM over its words, which have vectors of their own; its last
    state is :math:`c_l`. With diagnoses :math:`h_j`, classifier :math:`w_l` and bias :math:`b_l`:

    .. math::
        a_{lj} = \mathrm{softmax}_j(h_j \cdot c_l), \quad e_l = \sum_j a_{lj} h_j, \quad
        \mathrm{logit}_l = w_l \cdot [e_l; c_l] + b_l

    A classifier shared by all codes could not tell them apart in a note of a single diagnosis,
    where all e_l are equal.

    Args:
        size: D, features of a diagnosis.
        tasks: number of codes of each task.
        titles: {task: for each code the rows of its words in `words`, at least one}.
        words: embedding of the words of all titles; row 0 is padding.
        word_size: features that it gives a word.
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
        """Read the titles of a task: (C, D)."""
        titles = self.get_buffer(f"titles_{task}")
        return last_states(self.reader, self.words(titles), (titles > 0).sum(dim=1))

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Put what each code found beside its title: (B, S, D) -> {task: (B, C, 2 D)}."""
        views = {}
        for task in self.tasks:
            codes = self.read(task)
            found = attention_weights(codes, features, mask) @ features
            views[task] = torch.cat([found, codes.expand_as(found)], dim=2)
        return views

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Give each code's weights over the diagnoses: (B, S, D) -> (B, C, S), rows sum to 1."""
        return attention_weights(self.read(task), features, mask)


class AttentiveLSTM(Segmented, Coder):
    """Attentive LSTM, after Shi et al. 2017.

    A reconstruction: no code was found, and only the paper's abstract was read; the rest is general
    knowledge of it. There the input is the list of diagnoses that the physician wrote at the end of
    a stay, which takes a parser of the notes' sections. Here a note is any text, and `segment_size`
    words in a row are read as one written diagnosis. The inputs differ, so scores cannot be
    compared; nor are the paper's 50 codes and split CAML's. Further assumptions: a word's vector is
    followed by its spelling, read to the 20th letter; the last states represent words, diagnoses
    and titles; each code has its own classifier; all sizes. Of the paper's two attentions this is
    the soft one, which it found to be better. It takes no `word_path`: a code's query is the
    state of an LSTM that has read the title, in which no features are words.

    Parameters beside the embedding with 50 codes: 171,650, and 100 for padding and for each word of
    the titles; the spelling adds 81,000, and 100 for each letter of the alphabet. The paper gives
    none.

    Args:
        descriptions: for each task its codes' titles as word ids, in the order of the logits.
            `build` takes those of a corpus. The title of a code without words is the unknown word.
        spelling: the words of the vocabulary, in order; `build` takes those of a corpus. None
            leaves letters out, which the paper found to be worse.
        segment_size: words of a written diagnosis; 10, an assumption.
        hidden_size: D, width of both LSTMs over words; 100, an assumption.
        letter_size: width of a letter's vector and of the LSTM over letters; 50, an assumption.
        **shared: see `Coder`; `max_length` is 2,500 here.

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
        """(B, T, E') -> (B, S, D), the segments."""
        seen = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        segments = cut_segments(x, self.segment_size)  # (B, S, size, E')
        sizes = cut_segments(seen, self.segment_size).sum(dim=2)  # (B, S)
        states = last_states(self.reader, segments.flatten(0, 1), sizes.flatten())
        return states.view(len(x), -1, states.shape[1])
