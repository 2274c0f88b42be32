"""Turn the text of a note into words, and words into numbers.

The rule is CAML's, which every system of the papers shares.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np

from marn.errors import MarnError
from marn.privacy import check_may_show

PAD = 0
"""Number that pads a batch; no word has it."""

WORD = re.compile(r"\w[\w\u0300-\u036f]*")
"""A word: letters, digits and underscores, with separate accent characters (NFD)."""
ASCII = bytes(
    ord(chr(byte).lower()) if byte < 128 and WORD.match(chr(byte)) else 32 for byte in range(256)
)
"""Table for `bytes.translate`: word characters become lower case, all other bytes a blank."""


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words, including numbers.

    `tokenize` drops the numbers; for large tables, call this and drop them later, all at once.
    Words are maximal runs of letters, digits and underscores, in order. A separate accent
    character (NFD, as macOS writes names) is part of its letter, so `e` followed by one equals
    `é`; CAML's pattern ends a word before it.
    """
    if text.isascii():  # seven times as fast as the pattern, with the same words
        return text.encode("ascii").translate(ASCII).decode("ascii").split()
    return [_composed(word) for word in WORD.findall(text)]


def _composed(word: str) -> str:
    return unicodedata.normalize("NFC", word.lower())


def tokenize(text: str) -> list[str]:
    r"""Split a text into the words that a model reads.

    Words are matches of `\w+` in lower case, except those that are entirely numeric. So "7.5 mg"
    gives one word, and "q8h" and "1_2" are kept.

    References:
        Mullenbach et al. 2018 (CAML), section 4; the numeric test is `str.isnumeric`, as in the
        code the authors released.

    Example:
        >>> tokenize("Given 40 mg Lasix IV, [**Hospital1 18**]")
        ['given', 'mg', 'lasix', 'iv', 'hospital1']
    """
    return [word for word in split_words(text) if not word.isnumeric()]


def token_spans(text: str) -> tuple[list[str], np.ndarray]:
    """Return the words of `tokenize` with their spans in the text.

    Spans are (n, 2) int64: the first character of each word, and one past its last.

    Example:
        >>> words, spans = token_spans("ate 3 Figs")
        >>> words, spans.tolist()
        (['ate', 'figs'], [[0, 3], [6, 10]])
    """
    found = [match for match in WORD.finditer(text) if not match.group().isnumeric()]
    spans = np.array([match.span() for match in found], dtype=np.int64).reshape(-1, 2)
    return [_composed(match.group()) for match in found], spans


class Vocabulary:
    """Number the words that a model knows.

    Numbers: 0 is padding (`PAD`), 1 to V are the words in order, V + 1 is any other word.
    `len(vocabulary)` is V + 2, the rows of an embedding table.

    Args:
        words: the V words, sorted and distinct.
        is_open: whether the notes that they come from are open; if not, numbers are not decoded in
            a notebook (see `marn.privacy.SWITCH`).

    Raises:
        MarnError: the words are not sorted, or not distinct.

    Example:
        >>> vocabulary = Vocabulary(["fever", "lasix"])
        >>> vocabulary.encode(["lasix", "zebra"]).tolist(), len(vocabulary)
        ([2, 3], 4)
    """

    def __init__(self, words: Sequence[str], *, is_open: bool = True) -> None:
        self.words, self.is_open = list(words), is_open
        for number, (before, after) in enumerate(pairwise(self.words), start=1):
            if before >= after:
                raise MarnError(
                    "the words of a vocabulary must be sorted and distinct, but words "
                    f"{number} and {number + 1} are not; pass sorted(set(words))"
                )

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=1)}

    def __len__(self) -> int:
        return len(self.words) + 2

    @property
    def unknown(self) -> int:
        """The number V + 1 of every word that is not in the vocabulary."""
        return len(self.words) + 1

    def encode(self, words: Iterable[str]) -> np.ndarray:
        """Turn T words, as `tokenize` returns them, into (T,) int32 numbers in [1, V + 1]."""
        unknown = self.unknown
        return np.array([self._numbers.get(word, unknown) for word in words], dtype=np.int32)

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """Turn numbers in [0, V + 1] into words.

        0 gives "<pad>" and V + 1 "<unknown>", which no text can hold as words.

        Raises:
            MarnError: a number is outside the vocabulary, or the words may not be shown here.
        """
        check_may_show(self.is_open, show_credentialed_text=True)
        table = ["<pad>", *self.words, "<unknown>"]
        numbers = list(tokens)
        for token in numbers:
            if not 0 <= token < len(table):
                raise MarnError(
                    f"token {token} is not in this vocabulary of {len(table)} numbers; decode it "
                    "with the vocabulary of the corpus that encoded it"
                )
        return [table[token] for token in numbers]
