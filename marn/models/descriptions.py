"""Read the descriptions of codes as words, check them, and make one vector of each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from marn.corpus import Corpus
from marn.corpus.text import tokenize
from marn.errors import MarnError

Descriptions = Mapping[str, Sequence[Sequence[int]]]
"""{task: for each code, in the order of the logits, its words as ids}."""


def descriptions(corpus: Corpus) -> dict[str, list[list[int]]]:
    """Encode the titles of a corpus's codes as word ids, see `Descriptions`."""
    return {
        task: [corpus.vocabulary.encode(tokenize(code.title)).tolist() for code in codes]
        for task, codes in corpus.codes.items()
    }


def check_descriptions(
    system: str,
    descriptions: Descriptions | None,
    tasks: Mapping[str, int],
    vocabulary_size: int,
    *,
    every: bool,
) -> dict[str, list[list[int]]]:
    """Check the descriptions of a model's codes.

    Args:
        system: name of the system, for the error.
        descriptions: for some tasks; tasks that the model does not have are left out.
        tasks: number of codes of each task of the model.
        vocabulary_size: rows of the embedding; the last one is the unknown word.
        every: whether all tasks must have descriptions, or one of them is enough.

    Returns:
        {task: the words of each code}; a code without words gets the unknown word.

    Raises:
        MarnError: descriptions are missing, not lists of word ids, or not one for each code.
    """
    given = {task: texts for task, texts in (descriptions or {}).items() if task in tasks}
    missing = [task for task in tasks if task not in given]
    if not given or (every and missing):
        which = "every one" if every else "one"
        raise MarnError(
            f"{system} needs descriptions of the codes of {which} of its tasks, but has none for "
            f"{missing}; give a corpus, or descriptions={{task: a list of word ids for each code}}"
        )
    for task, texts in given.items():
        if len(texts) != tasks[task]:
            raise MarnError(f"task {task!r} has {tasks[task]} codes, but {len(texts)} descriptions")
        words = [word for text in texts for word in text]
        if not all(isinstance(word, int) and 0 < word < vocabulary_size for word in words):
            raise MarnError(
                f"descriptions of task {task!r} must be lists of word ids from 1 to "
                f"{vocabulary_size - 1}; take .tolist() of an array"
            )
    unknown = vocabulary_size - 1
    return {task: [list(text) or [unknown] for text in texts] for task, texts in given.items()}


def mean_vectors(texts: Sequence[Sequence[int]], table: Tensor) -> Tensor:
    """Average the word vectors of each description.

    Args:
        texts: the words of each code, at least one.
        table: (rows, E), the word vectors.

    Returns:
        (C, E), detached from the table: they do not change with it.
    """
    table = table.detach()
    return torch.stack([table[torch.tensor(list(text))].mean(dim=0) for text in texts])


def title_vectors(
    corpus: Corpus, table: Tensor, rows_of: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
) -> dict[str, Tensor]:
    """Turn each code's title into a unit vector: the weighted sum of its word vectors.

    The weight of a word is log(N / n) if n of the N training notes have it, and 0 if it is an
    English stop word or not in the vocabulary. Where words are cut into pieces, each piece is
    weighted in the same way.

    Args:
        corpus: provides the titles, the vocabulary and the training notes.
        table: (rows, E), the vectors of words, or of pieces of words.
        rows_of: maps word ids (n,) to rows of `table` (m,); by default each word has its own row.

    Returns:
        {task: (C, E)}, vectors of length 1; zero for a title in which no word has a weight.

    References:
        The weights are those of TF-IDF (Spärck Jones 1972).
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # takes a second to import

    table, train = table.detach(), corpus["train"]
    having = np.zeros(len(table))
    for note in range(len(train)):
        having[np.unique(rows_of(train.note_tokens(note)))] += 1
    weight = np.log(len(train) / having.clip(min=1))
    silent = [corpus.vocabulary.unknown, *corpus.vocabulary.encode(ENGLISH_STOP_WORDS)]
    weight[rows_of(np.array(silent))] = 0
    weights = torch.from_numpy(weight).to(table)
    found = {}
    for task, titles in descriptions(corpus).items():
        rows = [rows_of(np.array(title, np.int64)) for title in titles]
        sums = [weights[row] @ table[row] for row in rows]
        found[task] = F.normalize(torch.stack(sums), dim=1)
    return found
