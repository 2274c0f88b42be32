"""All notes of a source on disk, as text and as numbers of words; in memory only an index of them.

One process reads the notes and writes their text; splitting it into words and numbering these,
which is most of the work, is done by as many processes as one likes. Each numbers the words it
meets in its own way, and the numbers are brought together afterwards; so the corpus is the same
whatever their number.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np

from data_prep.words import Words
from marn.errors import MarnError
from marn.text import Vocabulary

CHUNK_BYTES = 1 << 22
"""Text handed to a process at once. A source with less than that is not worth a second process."""
CHUNK_NOTES = 2_000
"""Notes handed to a process at once, so that what is said to it fits into a pipe (64 KiB)."""
MOST_WORKERS = 4
"""Processes by default, at most. One process reads the table, which takes about a quarter of the
time that splitting takes (on 250 MB of notes, 1.0 s and 3.7 s of one core): with more than four to
split, they would wait for it."""

_AHEAD = 2  # chunks under way for each process: one at work, one waiting

Progress = Callable[[str], None]
"""Takes one line about how far the work is."""


def usual_workers() -> int:
    """Return the number of processes for this machine: its cores, `MOST_WORKERS` at most."""
    if hasattr(os, "sched_getaffinity"):
        return min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    return min(MOST_WORKERS, os.cpu_count() or 1)


class Note(NamedTuple):
    """One note as a source hands it over."""

    admission: str
    """Id of the admission; the notes of one admission become one."""
    subject: str
    """Id of the patient, who never stands in two splits."""
    text: str
    """The text as it was written."""
    order: tuple[str, int] = ("", 0)
    """Where the note stands among those of its admission (date, then row)."""
    key: str = ""
    """Name by which passages refer to the note; "" if none do."""


class Piece(NamedTuple):
    """One note of an admission: where its words and its text lie in the files of the store."""

    order: tuple[str, int]
    key: str
    file: int
    """Number of the process that split it, and so of the file of its words."""
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
        """Bytes of its text in UTF-8, its notes parted by a line break."""
        return sum(piece.bytes for piece in self.pieces) + len(self.pieces) - 1


class _Splitter:
    """Turns text that lies in one file into numbers of words in another."""

    def __init__(self, text: Path, tokens: Path) -> None:
        self._text, self._tokens = text.open("rb"), tokens.open("wb", buffering=0)
        self._words = Words()
        self._said = 0
        self._answers: deque[tuple[np.ndarray, list[str]]] = deque()

    def split(self, first: int, sizes: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Split notes that lie one behind the other.

        Args:
            first: byte on which they begin.
            sizes: (N,) bytes of each.

        Returns:
            (N,) int64, words in each; and the words that were met for the first time, whose
            numbers follow those of the words returned before.
        """
        data = os.pread(self._text.fileno(), int(sizes.sum()), first)
        ends = np.cumsum(sizes).tolist()
        ids, counts = self._words.number([data[begin:end] for begin, end in pairwise([0, *ends])])
        _write(self._tokens, ids.data)
        new = self._words.words[self._said :]
        self._said += len(new)
        return counts, new

    def give(self, first: int, sizes: np.ndarray) -> None:
        """Split here and now what a process of its own would split later."""
        self._answers.append(self.split(first, sizes))

    def take(self) -> tuple[np.ndarray, list[str]]:
        """Return what `split` gave for the oldest notes given."""
        return self._answers.popleft()

    def close(self) -> None:
        """Close the files."""
        self._text.close()
        self._tokens.close()


def _serve(pipe: Connection, text: Path, tokens: Path) -> None:
    """Split chunks until there are no more, or whoever sends them is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that sends decides
    try:
        splitter = _Splitter(text, tokens)
        while True:
            pipe.send(splitter.split(*pipe.recv()))
    except (EOFError, ConnectionError):
        return
    except OSError as error:  # a full disk above all: raised again where it can be reported
        pipe.send(error)


class _Process:
    """A splitter in a process of its own."""

    def __init__(self, text: Path, tokens: Path) -> None:
        # Spawned, not forked: the one way that is the same on every system and safe with threads.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, text, tokens), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, first: int, sizes: np.ndarray) -> None:
        """Send notes to be split; `take` returns the answers in the same order."""
        try:
            self._pipe.send((first, sizes))
        except ConnectionError:
            while True:  # what it died of stands behind its last answers, unless it was killed
                self.take()

    def take(self) -> tuple[np.ndarray, list[str]]:
        """Wait for the oldest answer."""
        with _watched():
            answer = self._pipe.recv()
        if isinstance(answer, OSError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        self._process.terminate()
        self._process.join()


@contextmanager
def _watched() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        raise MarnError(
            "A process that splits notes into words has died, for lack of memory perhaps. Try "
            "--workers 1."
        ) from None


class _Entry(NamedTuple):
    """What the index keeps of a note while it is being split."""

    admission: str
    subject: str
    order: tuple[str, int]
    key: str
    bytes: int
    chars: int


class Store:
    """All notes on disk, with an index in memory; use as a context, which removes the files.

    Args:
        folder: where to put the files; made here, removed at the end.
        workers: processes that split notes into words; 1 does it here.
    """

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self._folder, self._workers = folder, workers
        self.admissions: dict[str, Admission] = {}
        """Every admission with a note that has a word."""
        self.words: list[str] = []
        """All words; the place of each is its provisional number."""
        self._splitters: list[_Splitter | _Process] = []
        self._tokens: list[BinaryIO] = []

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._text: BinaryIO = (self._folder / "text").open("w+b", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._end_splitting()
        for file in (self._text, *self._tokens):
            file.close()
        shutil.rmtree(self._folder)

    def read(self, notes: Iterable[Note], dropped: Counter[str], progress: Progress) -> None:
        """Take all notes in.

        Args:
            notes: gone through once.
            dropped: gets the number of notes without a word.
            progress: takes lines about how far the work is.

        Raises:
            MarnError: if an admission has notes of two patients, or a process dies.
            OSError: if the disk is full.
        """
        numbers: dict[str, int] = {}
        under_way: deque[tuple[int, int, list[_Entry]]] = deque()
        index = _Index(self.admissions, numbers, dropped, progress)
        first_byte = 0
        for number, (texts, entries, is_full) in enumerate(_chunks(notes)):
            if not self._splitters:
                self._begin_splitting(self._workers if is_full else 1)
                index.begin(len(self._splitters))
            _write(self._text, b"".join(texts))
            file = number % len(self._splitters)
            sizes = np.array([entry.bytes for entry in entries], dtype=np.int64)
            self._splitters[file].give(first_byte, sizes)
            under_way.append((file, first_byte, entries))
            first_byte += int(sizes.sum())
            while len(under_way) > _AHEAD * len(self._splitters):
                index.enter(*under_way[0], *self._splitters[under_way[0][0]].take())
                under_way.popleft()
        for chunk in under_way:
            index.enter(*chunk, *self._splitters[chunk[0]].take())
        self._tokens = [
            self._tokens_path(file).open("rb", buffering=0) for file in range(len(self._splitters))
        ]
        self._end_splitting()
        self.words = list(numbers)
        self._numbers = [np.array(known, dtype=np.int32) for known in index.numbers_of]
        for admission in self.admissions.values():
            admission.pieces.sort(key=lambda piece: piece.order)
        progress(
            f"notes: {index.notes:,} of {len(self.admissions):,} admissions, {index.words:,} words"
        )

    def tokens(self, admission: Admission) -> np.ndarray:
        """Return the numbers of an admission's words, (T,) int32.

        These are the provisional ones before `settle`, and those of the vocabulary after it.
        """
        found = []
        for piece in admission.pieces:
            file = self._tokens[piece.file].fileno()
            data = os.pread(file, 4 * piece.tokens, 4 * piece.first_token)
            # Widened first: numpy takes half as long again with an index of four bytes.
            given = np.frombuffer(data, np.int32).astype(np.intp)
            found.append(self._numbers[piece.file][given])
        return found[0] if len(found) == 1 else np.concatenate(found)

    def text(self, admission: Admission) -> bytes:
        """Return an admission's text in UTF-8, its notes parted by a line break."""
        file = self._text.fileno()
        return b"\n".join(
            os.pread(file, piece.bytes, piece.first_byte) for piece in admission.pieces
        )

    def settle(self, training: Sequence[str], min_count: int) -> Vocabulary:
        """Choose the words in so many training notes, and number all words by them from now on.

        Args:
            training: the admissions to count in.
            min_count: of these, so many must have a word.

        Returns:
            The vocabulary of the words chosen.

        Raises:
            MarnError: if no word is in so many.
        """
        notes_with = np.zeros(len(self.words), dtype=np.int32)
        last = np.zeros(len(self.words), dtype=np.int32)
        for id_ in training:
            # As wide as an index, so that it is widened once and not at each use.
            tokens = self.tokens(self.admissions[id_]).astype(np.intp)
            places = np.arange(len(tokens), dtype=np.int32)
            last[tokens] = places
            notes_with[tokens[last[tokens] == places]] += 1  # each word at its last place
        numbers = np.flatnonzero(notes_with >= min_count).tolist()
        if not numbers:
            raise MarnError(
                f"No word occurs in {min_count} training notes ({len(training)} there are). "
                "Choose a smaller --min-count or give more notes."
            )
        numbers.sort(key=self.words.__getitem__)
        vocabulary = Vocabulary([self.words[number] for number in numbers])
        renumber = np.full(len(self.words), vocabulary.unknown, dtype=np.int32)
        renumber[numbers] = np.arange(1, len(numbers) + 1)
        self._numbers = [renumber[known] for known in self._numbers]
        return vocabulary

    def _tokens_path(self, file: int) -> Path:
        return self._folder / f"tokens.{file}"

    def _begin_splitting(self, workers: int) -> None:
        kind: type[_Splitter] | type[_Process] = _Splitter if workers == 1 else _Process
        for file in range(workers):
            self._splitters.append(kind(self._folder / "text", self._tokens_path(file)))

    def _end_splitting(self) -> None:
        for splitter in self._splitters:
            splitter.close()
        self._splitters = []


class _Index:
    """Enters chunks that were split into the index of a store."""

    def __init__(
        self,
        admissions: dict[str, Admission],
        numbers: dict[str, int],
        dropped: Counter[str],
        progress: Progress,
    ) -> None:
        self._admissions, self._numbers = admissions, numbers
        self._dropped, self._progress = dropped, progress
        self.notes = self.words = 0
        self.numbers_of: list[list[int]] = []
        """For each file, the provisional number of each number that was given in it."""

    def begin(self, files: int) -> None:
        """Say how many files of words there are."""
        self.numbers_of = [[] for _ in range(files)]
        self._first_token = [0] * files

    def enter(
        self,
        file: int,
        first_byte: int,
        entries: list[_Entry],
        counts: np.ndarray,
        new: list[str],
    ) -> None:
        """Enter notes that lie one behind the other, with the words in each and the new words."""
        self.numbers_of[file] += [
            self._numbers.setdefault(word, len(self._numbers)) for word in new
        ]
        said = self.notes
        for entry, count in zip(entries, counts.tolist(), strict=True):
            if count:
                self._enter(entry, file, count, first_byte)
            else:
                self._dropped["notes without a word"] += 1
            first_byte += entry.bytes
        if self.notes // 10_000 > said // 10_000:
            self._progress(f"notes: {self.notes:,} read, {self.words:,} words")

    def _enter(self, entry: _Entry, file: int, count: int, first_byte: int) -> None:
        admission = self._admissions.setdefault(entry.admission, Admission(entry.subject, []))
        if admission.subject != entry.subject:
            raise MarnError(
                f"Admission {entry.admission} has notes of two patients, {admission.subject} "
                f"and {entry.subject}. The table of notes is damaged; get a fresh copy."
            )
        admission.pieces.append(
            Piece(
                entry.order,
                entry.key,
                file,
                self._first_token[file],
                count,
                first_byte,
                entry.bytes,
                entry.chars,
            )
        )
        self._first_token[file] += count
        self.notes += 1
        self.words += count


def _chunks(notes: Iterable[Note]) -> Iterator[tuple[list[bytes], list[_Entry], bool]]:
    """Yield the notes in chunks: their texts, what the index keeps, and whether it is a full one.

    Only the last chunk is not full.
    """
    texts: list[bytes] = []
    entries: list[_Entry] = []
    size = 0
    for note in notes:
        text = note.text.encode()
        texts.append(text)
        entries.append(
            _Entry(note.admission, note.subject, note.order, note.key, len(text), len(note.text))
        )
        size += len(text)
        if size >= CHUNK_BYTES or len(texts) >= CHUNK_NOTES:
            yield texts, entries, True
            texts, entries, size = [], [], 0
    if texts:
        yield texts, entries, False


def _write(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of it; an unbuffered file may take only a part at a time."""
    view = memoryview(data).cast("B")
    while view:
        view = view[file.write(view) :]
