"""Read a prepared corpus from disk; `data_prep.corpus_writer` writes it.

Arrays are mapped from their files, so the notes are never all in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from marn import privacy
from marn.corpus.card import FORMAT, VECTORS, files_of, read_card, read_part, remedy_of, sha256
from marn.corpus.text import Vocabulary
from marn.errors import MarnError

SPLITS = ("train", "dev", "test")

EVIDENCE = np.dtype(
    [("note", "<i4"), ("code", "<i4"), ("begin", "<i4"), ("end", "<i4"), ("role", "|u1")]
)
"""Row of a split's evidence: index of the note in the split, column of the code in task "icd",
character offsets into the note's text, index of the role in the card's list."""


@dataclass(frozen=True)
class CodeEntry:
    """One code of a task: a column of its logits."""

    code: str
    """Dotted ICD code ("427.31"), or the name of a CCS category ("dx:106")."""
    kind: str
    """"dx" for a diagnosis, "pr" for a procedure, "dx+pr" where a merged category holds both."""
    title: str
    """Title of the code, in English."""


@dataclass(frozen=True)
class Evidence:
    """A passage of a note about one of the corpus's codes."""

    code: int
    """Column of the code in task "icd"."""
    begin: int
    """First character of the passage in the note's text."""
    end: int
    """One past the last character."""
    role: str
    """What the passage does: "evidence" asserts the code, "negated" denies it, and so on."""


class Split:
    """The notes of one split, with their codes and evidence; made by `Corpus`.

    `len(split)` is N, the number of notes.
    """

    def __init__(
        self,
        folder: Path,
        tasks: Mapping[str, int],
        roles: Sequence[str],
        size: int | None = None,
        *,
        is_open: bool,
    ) -> None:
        self._folder, self._tasks, self._roles, self._is_open = folder, tasks, roles, is_open
        offsets = self._array("token_offsets")
        self._size = len(offsets) - 1 if size is None else min(size, len(offsets) - 1)
        self._token_offsets = offsets[: self._size + 1]
        self._tokens = self._array("tokens")
        self._text = self._array("text")
        self._text_offsets = self._array("text_offsets")
        self._codes = {
            task: (self._array(f"{task}.indices"), self._array(f"{task}.offsets")[: self._size + 1])
            for task in tasks
        }
        self.ids = self._array("ids")[: self._size]
        """(N,) str: the admission of each note."""
        self.subjects = self._array("subjects")[: self._size]
        """(N,) str: the patient of each note."""

    def _array(self, name: str) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        try:
            # a plain view of the mapped array: slices of np.memmap cost microseconds each
            loaded = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            kind = {"ids": "U", "subjects": "U", "evidence": "V"}.get(name, "iu")
            if (
                loaded.ndim != 1
                or loaded.dtype.kind not in kind
                or (name.endswith("offsets") and (loaded[1:] < loaded[:-1]).any())
            ):
                raise ValueError
            return loaded
        except (OSError, ValueError, EOFError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise MarnError(
                f"{path} cannot be read ({reason or 'damaged'}); make the corpus again"
            ) from None

    def __len__(self) -> int:
        return self._size

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: number of words in each note."""
        return np.diff(self._token_offsets)

    def _slice(self, values: np.ndarray, offsets: np.ndarray, note: int) -> np.ndarray:
        if not 0 <= note < self._size:
            raise IndexError(f"note {note} is not in a split of {self._size} notes")
        return values[offsets[note] : offsets[note + 1]]

    def note_tokens(self, note: int) -> np.ndarray:
        """Return the words of one note as (T,) int32 numbers of the vocabulary, unpadded.

        Raises:
            IndexError: the split has no such note.
        """
        return self._slice(self._tokens, self._token_offsets, note)

    def text(self, note: int) -> str:
        """Return the text of one note, as it was written.

        Raises:
            MarnError: the text is credentialed and this is a notebook, which saves what it shows
                (see `marn.privacy.SWITCH`).
        """
        privacy.check_may_show(self._is_open, show_credentialed_text=True)
        return bytes(self._slice(self._text, self._text_offsets, note)).decode()

    def code_indices(self, task: str, note: int) -> np.ndarray:
        """Return the columns of the codes of one note, (n,) int32, ascending.

        Raises:
            MarnError: the corpus has no such task.
            IndexError: the split has no such note.
        """
        return self._slice(*self._of_task(task), note)

    def targets(self, task: str) -> np.ndarray:
        """Return the codes of all notes as an (N, C) bool array."""
        columns, offsets = self._of_task(task)
        dense = np.zeros((self._size, self._tasks[task]), dtype=bool)
        rows = np.repeat(np.arange(self._size), np.diff(offsets))
        dense[rows, columns[: len(rows)]] = True
        return dense

    def frequency(self, task: str) -> np.ndarray:
        """Count the notes that have each code, (C,) int64."""
        columns, offsets = self._of_task(task)
        return np.bincount(columns[: offsets[-1]], minlength=self._tasks[task])

    def _of_task(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns of the codes of all notes, and where those of each note begin."""
        if task not in self._codes:
            raise MarnError(f"this corpus has no task {task!r}; it has {', '.join(self._codes)}")
        return self._codes[task]

    @cached_property
    def _evidence(self) -> tuple[np.ndarray, np.ndarray]:
        if not (self._folder / "evidence.npy").exists():
            return np.zeros(0, EVIDENCE), np.zeros(self._size + 1, np.int64)
        rows = self._array("evidence")
        if len(rows) and rows["role"].max() >= len(self._roles):
            raise MarnError(f"{self._folder} has evidence of unknown roles; make the corpus again")
        return rows, np.searchsorted(rows["note"], np.arange(self._size + 1))

    def evidence(self, note: int) -> list[Evidence]:
        """Return the passages about the corpus's codes, in the order of the text.

        Empty if the source of the corpus has no evidence.
        """
        rows = self._slice(*self._evidence, note)[["code", "begin", "end", "role"]].tolist()
        return [Evidence(code, begin, end, self._roles[role]) for code, begin, end, role in rows]


class Corpus:
    """A prepared corpus: notes with their codes, a vocabulary and a card.

    `Corpus.load` opens one; `python -m data_prep` makes one.

    Example:
        `corpus = Corpus.load("data/teaching")`, then `corpus.tasks` is
        `{"icd": 50, "ccs": 38}` and `corpus["train"].text(0)` the first note.
    """

    def __init__(
        self, path: Path, card: dict[str, Any], tasks: Iterable[str], sizes: Mapping[str, int]
    ) -> None:
        self.path = path
        """The folder of the corpus."""
        self.card = card
        """What the corpus is: source, counts, rows dropped, hashes (see `card.json`)."""
        self._sizes = sizes
        self.tasks: dict[str, int] = {task: card["tasks"][task] for task in tasks}
        """Number of codes C of each task."""
        self._splits = {
            name: Split(
                path / name, self.tasks, card["roles"], sizes.get(name), is_open=self.is_open
            )
            for name in card["splits"]
        }

    @classmethod
    def load(cls, path: str | Path) -> Corpus:
        """Open a corpus.

        This is fast: the card is read, file sizes are compared with it, and the arrays are mapped.
        `verify` compares the contents as well. A corpus whose text is under a data use agreement
        is announced in the log (`marn.privacy.announce`).

        Args:
            path: the folder that `python -m data_prep` wrote.

        Raises:
            MarnError: there is no corpus, it was written by another version, or a file is missing
                or differs in size from what was written.
        """
        path = Path(path)
        card = read_card(path)
        remedy = remedy_of(card)
        if card["format"] != FORMAT:
            raise MarnError(
                f"corpus {path} has format {card['format']}, but this version of marn reads format "
                f"{FORMAT}; {remedy}"
            )
        for name, expected in files_of(card).items():
            file = path / name
            if not file.is_file():
                raise MarnError(f"corpus {path} is damaged: {name} is missing; {remedy}")
            if (size := file.stat().st_size) != expected["bytes"]:
                raise MarnError(
                    f"corpus {path} is damaged: {name} has {size} bytes instead of "
                    f"{expected['bytes']}; {remedy}"
                )
        corpus = cls(path, card, card["tasks"], {})
        if not corpus.is_open:
            privacy.announce(corpus.name, corpus.hash)
        return corpus

    def verify(self) -> None:
        """Compare the contents of every file with the card.

        Raises:
            MarnError: naming the first file that differs.
        """
        for name, expected in files_of(self.card).items():
            if sha256(self.path / name) != expected["sha256"]:
                raise MarnError(
                    f"corpus {self.path} is damaged: the contents of {name} changed since it was "
                    f"written; {remedy_of(self.card)}"
                )

    @property
    def name(self) -> str:
        """Name of the corpus, such as "mimic3_50"."""
        return self.card["name"]

    @property
    def is_open(self) -> bool:
        """Whether the text may be shown and shared; credentialed text may not."""
        return self.card["text"] == "open"

    @property
    def hash(self) -> str:
        """Hash of the contents: corpora with the same hash have the same notes, words and codes.

        It excludes word vectors, whose last digits differ between processors. A corpus cut by
        `head` has a suffix that says so.
        """
        cut = ",".join(f"{name}={size}" for name, size in self._sizes.items())
        return self.card["hash"] + (f"+head({cut})" if cut else "")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the corpus."""
        words = read_part(self.path / "vocabulary.json", list[str])
        return Vocabulary(words, is_open=self.is_open)

    @cached_property
    def _columns(self) -> dict[str, list[_Column]]:
        columns: dict[str, list[_Column]] = read_part(
            self.path / "codes.json", dict[str, list[_Column]]
        )
        if {task: len(columns.get(task, ())) for task in self.tasks} != self.tasks:
            raise MarnError(f"{self.path / 'codes.json'} is damaged (codes); make the corpus again")
        return columns

    @cached_property
    def codes(self) -> dict[str, list[CodeEntry]]:
        """The C codes of each task, in the order of the columns (sorted by code)."""
        return {
            task: [CodeEntry(c.code, c.kind, c.title) for c in self._columns[task]]
            for task in self.tasks
        }

    @cached_property
    def parent(self) -> np.ndarray:
        """(C_icd,) int64: column in task "ccs" of the category of each ICD code, or -1.

        Raises:
            MarnError: the corpus lacks one of the tasks.
        """
        if not {"icd", "ccs"} <= set(self.tasks):
            found = ", ".join(self.tasks)
            raise MarnError(
                f"only a corpus with the tasks icd and ccs has parents, not one of {found}"
            )
        return np.array([column.ccs for column in self._columns["icd"]], dtype=np.int64)

    @cached_property
    def categories(self) -> list[CodeEntry | None]:
        """Return the category of each ICD code, or None if it has none."""
        columns = self._columns
        above = [CodeEntry(c.code, c.kind, c.title) for c in columns.get("ccs", ())]
        found = [column.ccs for column in columns.get("icd", ())]
        return [above[place] if above and place >= 0 else None for place in found]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order train, dev, test."""
        return tuple(self._splits)

    def __getitem__(self, split: str) -> Split:
        if split not in self._splits:
            raise MarnError(f"no split {split!r} in this corpus; it has {', '.join(self.splits)}")
        return self._splits[split]

    @cached_property
    def vectors(self) -> np.ndarray | None:
        """(V + 2, E) float32 word vectors, rows of norm 1 (padding: 0), or None."""
        if self.card["vectors"] is None:
            return None
        return np.load(self.path / VECTORS, mmap_mode="r", allow_pickle=False)

    def frequency(self, task: str, split: str = "train") -> np.ndarray:
        """Count the notes of a split that have each code of a task, (C,) int64."""
        return self[split].frequency(task)

    def only(self, *tasks: str) -> Corpus:
        """Return the same corpus with only some of its tasks, in the order given.

        Raises:
            MarnError: the corpus lacks a task, or none is named.
        """
        missing = [task for task in tasks if task not in self.tasks]
        if missing or not tasks:
            raise MarnError(
                f"tasks must be among {', '.join(self.tasks)}, but got "
                f"{', '.join(missing) or 'none'}"
            )
        return Corpus(self.path, self.card, tasks, self._sizes)

    def head(
        self, *, train: int | None = None, dev: int | None = None, test: int | None = None
    ) -> Corpus:
        """Return the same corpus with the first notes of each split, for a small machine.

        Vocabulary, codes and vectors remain those of the whole corpus.

        Args:
            train: notes of split "train" to keep, at most; None keeps all.
            dev: the same for "dev".
            test: the same for "test".

        Raises:
            MarnError: a number is below 1.
        """
        sizes = dict(self._sizes)
        for name, size in {"train": train, "dev": dev, "test": test}.items():
            if size is not None and size < 1:
                raise MarnError(f"head needs at least one note of split {name}, but got {size}")
            if size is not None and size < len(self[name]):
                sizes[name] = size
        return Corpus(self.path, self.card, self.tasks, sizes)

    def __repr__(self) -> str:
        tasks = ", ".join(f"{count} {task}" for task, count in self.tasks.items())
        notes = ", ".join(f"{len(self[name])} {name}" for name in self.splits)
        return f"Corpus({self.name!r}: {notes}; {tasks}; text {self.card['text']})"


class _Column(BaseModel, strict=True):
    code: str
    kind: str
    title: str
    ccs: int = -1


def as_corpus(corpus: Any) -> Corpus:
    """Return a corpus as it is, or open the one in a folder.

    Raises:
        MarnError: the argument is neither, or the folder holds no corpus.
    """
    if isinstance(corpus, str | Path):
        return Corpus.load(corpus)
    if not isinstance(corpus, Corpus):
        raise MarnError(f"corpus must be a Corpus or its folder, but got a {type(corpus).__name__}")
    return corpus
