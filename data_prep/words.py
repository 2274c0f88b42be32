"""Numbers for the words of many notes: the rule of `tokenize`, several times as fast.

A word of up to 16 ASCII letters is two integers of eight bytes. A table in arrays finds the numbers
of all words of many notes at once, where a dictionary is asked for one word after the other and
the processor waits for its memory each time. What does not fit goes through a dictionary: longer
words, notes with letters beyond ASCII, and every word when it is met for the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from marn.corpus.text import split_words

_ABSENT = -1
_WIDTH = 16  # bytes of a word that a row of the table holds
_BLOCK = 1 << 18  # bytes looked at together: their arrays stay in a processor's cache
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
        inside = np.frombuffer(text, dtype=np.uint8) != ord(" ")
        edges = np.flatnonzero(inside[1:] != inside[:-1])  # the byte before each
        before, lengths = edges[0::2], edges[1::2] - edges[0::2]  # (T,)
        first = _eights(text, 1)[before] & _LOWEST.take(lengths, mode="clip")
        long = np.flatnonzero(lengths > 8)
        rest = _eights(text, 9)[before[long]] & _LOWEST.take(lengths[long] - 8, mode="clip")
        ids = self._table.find(first, long, rest)
        ids[long[lengths[long] > _WIDTH]] = _ABSENT
        absent = np.flatnonzero(ids == _ABSENT)
        if len(absent):
            ids[absent] = [
                self._number_of(text[begin + 1 : begin + 1 + length].decode("ascii"))
                for begin, length in zip(
                    before[absent].tolist(), lengths[absent].tolist(), strict=True
                )
            ]
            short = absent[lengths[absent] <= _WIDTH]
            new, place = np.unique(ids[short], return_index=True)
            place = short[place]
            high = np.zeros(len(ids), dtype=np.uint64)
            high[long] = rest
            self._table.enter(first[place], high[place], new)
        sizes = np.fromiter(map(len, notes), np.int64, len(notes))
        ends = np.searchsorted(before, np.cumsum(sizes + 1))  # words up to the end of each note
        numeric = np.searchsorted(np.flatnonzero(ids < 0), ends)
        return ids[ids >= 0], np.diff(ends - numeric, prepend=0)

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
    """Finds a number by two integers: open addressing with linear probing, at most an eighth full.

    A slot is one row of two integers, so that looking there costs one wait for the memory: the
    first integer mixed with the second, and the number. Of the words up to 8 letters the second is
    0 and the mixture is the first itself; for the others the second is kept apart and compared.
    """

    def __init__(self) -> None:
        self._entries = 0
        self._clear(_FIRST_SLOTS)

    def _clear(self, slots: int) -> None:
        """Begin anew with so many slots, a power of two."""
        self._rows = np.zeros((slots, 2), dtype=np.uint64)  # the mixture, the number
        self._number = self._rows.view(np.int64)[:, 1]
        self._number[:] = _ABSENT
        self._high = np.zeros(slots, dtype=np.uint64)
        self._shift = np.uint64(65 - slots.bit_length())

    def _slots(self, mixed: np.ndarray) -> np.ndarray:
        """Where to begin to look for each."""
        return ((mixed * _MIX) >> self._shift).view(np.int64)

    def find(self, low: np.ndarray, long: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the number of each pair, (T,) int32, `_ABSENT` where it is not in the table.

        Args:
            low: (T,) uint64, the first integers.
            long: (L,) places of the pairs whose second integer is not 0.
            high: (L,) uint64, their second integers.
        """
        mixed = low.copy()
        mixed[long] ^= high * _MIX_HIGH
        slots = self._slots(mixed)
        rows = self._rows.take(slots, axis=0, mode="clip")
        numbers = rows.view(np.int64)[:, 1].astype(np.int32)
        is_other = rows[:, 0] != mixed
        is_other[long] |= self._high.take(slots[long]) != high
        is_other &= numbers != _ABSENT
        left = np.flatnonzero(is_other)
        if len(left):
            second = np.zeros(len(low), dtype=np.uint64)
            second[long] = high
            numbers[left] = self._seek(slots[left], mixed[left], second[left])
        return numbers

    def _seek(self, slots: np.ndarray, mixed: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the number of each pair from the slots behind those given, as `find` does."""
        numbers = np.empty(len(slots), dtype=np.int64)
        left = np.arange(len(slots))
        while len(left):
            slots = (slots + 1) % len(self._high)
            numbers[left] = found = self._number[slots]
            is_other = (self._rows[slots, 0] != mixed) | (self._high[slots] != high)
            again = np.flatnonzero(is_other & (found != _ABSENT))
            left, slots, mixed, high = left[again], slots[again], mixed[again], high[again]
        return numbers

    def enter(self, low: np.ndarray, high: np.ndarray, numbers: np.ndarray) -> None:
        """Enter pairs that are not in the table, each once, with numbers that all differ."""
        self._enter(low ^ (high * _MIX_HIGH), high, numbers)

    def _enter(self, mixed: np.ndarray, high: np.ndarray, numbers: np.ndarray) -> None:
        if 8 * (self._entries + len(numbers)) > len(self._high):
            taken = self._number != _ABSENT
            former = self._rows[taken, 0], self._high[taken], self._number[taken]
            self._clear(1 << (8 * (self._entries + len(numbers))).bit_length())
            self._entries = 0
            self._enter(*former)
        self._entries += len(numbers)
        slots = self._slots(mixed)
        left = np.arange(len(numbers))
        while len(left):
            free = left[self._number[slots[left]] == _ABSENT]
            self._number[slots[free]] = numbers[free]  # where several want one, the last gets it
            got = free[self._number[slots[free]] == numbers[free]]
            self._rows[slots[got], 0] = mixed[got]
            self._high[slots[got]] = high[got]
            left = np.setdiff1d(left, got, assume_unique=True)
            slots[left] = (slots[left] + 1) % len(self._high)


def _eights(text: bytes, begin: int) -> np.ndarray:
    """The eight bytes from each byte on, the first at `begin`, as integers."""
    return np.ndarray((len(text) - begin - 7,), "<u8", buffer=text, offset=begin, strides=(1,))


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
