"""All notes of a source on disk, as text and as numbers of words, with an index in memory."""

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
"""Text that is split into words at once."""

SLOTS = 1 << 20
"""Size of the table of words at first, a power of two."""

_DROPPED, _EMPTY = -1, -2
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd and without pattern: 2 ** 64 over the golden ratio
_LOWEST = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)
"""Masks that keep the lowest 0 to 8 bytes."""

Progress = Callable[[str], None]
"""Takes one line about how far the work is."""


class Note(NamedTuple):
    """One note as a source hands it over."""

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
    key: str
    first_token: int
    tokens: int
    first_byte: int
    bytes: int
    chars: int


@dataclass
class Admission:
    """The notes of one admission, which become one note of the corpus."""

    subject: str
    pieces: list[Piece]

    @property
    def tokens(self) -> int:
        """Words in all its notes."""
        return sum(piece.tokens for piece in self.pieces)

    @property
    def bytes(self) -> int:
        """Bytes of its text, the line ends between its notes included."""
        return sum(piece.bytes for piece in self.pieces) + len(self.pieces) - 1


class WordIndexer:
    """Numbers the words of notes by `tokenize`'s rule: lower case, numeric words left out.

    Each word has a hash of 64 bits, and a table says which number a hash has; only words that the
    table does not hold are looked up one by one. For 150 MB of notes this takes .9 s of processor
    time; with polars to split and to hash it took 1.4 s. Among a million words, the chance that
    any two share a hash is 3e-8.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        """The words that are not numeric; the index of each is its number."""
        self._numbers: dict[str, int] = {}  # of all words; _DROPPED of numeric ones
        self._resize(SLOTS)

    def _resize(self, slots: int) -> None:
        """Empty the table; it fills again with the words that are met."""
        self._shift = np.uint64(65 - slots.bit_length())
        # Hash and number lie side by side, so that a word waits for the memory once.
        self._table = np.empty((slots, 2), dtype=np.uint64)
        self._slot_hashes, self._slot_numbers = self._table[:, 0], self._table.view(np.int64)[:, 1]
        self._slot_hashes[:] = ~np.arange(slots, dtype=np.uint64) << self._shift  # of other slots
        self._slot_numbers[:] = _EMPTY

    def index(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Number the words of notes.

        Args:
            texts: N texts.

        Returns:
            (T,) int32, the numbers of the words of all notes, note after note; and (N,) int64, how
            many of them belong to each note.
        """
        notes = [_words_and_blanks(text) for text in texts]
        # A blank before the first word, and eight bytes to read after the last.
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
            # The first word that wants a slot has it; the others are looked up whenever they come.
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
    """Return a hash of each word, (T,) uint64, whose first bits are the best mixed.

    Args:
        text: in which eight more bytes follow the last word.
        begins: (T,) int64, the first byte of each word.
        lengths: (T,) int64, its bytes.
    """
    eights = np.ndarray((len(text) - 7,), "<u8", buffer=text, strides=(1,))  # from each byte on
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
        # Unlinked while open: what is left to write after an error goes nowhere.
        shutil.rmtree(self._folder)
        for file in (self._text, self._tokens):
            file.close()

    @property
    def words(self) -> list[str]:
        """All words that were met."""
        return self._indexer.words

    def read(self, notes: Iterable[Note], dropped: Counter[str], progress: Progress) -> None:
        """Store all notes.

        Args:
            notes: iterated once.
            dropped: gets the number of notes without a word, and of repeats of a note.
            progress: takes lines about how far the work is.

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
        progress(f"notes: {kept:,} of {len(self.admissions):,} admissions, {words:,} words")

    def _enter(self, note: Note, piece: Piece) -> None:
        admission = self.admissions.setdefault(note.admission, Admission(note.subject, []))
        if admission.subject != note.subject:
            raise MarnError(
                f"admission {note.admission} has notes of two patients, {admission.subject} and "
                f"{note.subject}: the table of notes is damaged; get a fresh copy"
            )
        admission.pieces.append(piece)

    def _drop_repeats(self, admission: Admission) -> int:
        """Keep the first of notes that differ in white space only; return how many others were."""
        size = len(admission.pieces)
        if len({piece.tokens for piece in admission.pieces}) < size:  # else no two are the same
            texts = {
                b" ".join(self._bytes(piece).split()): piece for piece in reversed(admission.pieces)
            }
            admission.pieces = sorted(texts.values(), key=admission.pieces.index)
        return size - len(admission.pieces)

    def tokens(self, admission: Admission) -> np.ndarray:
        """Return the numbers of an admission's words, (T,) int32, by `words` or the vocabulary."""
        data = b"".join(
            os.pread(self._tokens.fileno(), 4 * piece.tokens, 4 * piece.first_token)
            for piece in admission.pieces
        )
        numbers = np.frombuffer(data, dtype=np.int32)
        # Widened first: numpy takes half as long again with an index of four bytes.
        return numbers if self._renumber is None else self._renumber[numbers.astype(np.intp)]

    def text(self, admission: Admission) -> bytes:
        r"""Return the text of an admission in UTF-8, a "\n" between its notes."""
        return b"\n".join(map(self._bytes, admission.pieces))

    def _bytes(self, piece: Piece) -> bytes:
        return os.pread(self._text.fileno(), piece.bytes, piece.first_byte)

    def build_vocabulary(self, training: Iterable[Admission], min_count: int) -> Vocabulary:
        """Choose the words in enough training notes, and number all words by them from now on.

        Args:
            training: the admissions to count in.
            min_count: number of them that must have a word.

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
    """Yield the notes in lists of some `BATCH_BYTES`."""
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
