"""Read word vectors of others: files of word2vec, GloVe or fastText, or gensim's `KeyedVectors`."""

import gzip
import mmap
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from marn.corpus.text import Vocabulary
from marn.errors import MarnError

_LINE = 1 << 20  # bytes of a line at most


def read_vectors(source: Any, vocabulary: Vocabulary, seed: int = 0) -> tuple[Tensor, int]:
    """Look up the words of a vocabulary in a source of word vectors.

    Vectors are scaled to length 1, like those of a prepared corpus. Padding is zero, and words
    missing from the source get random vectors. A capitalised word of the source is used where the
    lower-case form is missing. Files are read word by word, so they may be of any size.

    Args:
        source: a file in the format of word2vec, as text or binary (`.bin`), or of GloVe or
            fastText (text; perhaps `.gz`); a dictionary of vectors; or gensim's `KeyedVectors`.
        vocabulary: the vocabulary of a corpus.
        seed: seed of the vectors of missing words.

    Returns:
        (V + 2, E) float32, and how many of the V words the source has.

    Raises:
        MarnError: the source is missing, damaged or of an unknown kind, or has none of the words.
    """
    found: Iterator[tuple[str, Any]]
    named = getattr(source, "key_to_index", source)
    if isinstance(named, Mapping):
        what, found = "vectors", iter([(word, source[word]) for word in named])
    elif isinstance(source, str | Path):
        what, found = str(source), _read(Path(source))
    else:
        raise MarnError(f"vectors must be a file, KeyedVectors or a tensor, not {type(source)!r}")
    numbers = {word: number for number, word in enumerate(vocabulary.words, start=1)}
    rows: dict[int, np.ndarray] = {}
    try:
        for word, vector in found:
            number = numbers.get(word) or numbers.get(word.lower())
            if number and (word in numbers or number not in rows):
                rows[number] = np.asarray(vector, np.float32)
    except (OSError, EOFError, ValueError, TypeError) as error:
        # numpy's message would quote the cell, which may hold words of a note
        reason = getattr(error, "strerror", None) or "a row is not a word and its numbers, or cut"
        raise MarnError(f"{what} cannot be read as word vectors ({reason})") from None
    widths = {vector.shape for vector in rows.values()}
    sound = all(vector.ndim == 1 and np.isfinite(vector).all() for vector in rows.values())
    if len(widths) != 1 or not sound:
        why = "vectors of several sizes, or that are not numbers" if rows else "none of the words"
        raise MarnError(f"{what} has {why} of the corpus; choose another file")
    generator = np.random.default_rng(seed)
    table = generator.uniform(-1, 1, (len(vocabulary), *widths.pop())).astype(np.float32)
    for number, vector in rows.items():
        table[number] = vector
    table[0] = 0
    return F.normalize(torch.from_numpy(table), dim=1), len(rows)


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the words of a file and their vectors."""
    if path.suffix.lower() == ".bin":
        yield from _read_binary(path)
        return
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        first = file.readline(_LINE)
        begin = [] if len(first.split()) == 2 else [first]  # GloVe has no line of sizes
        width = 0
        for line in chain(begin, iter(lambda: file.readline(_LINE), b"")):
            width = width or len(line.split()) - 1
            word, *vector = line.rstrip().rsplit(b" ", width)
            if len(vector) != width or not width:
                raise ValueError
            yield word.decode("utf-8", "replace"), vector


def _read_binary(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = data.find(b"\n", 0, 100) + 1
        count, width = map(int, data[: place or 100].split())
        for _ in range(count):
            end = data.find(b" ", place, place + _LINE)
            after = end + 1 + 4 * width
            if end < 0 or not end + 1 < after <= len(data):
                raise EOFError
            word = data[place:end].lstrip(b"\n").decode("utf-8", "replace")
            yield word, np.frombuffer(data[end + 1 : after], "<f4")
            place = after
