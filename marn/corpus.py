"""A prepared data set on disk: the one owner of the format, its writing and its reading.

Where the notes and codes come from is the matter of `data_prep`; how they become batches, of
`marn.batches`. Nothing here reads all notes into memory: arrays are mapped from their files.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from marn import privacy
from marn.errors import MarnError
from marn.text import Vocabulary

FORMAT = 1
"""Version of the layout on disk; a corpus of another version is not read."""

SPLITS = ("train", "dev", "test")

EVIDENCE = np.dtype(
    [("note", "<i4"), ("code", "<i4"), ("begin", "<i4"), ("end", "<i4"), ("role", "|u1")]
)
"""One row of a split's evidence: place of the note in the split, column of the code in task
"icd", character offsets into the note's text, place of the role in the card's list."""

_AT_ONCE = 1 << 20  # bytes of an array that are hashed and written together
_CARD = "card.json"
_VECTORS = "vectors.npy"
_OWN = {_CARD, "vocabulary.json", "codes.json", _VECTORS, "raw", *SPLITS}


@dataclass(frozen=True)
class CodeEntry:
    """One column of a task."""

    code: str
    """Dotted ICD code ("427.31"), or the name of a CCS category ("dx:106")."""
    kind: str
    """"dx" for a diagnosis, "pr" for a procedure, "dx+pr" where a merged category holds both."""
    title: str
    """What the code stands for, in English."""


@dataclass(frozen=True)
class Evidence:
    """A passage of a note that speaks of one of the corpus's codes."""

    code: int
    """Column of the code in task "icd"."""
    begin: int
    """First character of the passage in the note's text."""
    end: int
    """The character after the last."""
    role: str
    """What the passage does: "evidence" asserts the code, "negated" denies it, and so on."""


class Split:
    """The notes of one split, with everything that is known about each.

    `len(split)` is N, the number of notes. Made by `Corpus`, not by hand.
    """

    def __init__(
        self, folder: Path, tasks: Mapping[str, int], roles: Sequence[str], size: int | None = None
    ) -> None:
        self._folder = folder
        self._tasks = dict(tasks)
        self._roles = list(roles)
        offsets = self._array("token_offsets")
        self._size = len(offsets) - 1 if size is None else min(size, len(offsets) - 1)
        self._token_offsets = offsets[: self._size + 1]
        self._tokens = self._array("tokens")
        self._text = self._array("text")
        self._text_offsets = self._array("text_offsets")
        self._indices = {task: self._array(f"{task}.indices") for task in tasks}
        self._offsets = {task: self._array(f"{task}.offsets")[: self._size + 1] for task in tasks}
        self.ids = self._array("ids")[: self._size]
        """(N,) str: the admission of each note."""
        self.subjects = self._array("subjects")[: self._size]
        """(N,) str: the patient of each note."""

    def _array(self, name: str) -> np.ndarray:
        # The mapped array without its class, whose every slice would cost microseconds.
        return np.asarray(np.load(self._folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))

    def __len__(self) -> int:
        return self._size

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: words in each note, in tokens."""
        return np.diff(self._token_offsets)

    def _check(self, note: int) -> None:
        if not 0 <= note < self._size:
            raise IndexError(f"note {note} of a split of {self._size}")

    def note_tokens(self, note: int) -> np.ndarray:
        """Return the words of one note as (T,) int32 numbers of the vocabulary, unpadded."""
        self._check(note)
        return self._tokens[self._token_offsets[note] : self._token_offsets[note + 1]]

    def text(self, note: int) -> str:
        """Return the text of one note, as it was written."""
        self._check(note)
        return bytes(self._text[self._text_offsets[note] : self._text_offsets[note + 1]]).decode()

    def code_indices(self, task: str, note: int) -> np.ndarray:
        """Return the columns of the codes of one note, (n,) int32, ascending."""
        self._check(note)
        offsets = self._of_task(self._offsets, task)
        return self._indices[task][offsets[note] : offsets[note + 1]]

    def targets(self, task: str) -> np.ndarray:
        """Return the codes of all notes as an (N, C) bool array."""
        offsets = self._of_task(self._offsets, task)
        dense = np.zeros((self._size, self._tasks[task]), dtype=bool)
        rows = np.repeat(np.arange(self._size), np.diff(offsets))
        dense[rows, self._indices[task][: len(rows)]] = True
        return dense

    def frequency(self, task: str) -> np.ndarray:
        """Return in how many notes each code occurs, (C,) int64."""
        offsets = self._of_task(self._offsets, task)
        used = self._indices[task][: offsets[-1]]
        return np.bincount(used, minlength=self._tasks[task]).astype(np.int64)

    def _of_task(self, arrays: Mapping[str, np.ndarray], task: str) -> np.ndarray:
        if task not in arrays:
            raise MarnError(f"This corpus has no task {task!r}; it has {', '.join(arrays)}.")
        return arrays[task]

    @cached_property
    def _evidence(self) -> tuple[np.ndarray, np.ndarray]:
        if not (self._folder / "evidence.npy").exists():
            return np.zeros(0, EVIDENCE), np.zeros(self._size + 1, np.int64)
        rows = self._array("evidence")
        return rows, np.searchsorted(rows["note"], np.arange(self._size + 1))

    def evidence(self, note: int) -> list[Evidence]:
        """Return the passages that speak of the corpus's codes, in the order of the text.

        Empty where the source of the corpus marks none.
        """
        self._check(note)
        rows, offsets = self._evidence
        return [
            Evidence(int(row["code"]), int(row["begin"]), int(row["end"]), self._roles[row["role"]])
            for row in rows[offsets[note] : offsets[note + 1]]
        ]


class Corpus:
    """A prepared data set: notes with their codes, a vocabulary, and a card that says what it is.

    `Corpus.load` opens one; `python -m data_prep` makes one.

    Example:
        `corpus = Corpus.load("data/teaching")`, then `corpus.tasks` is
        `{"icd": 50, "ccs": 38}` and `corpus["train"].text(0)` the first note.
    """

    def __init__(
        self,
        path: Path,
        card: dict[str, Any],
        tasks: Sequence[str],
        sizes: Mapping[str, int],
    ) -> None:
        self.path = path
        """The folder of the corpus."""
        self.card = card
        """What the corpus is: source, counts, rows dropped, hashes (see `card.json`)."""
        self._sizes = dict(sizes)
        self.tasks: dict[str, int] = {task: card["tasks"][task] for task in tasks}
        """Number of codes C of each task."""
        self._splits = {
            name: Split(path / name, self.tasks, card["roles"], self._sizes.get(name))
            for name in card["splits"]
        }

    @classmethod
    def load(cls, path: str | Path) -> Corpus:
        """Open a corpus.

        Cheap: the card is read, file sizes are compared with it, and the arrays are mapped.
        `verify` compares the contents as well. A corpus whose text is under a data use agreement
        says so in the log (`marn.privacy.announce`).

        Args:
            path: the folder that `python -m data_prep` wrote.

        Returns:
            The corpus.

        Raises:
            MarnError: if there is no corpus, it was written by another version, a file of it is
                missing or has another size than when it was written, or its text is credentialed
                and papermill would write this notebook where it could be committed.
        """
        path = Path(path)
        card = _read_card(path)
        remedy = f"Make it again with: {card['created']['command']}"
        if card["format"] != FORMAT:
            raise MarnError(
                f"The corpus {path} has format {card['format']}, but this version of marn reads "
                f"format {FORMAT}. {remedy}"
            )
        for name, expected in _files(card).items():
            file = path / name
            if not file.is_file():
                raise MarnError(f"The corpus {path} is damaged: {name} is missing. {remedy}")
            if (size := file.stat().st_size) != expected["bytes"]:
                raise MarnError(
                    f"The corpus {path} is damaged: {name} has {size} bytes instead of "
                    f"{expected['bytes']}. {remedy}"
                )
        corpus = cls(path, card, list(card["tasks"]), {})
        if not corpus.is_open:
            privacy.announce(corpus.name, corpus.hash)
        return corpus

    def verify(self) -> None:
        """Compare the contents of every file with the card.

        Raises:
            MarnError: naming the first file that differs.
        """
        for name, expected in _files(self.card).items():
            if _sha256(self.path / name) != expected["sha256"]:
                raise MarnError(
                    f"The corpus {self.path} is damaged: the contents of {name} changed since it "
                    f"was written. Make it again with: {self.card['created']['command']}"
                )

    @property
    def name(self) -> str:
        """Name of the corpus, such as "mimic3_50"."""
        return self.card["name"]

    @property
    def is_open(self) -> bool:
        """Whether the text may be shown and shared; text under credentials may not."""
        return self.card["text"] == "open"

    @property
    def hash(self) -> str:
        """Names the contents: two corpora with one hash hold the same notes, words and codes.

        The vectors are not part of it, since their last digits differ between processors. A
        corpus cut by `head` says so behind the hash.
        """
        cut = ",".join(f"{name}={size}" for name, size in self._sizes.items())
        return self.card["hash"] + (f"+head({cut})" if cut else "")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the corpus."""
        return Vocabulary(_read_json(self.path / "vocabulary.json"))

    @cached_property
    def _columns(self) -> dict[str, list[dict[str, Any]]]:
        return _read_json(self.path / "codes.json")

    @cached_property
    def codes(self) -> dict[str, list[CodeEntry]]:
        """The C codes of each task, in the order of the columns (sorted by code)."""
        return {
            task: [
                CodeEntry(column["code"], column["kind"], column["title"])
                for column in self._columns[task]
            ]
            for task in self.tasks
        }

    @cached_property
    def parent(self) -> np.ndarray:
        """(C_icd,) int64: column in task "ccs" of the category of each ICD code, or -1.

        Raises:
            MarnError: if the corpus has not both tasks.
        """
        if not {"icd", "ccs"} <= set(self.tasks):
            raise MarnError(
                f"Only a corpus with the tasks icd and ccs has parents; this has "
                f"{', '.join(self.tasks)}."
            )
        return np.array([column["ccs"] for column in self._columns["icd"]], dtype=np.int64)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order train, dev, test."""
        return tuple(self._splits)

    def __getitem__(self, split: str) -> Split:
        if split not in self._splits:
            raise MarnError(f"No split {split!r} in this corpus; it has {', '.join(self.splits)}.")
        return self._splits[split]

    @cached_property
    def vectors(self) -> np.ndarray | None:
        """(V + 2, E) float32 word vectors, rows of length one (padding: zero), or None."""
        if self.card["vectors"] is None:
            return None
        return np.load(self.path / _VECTORS, mmap_mode="r", allow_pickle=False)

    def frequency(self, task: str, split: str = "train") -> np.ndarray:
        """Return in how many notes of a split each code occurs.

        Args:
            task: "icd" or "ccs".
            split: "train", "dev" or "test".

        Returns:
            (C,) int64.
        """
        return self[split].frequency(task)

    def only(self, *tasks: str) -> Corpus:
        """Return the same corpus with some of its tasks.

        Args:
            tasks: the tasks to keep, in this order.

        Raises:
            MarnError: if the corpus lacks one, or none is named.
        """
        if not tasks or (missing := [task for task in tasks if task not in self.tasks]):
            raise MarnError(
                f"Expected tasks out of {', '.join(self.tasks)}, but got "
                f"{', '.join(missing) if tasks else 'none'}."
            )
        return Corpus(self.path, self.card, tasks, self._sizes)

    def head(
        self, *, train: int | None = None, dev: int | None = None, test: int | None = None
    ) -> Corpus:
        """Return the same corpus with the first notes of each split, for a small machine.

        Vocabulary, codes and vectors stay those of the whole corpus.

        Args:
            train: notes to keep of split "train", at most; None keeps all.
            dev: the same for "dev".
            test: the same for "test".

        Raises:
            MarnError: if a number is below 1.
        """
        sizes = dict(self._sizes)
        for name, size in {"train": train, "dev": dev, "test": test}.items():
            if size is None:
                continue
            if size < 1:
                raise MarnError(f"Expected at least one note of split {name}, but got {size}.")
            if size < len(self[name]):
                sizes[name] = size
        return Corpus(self.path, self.card, list(self.tasks), sizes)

    def __repr__(self) -> str:
        tasks = ", ".join(f"{count} {task}" for task, count in self.tasks.items())
        notes = ", ".join(f"{len(self[name])} {name}" for name in self.splits)
        return f"Corpus({self.name!r}: {notes}; {tasks}; text {self.card['text']})"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MarnError(f"{path} is damaged ({error}). Make the corpus again.") from None


def _read_card(path: Path) -> dict[str, Any]:
    if not (path / _CARD).is_file():
        raise MarnError(
            f"No corpus at {path}. Make one with: python -m data_prep teaching --out {path} "
            "(or mimic3, codiesp: see python -m data_prep --help)"
        )
    card = _read_json(path / _CARD)
    if not isinstance(card, dict) or "format" not in card or "created" not in card:
        raise MarnError(f"{path / _CARD} is not the card of a marn corpus. Give another folder.")
    return card


def _files(card: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All files that the card vouches for, the vectors among them."""
    files = dict(card["files"])
    if card["vectors"] is not None:
        files[_VECTORS] = card["vectors"]
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- writing ------------------------------------------------------------------------------------


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Make a folder whole or not at all.

    Yields a fresh folder beside `path`, which takes its place at the end. Whatever interrupts
    the work, an error or Ctrl-C, removes the fresh folder and leaves `path` as it was.

    Args:
        path: where the corpus shall be; absent, an empty folder, or a corpus, which is replaced.

    Raises:
        MarnError: if something other than a corpus is there, or the disk refuses.
    """
    path = Path(path)
    _refuse_foreign(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".partial", dir=path.parent))
    except OSError as error:
        raise MarnError(f"Cannot write beside {path}: {error.strerror}.") from None
    try:
        partial.chmod(0o755)
        yield partial
        if path.exists():
            former = partial.with_suffix(".former")
            path.rename(former)
            try:
                partial.rename(path)
            except BaseException:
                former.rename(path)
                raise
            shutil.rmtree(former)
        else:
            partial.rename(path)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise MarnError(
            f"Cannot write {path} ({error}). Nothing was kept: free some space or choose another "
            "folder."
        ) from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _refuse_foreign(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise MarnError(f"{path} is a file. Choose a folder that does not exist yet.")
    foreign = sorted({entry.name for entry in path.iterdir()} - _OWN)
    if foreign:
        raise MarnError(
            f"{path} holds {foreign[0]}, which is not part of a corpus, and would be lost. "
            "Choose another folder or move it away."
        )
    if any(path.iterdir()):
        if not (path / _CARD).is_file():
            raise MarnError(f"{path} exists and is no corpus. Choose another folder or remove it.")
        _read_card(path)


class _ArrayFile:
    """A one-dimensional .npy file whose length is known before its contents are."""

    def __init__(self, path: Path, dtype: np.dtype, size: int) -> None:
        self._file: BinaryIO = path.open("wb", buffering=0)
        self._dtype, self._left = np.dtype(dtype), size
        self._sum = hashlib.sha256()
        self._bytes = 0
        self._gathered: list[np.ndarray] = []
        self._size = 0
        header = io.BytesIO()
        described = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (size,),
        }
        np.lib.format.write_array_header_1_0(header, described)
        self._write(header.getvalue())

    def append(self, array: np.ndarray) -> None:
        """Write an array behind the others, soon."""
        assert array.dtype == self._dtype
        assert len(array) <= self._left
        self._left -= len(array)
        self._gathered.append(array)
        self._size += array.nbytes
        if self._size >= _AT_ONCE:
            self._write_gathered()

    def _write_gathered(self) -> None:
        if self._size:
            self._write(np.concatenate(self._gathered).data)
        self._gathered, self._size = [], 0

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._sum.update(view)
        self._bytes += len(view)
        while view:  # an unbuffered file may take only a part at a time
            view = view[self._file.write(view) :]

    def record(self) -> dict[str, Any]:
        """What the card says of the file."""
        return {"bytes": self._bytes, "sha256": self._sum.hexdigest()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self._write_gathered()
                assert self._left == 0


def write_texts(
    folder: Path, sizes: np.ndarray, texts: Iterable[bytes]
) -> dict[Path, dict[str, Any]]:
    """Write the texts of a split.

    Args:
        folder: of the split; made if it is not there.
        sizes: (N,) bytes of each text.
        texts: in UTF-8, asked for one by one.

    Returns:
        What the card says of the file they are in, for `CorpusWriter.add`.
    """
    folder.mkdir(exist_ok=True)
    np.save(folder / "text_offsets.npy", _offsets(sizes))
    path = folder / "text.npy"
    with _ArrayFile(path, np.dtype("|u1"), int(np.sum(sizes))) as file:
        for text in texts:
            file.append(np.frombuffer(text, dtype=np.uint8))
    return {path: file.record()}


@dataclass
class CorpusWriter:
    """Writes the files of a corpus into a folder, the card last.

    Use inside `replacing`: `texts` and `split`, then `vectors` if there are some, then `finish`.
    Codes are given here because each split is checked against them.
    """

    folder: Path
    """Where to write; `replacing` yields it."""
    codes: Mapping[str, Sequence[CodeEntry]]
    """Columns of each task, sorted by code."""
    parent: Sequence[int]
    """Column in task "ccs" of each code of task "icd", -1 for none; empty without "ccs"."""
    roles: Sequence[str] = ()
    """Roles that evidence may have."""
    _counts: dict[str, dict[str, int]] = field(default_factory=dict, init=False)
    _records: dict[Path, Mapping[str, Any]] = field(default_factory=dict, init=False)
    _vectors: dict[str, Any] | None = field(default=None, init=False)
    _rows: int | None = field(default=None, init=False)

    def texts(self, name: str, sizes: np.ndarray, texts: Iterable[bytes]) -> None:
        """Write the texts of a split, as `write_texts` does."""
        assert name in SPLITS
        self.add(write_texts(self.folder / name, sizes, texts))

    def add(self, written: Mapping[Path, Mapping[str, Any]]) -> None:
        """Take in what `write_texts` has written, perhaps in another process."""
        self._records.update(written)

    def split(
        self,
        name: str,
        *,
        ids: Sequence[str],
        subjects: Sequence[str],
        lengths: np.ndarray,
        tokens: Iterable[np.ndarray],
        columns: Mapping[str, Sequence[Sequence[int]]],
        evidence: np.ndarray | None = None,
    ) -> None:
        """Write one split but for its texts; its notes are asked for one by one.

        Args:
            name: "train", "dev" or "test".
            ids: the N admissions.
            subjects: the N patients.
            lengths: (N,) words of each note.
            tokens: for each note its words, (T,) int32.
            columns: for each task the columns of every note's codes.
            evidence: rows of dtype `EVIDENCE`, or None where the source marks none.
        """
        assert name in SPLITS
        assert len(ids) == len(subjects) == len(lengths)
        assert set(columns) == set(self.codes)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        np.save(folder / "ids.npy", np.array(ids, dtype=str))
        np.save(folder / "subjects.npy", np.array(subjects, dtype=str))
        np.save(folder / "token_offsets.npy", _offsets(lengths))
        for task, rows in columns.items():
            flat = [column for row in rows for column in sorted(row)]
            indices = np.array(flat, dtype=np.int32)
            assert len(rows) == len(ids)
            assert not len(indices) or 0 <= indices.min() <= indices.max() < len(self.codes[task])
            np.save(folder / f"{task}.indices.npy", indices)
            np.save(folder / f"{task}.offsets.npy", _offsets([len(row) for row in rows]))
        if evidence is not None:
            order = np.lexsort((evidence["end"], evidence["begin"], evidence["note"]))
            np.save(folder / "evidence.npy", evidence[order])
        path = folder / "tokens.npy"
        with _ArrayFile(path, np.dtype("<i4"), int(np.sum(lengths))) as file:
            for words in tokens:
                file.append(words)
        self._records[path] = file.record()
        self._counts[name] = {
            "notes": len(ids),
            "subjects": len(set(subjects)),
            "tokens": int(np.sum(lengths)),
        }

    def written_notes(self, splits: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield the (T,) int32 tokens of each note of the splits just written, one by one."""
        for name in splits:
            lengths = np.diff(np.load(self.folder / name / "token_offsets.npy"))
            # Read, not mapped: pages of a mapped file count as memory of the process.
            with (self.folder / name / "tokens.npy").open("rb") as file:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                for length in lengths:
                    yield np.frombuffer(file.read(4 * length), dtype=np.int32)

    def vectors(self, vectors: np.ndarray, settings: Mapping[str, Any]) -> None:
        """Write the (V + 2, E) float32 word vectors and how they were made."""
        assert vectors.dtype == np.float32
        np.save(self.folder / _VECTORS, vectors)
        self._vectors = dict(settings) | {"width": vectors.shape[1]}
        self._rows = len(vectors)

    def finish(
        self,
        *,
        vocabulary: Vocabulary,
        name: str,
        source: str,
        text: str,
        language: str,
        command: str,
        seed: int,
        ccs_key: str | None,
        settings: Mapping[str, Any],
        dropped: Mapping[str, int],
    ) -> dict[str, Any]:
        """Write vocabulary, codes and card.

        Args:
            vocabulary: what the tokens are numbers of.
            name: name of the corpus.
            source: where notes and codes come from, in a sentence.
            text: "open" or "credentialed".
            language: of the notes, such as "en".
            command: the command line that makes this corpus again.
            seed: the seed it was made with.
            ccs_key: how categories are told apart ("kind:number" or "number"), None without.
            settings: the choices made on the way (codes kept, split rule, ...).
            dropped: rows left out, by reason.

        Returns:
            The card.
        """
        assert text in ("open", "credentialed")
        assert self._rows in (None, len(vocabulary))
        parents = self.parent or [-1] * len(self.codes["icd"])
        tables = {
            task: [
                asdict(entry) | ({"ccs": parents[column]} if task == "icd" else {})
                for column, entry in enumerate(entries)
            ]
            for task, entries in self.codes.items()
        }
        _write_json(self.folder / "vocabulary.json", vocabulary.words)
        _write_json(self.folder / "codes.json", tables)
        paths = [self.folder / "vocabulary.json", self.folder / "codes.json"]
        paths += [file for split in self._counts for file in (self.folder / split).iterdir()]
        named = {path.relative_to(self.folder).as_posix(): path for path in paths}
        files = {
            name: self._records.get(named[name]) or _record(named[name]) for name in sorted(named)
        }
        contents = "".join(f"{name} {file['sha256']}\n" for name, file in files.items())
        card = {
            "format": FORMAT,
            "name": name,
            "source": source,
            "text": text,
            "language": language,
            "created": {"command": command, "marn": version("marn"), "seed": seed},
            "splits": {split: self._counts[split] for split in SPLITS if split in self._counts},
            "tasks": {task: len(entries) for task, entries in self.codes.items()},
            "ccs_key": ccs_key,
            "settings": dict(settings),
            "dropped": dict(dropped),
            "roles": list(self.roles),
            "hash": hashlib.sha256(contents.encode()).hexdigest(),
            "vectors": None
            if self._vectors is None
            else self._vectors | _record(self.folder / _VECTORS),
            "files": files,
        }
        _write_json(self.folder / _CARD, card)
        return card


def _offsets(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """(N + 1,) int64: where each of N pieces begins when they lie end to end."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


def _record(path: Path) -> dict[str, Any]:
    return {"bytes": os.path.getsize(path), "sha256": _sha256(path)}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
