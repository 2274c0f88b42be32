"""All notes of a source on disk, as text and as numbers of words; in memory only an index of them.

One process reads the notes and writes their text. Splitting it into words and numbering these,
which is most of the work, is done by as many processes as one likes, and by the one that reads
whenever the others have enough to do. Each numbers the words it meets in its own way, and the
numbers are brought together afterwards; so the corpus is the same whatever their number. When the
order of the notes is known, one of the others writes their texts in that order.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np

from data_prep.corpus_writer import write_texts
from data_prep.words import Words
from marn.corpus.text import Vocabulary
from marn.errors import MarnError

CHUNK_BYTES = 1 << 21
"""Text handed to a process at once. A source with less than that is not worth a second process."""
CHUNK_NOTES = 2_000
"""Notes handed to a process at once."""
MOST_WORKERS = 4
"""Processes by default, at most. One of them reads the table, which takes about a fourth of the
time that splitting takes: with more of them, they would wait for it."""

# Under way for each process: enough that it has work while the codes are read, and no more than
# can be said to it without waiting (64 KiB in a pipe, 8 bytes a note).
_AHEAD = 4  # chunks
_NOTES_AHEAD = 3 * CHUNK_NOTES

Progress = Callable[[str], None]
"""Takes one line about how far the work is."""

Written = dict[Path, dict[str, Any]]
"""What the card says of each file that was written."""


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


class _Splitter:
    """Turns notes into numbers of words, which it writes into a file."""

    def __init__(self, tokens: Path) -> None:
        self._tokens = tokens.open("wb", buffering=0)
        self._words = Words()
        self._said = 0

    def split(self, notes: Sequence[bytes]) -> tuple[np.ndarray, list[str]]:
        """Split notes.

        Args:
            notes: N texts in UTF-8.

        Returns:
            (N,) int64, words in each; and the words that were met for the first time, whose
            numbers follow those of the words returned before.
        """
        ids, counts = self._words.number(notes)
        _write(self._tokens, ids.data)
        new = self._words.words[self._said :]
        self._said += len(new)
        return counts, new

    def close(self) -> None:
        """Close the file."""
        self._tokens.close()


def _serve(pipe: Connection, text: Path, tokens: Path) -> None:
    """Do what is asked until nothing more is, or whoever asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides
    try:
        splitter = _Splitter(tokens)
        with text.open("rb", buffering=0) as file:
            while True:
                asked = pipe.recv()
                if isinstance(asked, _Span):
                    pipe.send(splitter.split(_read(file, asked)))
                else:
                    pipe.send(_write_texts(file, asked))
    except (EOFError, ConnectionError):
        return
    except OSError as error:  # a full disk above all: raised again where it can be reported
        pipe.send(error)


class _Span(NamedTuple):
    """Texts that lie one behind the other in the file of all texts."""

    first_byte: int
    """On which they begin."""
    sizes: np.ndarray
    """(N,) int64, bytes of each."""


def _read(file: BinaryIO, span: _Span) -> list[bytes]:
    data = os.pread(file.fileno(), int(span.sizes.sum()), span.first_byte)
    ends = np.cumsum(span.sizes).tolist()
    return [data[begin:end] for begin, end in pairwise([0, *ends])]


_Places = Sequence[tuple[int, int]]
"""First byte and bytes of each note of an admission."""


def _text(file: BinaryIO, notes: _Places) -> bytes:
    return b"\n".join(os.pread(file.fileno(), size, first) for first, size in notes)


def _write_texts(file: BinaryIO, splits: Mapping[Path, Sequence[_Places]]) -> Written:
    """Write the texts of all admissions of each split into its folder."""
    written: Written = {}
    for folder, admissions in splits.items():
        sizes = [sum(size for _, size in notes) + len(notes) - 1 for notes in admissions]
        texts = (_text(file, notes) for notes in admissions)
        written |= write_texts(folder, np.array(sizes, dtype=np.int64), texts)
    return written


class _Process:
    """A process that splits notes, and writes texts.

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
        self.ask(chunk.span)

    def has_room_for(self, chunk: _Chunk) -> bool:
        """Whether notes can be given without waiting."""
        notes = sum(len(one.entries) for one in (*self.under_way, chunk))
        return len(self.under_way) < _AHEAD and notes <= _NOTES_AHEAD

    def has_answer(self) -> bool:
        """Whether `take` would not wait."""
        return bool(self.under_way) and self._pipe.poll()

    def take(self) -> tuple[_Chunk, np.ndarray, list[str]]:
        """Wait for the oldest notes: what was given, and what `_Splitter.split` made of it."""
        counts, new = self.answer()
        return self.under_way.popleft(), counts, new

    def ask(self, what: _Span | Mapping[Path, Sequence[_Places]]) -> None:
        """Send notes to be split, or texts to be written."""
        try:
            self._pipe.send(what)
        except ConnectionError:
            while True:  # what it died of stands behind its last answers, unless it was killed
                self.answer()

    def answer(self) -> Any:
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
            "A process that prepares notes has died, for lack of memory perhaps. Try --workers 1."
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
    """Notes to be split together."""

    span: _Span
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
        for process in self._processes:
            process.close()
        for file in (self._text, *self._tokens):
            file.close()
        shutil.rmtree(self._folder)

    @contextmanager
    def read(
        self, notes: Iterable[Note], dropped: Counter[str], progress: Progress
    ) -> Iterator[None]:
        """Take all notes in, and split the last of them beside what is done within this context.

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
        here = _Splitter(self._tokens_path(0))
        first_byte = 0
        try:
            for texts, entries, is_full in _chunks(notes):
                if is_full and not first_byte:
                    self._begin_processes()
                _write(self._text, b"".join(texts))
                sizes = np.array([entry.bytes for entry in entries], dtype=np.int64)
                chunk = _Chunk(_Span(first_byte, sizes), entries)
                first_byte += int(sizes.sum())
                for process in self._processes:
                    while process.has_answer():
                        index.enter(process.file, *process.take())
                idle = min(self._processes, key=lambda one: len(one.under_way), default=None)
                if idle is not None and idle.has_room_for(chunk):
                    idle.give(chunk)
                else:
                    index.enter(0, chunk, *here.split(texts))
        finally:
            here.close()
        yield
        for process in self._processes:
            while process.under_way:
                index.enter(process.file, *process.take())
        for file in range(1 + len(self._processes)):
            self._tokens.append(self._tokens_path(file).open("rb", buffering=0))
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

    @contextmanager
    def texts(self, splits: Mapping[Path, Sequence[Admission]]) -> Iterator[Written]:
        r"""Write the texts of admissions, in a process beside what is done within this context.

        Where there is no other process they are written first.

        Args:
            splits: for the folder of each split its admissions, whose notes are parted by a "\n".

        Yields:
            What `marn.corpus.write_texts` returns, complete when the context ends.
        """
        places = {
            folder: [
                [(piece.first_byte, piece.bytes) for piece in admission.pieces]
                for admission in admissions
            ]
            for folder, admissions in splits.items()
        }
        if not self._processes:
            yield _write_texts(self._text, places)
            return
        writer = self._processes[0]
        writer.ask(places)
        written: Written = {}
        yield written
        written |= writer.answer()

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
        has = np.zeros(len(self.words), dtype=np.uint8)
        for first in range(0, len(training), 255):  # as many as a byte can count
            notes_here = np.zeros(len(self.words), dtype=np.uint8)
            for id_ in training[first : first + 255]:
                has[self.tokens(self.admissions[id_]).astype(np.intp)] = 1
                notes_here += has
                has.fill(0)
            notes_with += notes_here
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

    def _begin_processes(self) -> None:
        for file in range(1, self._workers):
            self._processes.append(_Process(file, self._folder / "text", self._tokens_path(file)))


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
        first_byte = chunk.span.first_byte
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
