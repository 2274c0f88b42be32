"""Numbers for the words of many notes: the rule of `marn.text.tokenize`, several times as fast.

A word of up to 16 ASCII letters is two integers of eight bytes. A table in arrays finds the numbers
of all words of many notes at once, where a dictionary is asked for one word after the other and
the processor waits for its memory each time. What does not fit goes through a dictionary: longer
words, notes with letters beyond ASCII, and every word when it is met for the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from marn.text import split_words

_ABSENT = -1
_WIDTH = 16  # bytes of a word that a row of the table holds
_BLOCK = 1 << 19  # bytes looked at together: their arrays stay in a processor's cache
_FIRST_SLOTS = 1 << 16

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd and without pattern: 2 ** 64 over the golden ratio
_MIX_HIGH = np.uint64(0xC2B2AE3D27D4EB4F)  # another odd number without pattern
_LOWEST = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)
"""Masks that keep the lowest 0 to 8 bytes."""

# What `split_words` does to one ASCII byte: a word character in lower case, or a blank.
_BYTES = bytes(
    ord((split_words(chr(byte)) or [" "])[0]) if byte < 128 else 32 for byte in range(256)
)


class Words:
    """Numbers the words of notes in order of first sight, and leaves out numeric ones."""

    def __init__(self) -> None:
        self.words: list[str] = []
        """The words that are not numeric; the place of each is its number."""
        # Numeric ones have negative numbers from -2 down, each its own, for the table's sake.
        self._numbers: dict[str, int] = {}
        self._table = _Table()

    def number(self, notes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Give the words of notes their numbers.

        Args:
            notes: N texts in UTF-8.

        Returns:
            (T,) int32, the numbers of the words of all notes, one note behind the other; and
            (N,) int64, how many of them are each note's.
        """
        parts = [
            self._of_ascii(block) if is_ascii else self._of_any(block)
            for is_ascii, block in _blocks(notes)
        ]
        if not parts:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        ids, counts = zip(*parts, strict=True)
        return np.concatenate(ids), np.concatenate(counts)

    def _of_any(self, notes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Number the words of notes by the dictionary alone."""
        found = [
            np.fromiter(map(self._number_of, split_words(note.decode())), np.int32)
            for note in notes
        ]
        kept = [ids[ids >= 0] for ids in found]
        return np.concatenate(kept), np.array([len(ids) for ids in kept], dtype=np.int64)

    def _of_ascii(self, notes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Number the words of notes in ASCII by the table."""
        # A blank before the first word, and enough behind the last to read _WIDTH bytes from it.
        text = b" ".join([b"", *notes, b" " * _WIDTH]).translate(_BYTES)
        raw = np.frombuffer(text, dtype=np.uint8)
        inside = raw != ord(" ")
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        begins, lengths = edges[0::2], edges[1::2] - edges[0::2]  # (T,)
        eight = np.ndarray((len(raw) - 7,), dtype="<u8", buffer=raw, strides=(1,))
        low = eight[begins] & _LOWEST[np.minimum(lengths, 8)]
        high = eight[begins + 8] & _LOWEST[np.clip(lengths - 8, 0, 8)]
        ids = self._table.find(low, high)
        ids[lengths > _WIDTH] = _ABSENT
        absent = np.flatnonzero(ids == _ABSENT)
        if len(absent):
            ids[absent] = [
                self._number_of(text[begin:end].decode("ascii"))
                for begin, end in zip(
                    begins[absent].tolist(), edges[1::2][absent].tolist(), strict=True
                )
            ]
            short = absent[lengths[absent] <= _WIDTH]
            new, first = np.unique(ids[short], return_index=True)
            self._table.enter(low[short[first]], high[short[first]], new)
        sizes = np.fromiter(map(len, notes), np.int64, len(notes))
        ends = np.searchsorted(begins, np.cumsum(sizes + 1))  # words up to the end of each note
        kept = ids >= 0
        upto = np.concatenate([[0], np.cumsum(kept)])[np.concatenate([[0], ends])]
        return ids[kept], np.diff(upto)

    def _number_of(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is None:
            if word.isnumeric():
                number = len(self.words) - len(self._numbers) - 2
            else:
                number = len(self.words)
                self.words.append(word)
            self._numbers[word] = number
        return number


class _Table:
    """Finds a number by two integers: open addressing with linear probing, at most half full."""

    def __init__(self) -> None:
        self._entries = 0
        self._clear(_FIRST_SLOTS)

    def _clear(self, slots: int) -> None:
        """Begin anew with so many slots, a power of two."""
        self._low, self._high = np.zeros((2, slots), dtype=np.uint64)
        self._number = np.full(slots, _ABSENT, dtype=np.int32)
        self._shift = np.uint64(65 - slots.bit_length())

    def _slots(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Where to begin to look for each pair."""
        return (((low ^ (high * _MIX_HIGH)) * _MIX) >> self._shift).astype(np.int64)

    def find(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the number of each pair, (T,) int32, `_ABSENT` where it is not in the table."""
        slots = self._slots(low, high)
        numbers = self._number[slots]
        left = np.flatnonzero(self._is_other(slots, low, high))
        while len(left):
            slots[left] = (slots[left] + 1) % len(self._number)
            numbers[left] = self._number[slots[left]]
            left = left[self._is_other(slots[left], low[left], high[left])]
        return numbers

    def _is_other(self, slots: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Whether each slot is taken by another pair."""
        differs = (self._low[slots] != low) | (self._high[slots] != high)
        return differs & (self._number[slots] != _ABSENT)

    def enter(self, low: np.ndarray, high: np.ndarray, numbers: np.ndarray) -> None:
        """Enter pairs that are not in the table, each once, with numbers that all differ."""
        if 2 * (self._entries + len(numbers)) > len(self._number):
            taken = self._number != _ABSENT
            former = self._low[taken], self._high[taken], self._number[taken]
            # Four times what is needed now, so that this happens seldom.
            self._clear(1 << (4 * (self._entries + len(numbers))).bit_length())
            self._entries = 0
            self.enter(*former)
        self._entries += len(numbers)
        slots = self._slots(low, high)
        left = np.arange(len(numbers))
        while len(left):
            free = left[self._number[slots[left]] == _ABSENT]
            self._number[slots[free]] = numbers[free]  # where several want one, the last gets it
            got = self._number[slots[free]] == numbers[free]
            self._low[slots[free[got]]] = low[free[got]]
            self._high[slots[free[got]]] = high[free[got]]
            left = np.setdiff1d(left, free[got], assume_unique=True)
            slots[left] = (slots[left] + 1) % len(self._number)


def _blocks(notes: Sequence[bytes]) -> Iterator[tuple[bool, list[bytes]]]:
    """Yield the notes in order, in blocks that are in ASCII or not, of `_BLOCK` bytes or so."""
    for is_ascii, group in groupby(notes, bytes.isascii):
        block: list[bytes] = []
        size = 0
        for note in group:
            block.append(note)
            size += len(note)
            if size >= _BLOCK:
                yield is_ascii, block
                block, size = [], 0
        if block:
            yield is_ascii, block
