"""Store all notes of a source on disk, as text and as numbers of words, with an index in memory."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np

from marn.corpus.text import ASCII, Vocabulary, split_words
from marn.errors import MarnError

BATCH_BYTES = 1 << 20
"""Approximate size of the text that is split into words at once, in characters."""

SLOTS = 1 << 20
"""Initial number of slots in the table of words, a power of two."""

_DROPPED, _EMPTY = -1, -2
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, with irregular bits: 2 ** 64 over the golden ratio
_LOWEST = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)
"""Masks that keep the lowest 0 to 8 bytes."""

Progress = Callable[[str], None]
"""Callback that takes one line of progress."""


class Note(NamedTuple):
    """One note as a source yields it."""

    admission: str
    """Id of the admission; the notes of one admission become one."""
    subject: str
    """Id of the patient, who is in one split only."""
    text: str
    """The text as it was written."""
    order: tuple[str, int] = ("", 0)
    """Position among the notes of the admission (date, then row)."""
    key: str = ""
    """Name by which annotations refer to the note; "" if none do."""


class Piece(NamedTuple):
    """One note of an admission: where its words and its text are in the files of the store."""

    order: tuple[str, int]
    """`Note.order`."""
    key: str
    """`Note.key`."""
    first_token: int
    """Position of its first word in the file of words."""
    tokens: int
    """Number of its words."""
    first_byte: int
    """Position of its first byte in the file of text."""
    bytes: int
    """Number of bytes of its text."""
    chars: int
    """Number of characters of its text."""


@dataclass
class Admission:
    """The notes of one admission, which become one note of the corpus."""

    subject: str
    pieces: list[Piece]

    @property
    def tokens(self) -> int:
        """Number of words in all its notes."""
        return sum(piece.tokens for piece in self.pieces)

    @property
    def bytes(self) -> int:
        """Number of bytes of its text, with the line ends between its notes."""
        return sum(piece.bytes for piece in self.pieces) + len(self.pieces) - 1


class WordIndexer:
    """Give numbers to the words of notes by the rule of `tokenize`: lower case, no numeric words.

    Each word has a 64-bit hash, and a table maps hashes to numbers; only words whose hash is not
    in the table are looked up one by one. For 150 MB of notes this takes 0.9 s of processor time;
    splitting and hashing with polars took 1.4 s. Among a million words, the probability that any
    two share a hash is 3e-8.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        """The words that are not numeric; the index of each is its number."""
        self._numbers: dict[str, int] = {}  # of all words; _DROPPED of numeric ones
        self._resize(SLOTS)

    def _resize(self, slots: int) -> None:
        """Make an empty table; it fills again as words occur."""
        self._shift = np.uint64(65 - slots.bit_length())
        # Hash and number are adjacent, so that each word costs one access to memory.
        self._table = np.empty((slots, 2), dtype=np.uint64)
        self._slot_hashes, self._slot_numbers = self._table[:, 0], self._table.view(np.int64)[:, 1]
        # An empty slot has a hash that belongs to another slot, so that no word matches it.
        self._slot_hashes[:] = ~np.arange(slots, dtype=np.uint64) << self._shift
        self._slot_numbers[:] = _EMPTY

    def index(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Number the words of notes.

        Args:
            texts: N texts.

        Returns:
            (T,) int32, the numbers of the words of all notes, note after note; and (N,) int64, the
            number of words of each note.
        """
        notes = [_words_and_blanks(text) for text in texts]
        # A blank before the first word, and eight more bytes after the last one (see `_hashes`).
        text = b" ".join([b"", *notes, b" " * 8])
        is_blank = np.frombuffer(text, dtype=np.uint8) == ord(" ")
        edges = np.flatnonzero(is_blank[1:] != is_blank[:-1]) + 1
        begins, ends = edges[::2], edges[1::2]
        hashes = _hashes(text, begins, ends - begins)
        slots = (hashes >> self._shift).view(np.int64)
        found = self._table.take(slots, axis=0, mode="clip")
        numbers = found.view(np.int64)[:, 1].astype(np.int32)
        missed = np.flatnonzero(found[:, 0] != hashes)
        if len(missed):
            places = zip(begins[missed].tolist(), ends[missed].tolist(), strict=True)
            numbers[missed] = [self._number_of(text[begin:end].decode()) for begin, end in places]
            # The first word of a slot keeps it; others are looked up each time that they occur.
            new = missed[self._slot_numbers[slots[missed]] == _EMPTY][::-1]
            self._slot_numbers[slots[new]] = numbers[new]
            self._slot_hashes[slots[new]] = hashes[new]
            if 8 * len(self._numbers) > len(self._table):
                self._resize(16 << len(self._numbers).bit_length())
        is_kept = numbers != _DROPPED
        note_ends = np.searchsorted(begins, np.cumsum([len(note) + 1 for note in notes]))
        kept = np.concatenate([[0], np.cumsum(is_kept, dtype=np.int64)])
        return numbers[is_kept], np.diff(kept[note_ends], prepend=0)

    def _number_of(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is None:
            number = _DROPPED
            if not word.isnumeric():
                number = len(self.words)
                self.words.append(word)
            self._numbers[word] = number
        return number


def _words_and_blanks(text: str) -> bytes:
    """Return the words of a text in lower case and UTF-8, with blanks between them."""
    if text.isascii():
        return text.encode("ascii").translate(ASCII)
    return " ".join(split_words(text)).encode()


def _hashes(text: bytes, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return a hash of each word, (T,) uint64, whose high bits are mixed best.

    Args:
        text: words, with at least eight more bytes after the last one.
        begins: (T,) int64, position of the first byte of each word.
        lengths: (T,) int64, number of its bytes.
    """
    # the eight bytes that begin at each byte, as numbers
    eights = np.ndarray((len(text) - 7,), "<u8", buffer=text, strides=(1,))
    hashes = (eights[begins] & _LOWEST.take(lengths, mode="clip")) * _MIX
    read = 8
    longer = np.flatnonzero(lengths > read)
    while len(longer):
        rest = _LOWEST.take(lengths[longer] - read, mode="clip")
        hashes[longer] = (hashes[longer] ^ (eights[begins[longer] + read] & rest)) * _MIX
        read += 8
        longer = longer[lengths[longer] > read]
    return hashes


class NoteStore:
    """All notes on disk, with an index in memory; a context manager that removes the files.

    Args:
        folder: for the files; created on entry, removed on exit.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._indexer = WordIndexer()
        self.admissions: dict[str, Admission] = {}
        """Every admission with a note that has a word."""
        self._renumber: np.ndarray | None = None  # from the indexer's numbers to the vocabulary's

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._text: BinaryIO = (self._folder / "text").open("w+b")
        self._tokens: BinaryIO = (self._folder / "tokens").open("w+b")
        return self

    def __exit__(self, *_: object) -> None:
        # Removed while open, so that what is still buffered after an error is discarded.
        shutil.rmtree(self._folder)
        for file in (self._text, self._tokens):
            file.close()

    @property
    def words(self) -> list[str]:
        """All words of the notes; the index of each is its number."""
        return self._indexer.words

    def read(self, notes: Iterable[Note], dropped: Counter[str], progress: Progress) -> None:
        """Store all notes.

        Args:
            notes: iterated once.
            dropped: gets the number of notes without a word, and of repeated notes.
            progress: takes lines of progress.

        Raises:
            MarnError: if an admission has notes of two patients.
        """
        first_byte = first_token = read = 0
        for batch in _batches(notes):
            numbers, counts = self._indexer.index([note.text for note in batch])
            self._tokens.write(numbers.data)
            texts = [note.text.encode() for note in batch]
            self._text.write(b"".join(texts))
            for note, text, count in zip(batch, texts, counts.tolist(), strict=True):
                if count:
                    place = first_token, count, first_byte, len(text), len(note.text)
                    self._enter(note, Piece(note.order, note.key, *place))
                else:
                    dropped["notes without a word"] += 1
                first_byte += len(text)
                first_token += count
            if (read + len(batch)) // 10_000 > read // 10_000:
                progress(f"notes: {read + len(batch):,} read, {first_token:,} words")
            read += len(batch)
        self._text.flush()
        self._tokens.flush()
        for admission in self.admissions.values():
            if len(admission.pieces) > 1:
                admission.pieces.sort(key=lambda piece: piece.order)
                dropped["notes repeated within an admission"] += self._drop_repeats(admission)
        kept = sum(len(admission.pieces) for admission in self.admissions.values())
        words = sum(admission.tokens for admission in self.admissions.values())
        of = f" of {len(self.admissions):,} admissions" if kept > len(self.admissions) else ""
        progress(f"notes: {kept:,}{of}, {words:,} words")

    def _enter(self, note: Note, piece: Piece) -> None:
        admission = self.admissions.setdefault(note.admission, Admission(note.subject, []))
        if admission.subject != note.subject:
            raise MarnError(
                f"admission {note.admission} has notes of two patients, {admission.subject} and "
                f"{note.subject}: the table of notes is damaged; get a fresh copy"
            )
        admission.pieces.append(piece)

    def _drop_repeats(self, admission: Admission) -> int:
        """Keep the first of notes that differ in white space only; return how many were dropped."""
        size = len(admission.pieces)
        if len({piece.tokens for piece in admission.pieces}) < size:  # otherwise all differ
            texts = {
                b" ".join(self._bytes(piece).split()): piece for piece in reversed(admission.pieces)
            }
            admission.pieces = sorted(texts.values(), key=admission.pieces.index)
        return size - len(admission.pieces)

    def tokens(self, admission: Admission) -> np.ndarray:
        """Return the numbers of an admission's words, (T,) int32.

        They are indices of `words`, or after `build_vocabulary` numbers of the vocabulary.
        """
        data = b"".join(
            os.pread(self._tokens.fileno(), 4 * piece.tokens, 4 * piece.first_token)
            for piece in admission.pieces
        )
        numbers = np.frombuffer(data, dtype=np.int32)
        # The cast pays: with indices of four bytes, numpy takes half as long again.
        return numbers if self._renumber is None else self._renumber[numbers.astype(np.intp)]

    def text(self, admission: Admission) -> bytes:
        r"""Return the text of an admission in UTF-8, a "\n" between its notes."""
        return b"\n".join(map(self._bytes, admission.pieces))

    def _bytes(self, piece: Piece) -> bytes:
        return os.pread(self._text.fileno(), piece.bytes, piece.first_byte)

    def build_vocabulary(self, training: Iterable[Admission], min_count: int) -> Vocabulary:
        """Choose the words that occur in enough training notes; `tokens` then uses their numbers.

        Args:
            training: the admissions in which words are counted.
            min_count: minimum number of these admissions that have a word.

        Raises:
            MarnError: if no word occurs in `min_count` training notes.
        """
        notes_with = np.zeros(len(self.words), dtype=np.int64)
        last = np.empty(len(self.words), dtype=np.int64)
        notes = 0
        for notes, admission in enumerate(training, start=1):  # noqa: B007
            tokens = self.tokens(admission).astype(np.intp)
            position = np.arange(len(tokens))
            last[tokens] = position  # of each word, the last position in this note
            notes_with[tokens[last[tokens] == position]] += 1
        kept = np.flatnonzero(notes_with >= min_count).tolist()
        if not kept:
            raise MarnError(
                f"no word occurs in {min_count} training notes (of {notes}); choose a "
                "smaller --min-count or give more notes"
            )
        kept.sort(key=self.words.__getitem__)
        vocabulary = Vocabulary([self.words[number] for number in kept])
        self._renumber = np.full(len(self.words), vocabulary.unknown, dtype=np.int32)
        self._renumber[kept] = np.arange(1, len(kept) + 1)
        return vocabulary


def _batches(notes: Iterable[Note]) -> Iterator[list[Note]]:
    """Yield the notes in lists of about `BATCH_BYTES` characters."""
    batch: list[Note] = []
    size = 0
    for note in notes:
        batch.append(note)
        size += len(note.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
