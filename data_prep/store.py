"""All notes of a source on disk, as text and as numbers of words; in memory only an index of them.

One process reads the notes and writes their text. Splitting it into words and numbering these,
which is most of the work, is done by as many processes as one likes, and by the one that reads
whenever the others have enough to do. Each numbers the words it meets in its own way, and the
numbers are brought together afterwards; so the corpus is the same whatever their number.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import Counter, defaultdict, deque
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

CHUNK_BYTES = 1 << 21
"""Text handed to a process at once. A source with less than that is not worth a second process."""
CHUNK_NOTES = 2_000
"""Notes handed to a process at once, so that what is said to it fits into a pipe (64 KiB)."""
MOST_WORKERS = 4
"""Processes by default, at most. One of them reads the table, which takes about a fourth of the
time that splitting takes: with more of them, they would wait for it."""

_RUN = 1 << 18  # words counted together
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
    """A splitter in a process of its own.

    Args:
        file: number of the file of its words.
        text: the file to read.
        tokens: the file to write.
    """

    def __init__(self, file: int, text: Path, tokens: Path) -> None:
        self.file = file
        self.under_way: deque[_Chunk] = deque()
        """What was given and not taken back."""
        # Spawned, not forked: the one way that is the same on every system and safe with threads.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, text, tokens), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, chunk: _Chunk) -> None:
        """Send notes to be split; `take` returns them in the same order."""
        self.under_way.append(chunk)
        try:
            self._pipe.send((chunk.first_byte, chunk.sizes))
        except ConnectionError:
            while True:  # what it died of stands behind its last answers, unless it was killed
                self.take()

    def has_answer(self) -> bool:
        """Whether `take` would not wait."""
        return bool(self.under_way) and self._pipe.poll()

    def take(self) -> tuple[_Chunk, np.ndarray, list[str]]:
        """Wait for the oldest answer: what was given, and what `_Splitter.split` made of it."""
        with _watched():
            answer = self._pipe.recv()
        if isinstance(answer, OSError):
            raise answer
        return self.under_way.popleft(), *answer

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


class _Chunk(NamedTuple):
    """Notes that lie one behind the other in the file of the text."""

    first_byte: int
    """On which they begin."""
    sizes: np.ndarray
    """(N,) int64, bytes of each."""
    entries: list[_Entry]


class Store:
    """All notes on disk, with an index in memory; use as a context, which removes the files.

    Args:
        folder: where to put the files; made here, removed at the end.
        workers: processes that split notes into words, this one among them.
    """

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self._folder, self._workers = folder, workers
        self.admissions: dict[str, Admission] = {}
        """Every admission with a note that has a word."""
        self.words: list[str] = []
        """All words; the place of each is its provisional number."""
        self._processes: list[_Process] = []
        self._tokens: list[BinaryIO] = []

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._text: BinaryIO = (self._folder / "text").open("w+b", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._end_processes()
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
        index = _Index(self.admissions, numbers, dropped, progress)
        here = _Splitter(self._folder / "text", self._tokens_path(0))
        first_byte = 0
        try:
            for texts, entries, is_full in _chunks(notes):
                if is_full and not first_byte:
                    self._begin_processes()
                _write(self._text, b"".join(texts))
                sizes = np.array([entry.bytes for entry in entries], dtype=np.int64)
                chunk = _Chunk(first_byte, sizes, entries)
                first_byte += int(sizes.sum())
                for process in self._processes:
                    while process.has_answer():
                        index.enter(process.file, *process.take())
                idle = min(self._processes, key=lambda one: len(one.under_way), default=None)
                if idle is not None and len(idle.under_way) < _AHEAD:
                    idle.give(chunk)
                else:
                    index.enter(0, chunk, *here.split(chunk.first_byte, chunk.sizes))
            for process in self._processes:
                while process.under_way:
                    index.enter(process.file, *process.take())
        finally:
            here.close()
        for file in range(1 + len(self._processes)):
            self._tokens.append(self._tokens_path(file).open("rb", buffering=0))
        self._end_processes()
        self.words = list(numbers)
        self._numbers = [
            np.array(index.numbers_of[file], dtype=np.int32) for file in range(len(self._tokens))
        ]
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
        notes_with = np.zeros(len(self.words), dtype=np.int64)
        last = np.zeros(len(self.words), dtype=np.int32)
        places = np.arange(max(self.admissions[id_].tokens for id_ in training), dtype=np.int32)
        for words, sizes in self._runs(training):
            is_last = np.empty(
                len(words), dtype=bool
            )  # each word of a note counts at its last place
            end = 0
            for size in sizes:
                begin, end = end, end + size
                note, numbered = words[begin:end], places[:size]
                last[note] = numbered
                np.equal(last[note], numbered, out=is_last[begin:end])
            notes_with += np.bincount(words[is_last], minlength=len(notes_with))
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

    def _runs(self, ids: Sequence[str]) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yield the words of many admissions at once, in any order.

        Args:
            ids: the admissions.

        Yields:
            (T,) intp, provisional numbers of the words of some, and how many are each one's.
        """
        alone: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for id_ in ids:
            admission = self.admissions[id_]
            if len(admission.pieces) == 1:  # as nearly all have
                piece = admission.pieces[0]
                alone[piece.file].append((piece.first_token, piece.tokens))
            else:
                yield self.tokens(admission).astype(np.intp), [admission.tokens]
        for file, spans in alone.items():
            spans.sort()
            begin = 0
            while begin < len(spans):
                end, size = begin, 0
                while end < len(spans) and size < _RUN:
                    size += spans[end][1]
                    end += 1
                some = spans[begin:end]
                data = [
                    os.pread(self._tokens[file].fileno(), 4 * count, 4 * first)
                    for first, count in some
                ]
                given = np.frombuffer(b"".join(data), np.int32).astype(np.intp)
                yield self._numbers[file][given].astype(np.intp), [count for _, count in some]
                begin = end

    def _tokens_path(self, file: int) -> Path:
        return self._folder / f"tokens.{file}"

    def _begin_processes(self) -> None:
        for file in range(1, self._workers):
            self._processes.append(_Process(file, self._folder / "text", self._tokens_path(file)))

    def _end_processes(self) -> None:
        for process in self._processes:
            process.close()
        self._processes = []


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
        self.numbers_of: defaultdict[int, list[int]] = defaultdict(list)
        """For each file of words, the provisional number of each number that was given in it."""
        self._first_token: Counter[int] = Counter()

    def enter(self, file: int, chunk: _Chunk, counts: np.ndarray, new: list[str]) -> None:
        """Enter notes with the words in each and the new words, all that lie in one file."""
        self.numbers_of[file] += [
            self._numbers.setdefault(word, len(self._numbers)) for word in new
        ]
        said = self.notes
        first_byte = chunk.first_byte
        for entry, count in zip(chunk.entries, counts.tolist(), strict=True):
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

    Only the last chunk is not full, and only one that is full is worth a process.
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
