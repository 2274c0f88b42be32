"""Attentive LSTM after Shi et al. 2017: written diagnoses and code titles, read by letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from marn.errors import MarnError
from marn.models.base import Coder, SharedOptions, descriptions
from marn.models.descriptions import Descriptions, check_descriptions
from marn.nn.layers import Head, WordEmbedding, length_mask

Attend = Literal["soft", "hard"]

LETTERS = 20
"""Letters of a word that are read."""


def last_states(lstm: nn.LSTM, x: Tensor, sizes: Tensor) -> Tensor:
    """Run an LSTM and give its state at the end of each sequence.

    Args:
        lstm: one layer, one direction, batch first.
        x: (N, L, E); what lies behind the end of a sequence has no effect.
        sizes: (N,) int; a sequence of length 0 has state 0.

    Returns:
        (N, H).
    """
    states, _ = lstm(x)
    ends = states[torch.arange(len(x), device=x.device), sizes.clamp(min=1) - 1]
    return ends * (sizes > 0)[:, None]


class SpelledEmbedding(WordEmbedding):
    """Word vectors, each beside the last state of an LSTM over the letters of the word.

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
        super().__init__(
            len(vectors), vectors.shape[1], vectors=vectors, tune=tune, dropout=dropout
        )
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

    Hard attention takes the one diagnosis with the largest product instead of the sum. A classifier
    that all codes share could not tell them apart in a note of a single diagnosis, where all e_l
    are equal.

    Args:
        size: D, features of a diagnosis.
        tasks: number of codes of each task.
        titles: {task: for each code the places of its words in `words`, at least one}.
        words: embedding of the words of all titles; place 0 is padding.
        word_size: features that it gives a word.
        attend: `"soft"` or `"hard"`.
    """

    def __init__(
        self,
        size: int,
        tasks: Mapping[str, int],
        *,
        titles: Mapping[str, Sequence[Sequence[int]]],
        words: WordEmbedding,
        word_size: int,
        attend: Attend,
    ) -> None:
        super().__init__(tasks)
        self.attend = attend
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

    def _weights(self, codes: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        scores = codes @ features.transpose(1, 2)  # (B, C, S)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], float("-inf"))
        if self.attend == "hard":
            return F.one_hot(scores.argmax(dim=2), scores.shape[2]).to(features.dtype)
        return scores.softmax(dim=2)

    def label_representations(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Put what each code found beside its title: (B, S, D) -> {task: (B, C, 2 D)}."""
        views = {}
        for task in self.tasks:
            codes = self.read(task)
            found = self._weights(codes, features, mask) @ features
            views[task] = torch.cat([found, codes.expand_as(found)], dim=2)
        return views

    def attention(self, features: Tensor, mask: Tensor | None, task: str) -> Tensor:
        """Tell what each code looks at: (B, S, D) -> (B, C, S), each row summing to 1."""
        return self._weights(self.read(task), features, mask)


class AttentiveLSTM(Coder):
    """Attentive LSTM, after Shi et al. 2017.

    A reconstruction: no code was found, and of the paper the abstract was read; the rest is general
    knowledge of it. There the input is the list of diagnoses that the physician wrote at the end of
    a stay, which takes a parser of the notes' sections. Here a note is any text, and
    `segment_size` words in a row are read as one written diagnosis, the last of them perhaps
    shorter. That is another input, and figures of the two are not to be compared; a corpus of
    diagnosis sections would come close to the original. The paper's own 50 codes and split are not
    CAML's either. Further assumptions: a word's vector stands beside its spelling; the spelling is
    read to the 20th letter; the last states stand for words, diagnoses and titles; each code has a
    classifier of its own; all sizes.

    Parameters beside the embedding with 50 codes: 171,650, and 100 for padding and for each word of
    the titles; the spelling adds 81,000, and 100 for each letter of the alphabet. The paper gives
    none.

    Args:
        descriptions: for each task its codes' titles as word ids, in the order of the logits, as
            lists (they are written into the model's card). `build` takes those of a corpus. A code
            without words has the unknown word as its title.
        spelling: the words of the vocabulary, in order; `build` takes those of a corpus. None
            leaves letters out, which the paper found to be worse.
        segment_size: words of a written diagnosis; 10, an assumption.
        hidden_size: D, width of both LSTMs over words; 100, an assumption.
        letter_size: width of a letter's vector and of the LSTMs over letters; 50, an assumption.
        attend: `"soft"`, the better one in the paper, or `"hard"`.
        **shared: see `Coder`; `max_length` is 2,500 here.

    Raises:
        MarnError: titles of a task are missing, not lists of word ids, or not one for each code;
            `spelling` has not one word for each row of the embedding but the first and last;
            `segment_size` is below 1; `attend` is unknown.

    References:
        Shi, Xie, Hu, Zhang and Xing 2017 (arXiv 1711.04075), abstract.
    """

    name = "attentive_lstm"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "loss": "bce",
        "learning_rate": 1e-3,  # of Adam; the rate is an assumption
    }
    paper_settings: ClassVar[Mapping[str, Any]] = {
        "optimiser": "Adam",
        "monitor": None,
        "max_length": None,
        "embedding_dropout": None,
        "tune_embeddings": None,
        "source": "Shi et al. 2017, abstract; Adam is general knowledge, the recipe assumed",
    }

    def __init__(
        self,
        *,
        descriptions: Descriptions | None = None,
        spelling: Sequence[str] | None = None,
        segment_size: int = 10,
        hidden_size: int = 100,
        letter_size: int = 50,
        attend: Attend = "soft",
        **shared: Unpack[SharedOptions],
    ) -> None:
        shared.setdefault("max_length", 2500)
        if attend not in get_args(Attend):
            raise MarnError(f"attend must be one of {get_args(Attend)}, but got {attend!r}")
        if segment_size < 1:
            raise MarnError(f"segment_size must be at least one word, but got {segment_size}")
        rows = shared["vocabulary_size"]
        texts = check_descriptions(self.name, descriptions, shared["tasks"], rows, every=True)
        if spelling is not None and len(spelling) != rows - 2:
            raise MarnError(
                f"spelling must give the {rows - 2} words of the vocabulary, but gives "
                f"{len(spelling)}"
            )
        alphabet = sorted({letter for word in spelling or () for letter in word[:LETTERS]})

        def embedding(ids: Sequence[int]) -> WordEmbedding:
            """Embed some rows of the vocabulary, in their order, padding first."""
            plain = self.embedding  # made by `Coder` before the head
            vectors = plain.table.weight.detach()[torch.tensor(ids)]
            tune, dropout = plain.table.weight.requires_grad, plain.dropout.p
            if spelling is None:
                return WordEmbedding(
                    len(ids), vectors.shape[1], vectors=vectors, tune=tune, dropout=dropout
                )
            number = {letter: place for place, letter in enumerate(alphabet, start=1)}
            unknown = [len(alphabet) + 1]  # a letter that stands for any unknown word
            words = [[], *([number[c] for c in word[:LETTERS]] for word in spelling), unknown]
            letters = [torch.tensor(words[row], dtype=torch.int64) for row in ids]
            return SpelledEmbedding(
                vectors,
                pad_sequence(letters, batch_first=True),
                alphabet=len(alphabet) + 2,
                size=letter_size,
                tune=tune,
                dropout=dropout,
            )

        extra = letter_size if spelling is not None else 0

        def head(size: int, tasks: Mapping[str, int]) -> TitleAttention:
            used = sorted({word for task in tasks for title in texts[task] for word in title})
            place = {word: row for row, word in enumerate(used, start=1)}
            return TitleAttention(
                size,
                tasks,
                titles={task: [[place[w] for w in t] for t in texts[task]] for task in tasks},
                words=embedding([0, *used]),
                word_size=self.embedding_size + extra,
                attend=attend,
            )

        super().__init__(feature_size=hidden_size, head=head, **shared)
        self.segment_size = segment_size
        self.reader = nn.LSTM(self.embedding_size + extra, hidden_size, batch_first=True)
        self.embedding = embedding(range(rows))

    @classmethod
    def options_from_corpus(cls, corpus: Any) -> dict[str, Any]:
        """Take the titles of the codes, and the words of the vocabulary for their spelling."""
        return {"descriptions": descriptions(corpus), "spelling": list(corpus.vocabulary.words)}

    def positions(self, lengths: Tensor) -> Tensor:
        """Segments, the last one perhaps not full."""
        return (lengths + self.segment_size - 1) // self.segment_size

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, E') -> (B, S, D), the segments."""
        notes, width, _ = x.shape
        size = self.segment_size
        seen = x.new_ones(notes, width, dtype=torch.bool) if mask is None else mask
        missing = -width % size
        segments = F.pad(x, (0, 0, 0, missing)).unflatten(1, (-1, size))  # (B, S, size, E')
        sizes = F.pad(seen, (0, missing)).unflatten(1, (-1, size)).sum(dim=2)  # (B, S)
        states = last_states(self.reader, segments.flatten(0, 1), sizes.flatten())
        return states.view(notes, -1, states.shape[1])

    def positions_to_tokens(self, weights: Tensor, lengths: Tensor, width: int) -> Tensor:
        """Share a segment's weight evenly among its words."""
        real = length_mask(lengths, width)  # (B, T)
        missing = -width % self.segment_size
        counts = F.pad(real, (0, missing)).unflatten(1, (-1, self.segment_size)).sum(dim=2)
        shares = weights / counts.clamp(min=1)[:, None]
        return shares.repeat_interleave(self.segment_size, dim=2)[:, :, :width] * real[:, None]
