"""From the text of a note to words and from words to numbers.

The rule is CAML's, which every system of the papers shares. What counts as a code is in
`marn.corpus.codes`; how the numbers lie on disk is in `marn.corpus`.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np

from marn.errors import MarnError

PAD = 0
"""The number that fills a batch; no word has it."""

_WORD = re.compile(r"\w+")
# What the rule does to one ASCII byte: a word character in lower case, or a blank.
_ASCII = bytes(
    ord(chr(byte).lower()) if byte < 128 and _WORD.match(chr(byte)) else 32 for byte in range(256)
)


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words, numbers still among them.

    `tokenize` is this without the numbers. It is apart because the reader of a large table drops
    the numbers later, all at once.

    Args:
        text: any text.

    Returns:
        Maximal runs of letters, digits and underscores, in lower case, in order.
    """
    if text.isascii():  # seven times as fast as the pattern, and equal to it
        return text.encode("ascii").translate(_ASCII).decode("ascii").split()
    return [word.lower() for word in _WORD.findall(text)]


def tokenize(text: str) -> list[str]:
    r"""Split a text into the words that a model reads.

    Words are matches of `\w+`; those that are numeric throughout are dropped; the rest is put in
    lower case. So "7.5 mg" gives one word, "q8h" stays, and so does "1_2".

    Args:
        text: any text.

    Returns:
        The words in order.

    References:
        Mullenbach et al. 2018 (CAML), section 4; the numeric test is `str.isnumeric`, as in the
        code the authors released.

    Example:
        >>> tokenize("Given 40 mg Lasix IV, [**Hospital1 18**]")
        ['given', 'mg', 'lasix', 'iv', 'hospital1']
    """
    return [word for word in split_words(text) if not word.isnumeric()]


def token_spans(text: str) -> tuple[list[str], np.ndarray]:
    """Say where in the text each word of `tokenize` stands.

    Args:
        text: any text.

    Returns:
        The words of `tokenize(text)` and an (n, 2) int64 array: first character and the one
        after the last, counted in characters of `text`.

    Example:
        >>> words, spans = token_spans("ate 3 Figs")
        >>> words, spans.tolist()
        (['ate', 'figs'], [[0, 3], [6, 10]])
    """
    found = [match for match in _WORD.finditer(text) if not match.group().isnumeric()]
    spans = np.array([match.span() for match in found], dtype=np.int64).reshape(-1, 2)
    return [match.group().lower() for match in found], spans


class Vocabulary:
    """The words a model knows, each with its number.

    Numbers: 0 is padding (`PAD`), 1 to V are the words in their order, V + 1 is any other word.
    `len(vocabulary)` is V + 2, the rows of an embedding table.

    Args:
        words: the V words, sorted and without repetition.

    Raises:
        MarnError: if the words are not sorted or repeat.

    Example:
        >>> vocabulary = Vocabulary(["fever", "lasix"])
        >>> vocabulary.encode(["lasix", "zebra"]).tolist(), len(vocabulary)
        ([2, 3], 4)
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        for before, after in pairwise(self.words):
            if before >= after:
                raise MarnError(
                    f"The words of a vocabulary must be sorted and differ, but {after!r} comes "
                    f"after {before!r}. Give sorted(set(words))."
                )

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=1)}

    def __len__(self) -> int:
        return len(self.words) + 2

    def __contains__(self, word: object) -> bool:
        return word in self._numbers

    @property
    def unknown(self) -> int:
        """The number V + 1 of every word that is not in the vocabulary."""
        return len(self.words) + 1

    def encode(self, words: Iterable[str]) -> np.ndarray:
        """Give the words their numbers.

        Args:
            words: T words, as `tokenize` returns them.

        Returns:
            (T,) int32, each in [1, V + 1].
        """
        unknown = self.unknown
        return np.array([self._numbers.get(word, unknown) for word in words], dtype=np.int32)

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """Give the numbers their words back.

        Args:
            tokens: numbers in [0, V + 1].

        Returns:
            The words; "<pad>" for 0 and "<unknown>" for V + 1, which no text can hold as words.

        Raises:
            MarnError: if a number lies outside the vocabulary.
        """
        table = ["<pad>", *self.words, "<unknown>"]
        words = []
        for token in tokens:
            if not 0 <= token < len(table):
                raise MarnError(
                    f"Token {token} is not in this vocabulary of {len(table)} numbers. "
                    "Decode it with the vocabulary of the corpus that encoded it."
                )
            words.append(table[token])
        return words
