"""Notes and codes in, a corpus on disk out: the way that every source takes.

A source (`mimic3`, `codiesp`, ...) reads its own files and hands over notes, codings and, where
it has them, marked passages; everything after that happens here once. Notes pass through one by
one: what stays in memory is an index of them, the codes and the table of words.

A source is a module of `data_prep.sources`, and its name is the command's. It has a docstring whose
first line says what it is, settings `Config`, a subclass of `data_prep.config.PrepareConfig` with a
field `out`, and `run(config, progress) -> Path`; `tests/test_sources.py` checks every source.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.config import PrepareConfig
from data_prep.corpus_writer import CorpusWriter
from data_prep.store import Admission, Note, Progress, Store
from data_prep.word_vectors import word2vec
from marn.corpus import EVIDENCE, SPLITS, CodeEntry
from marn.errors import MarnError

Pair = tuple[str, str]
"""A code with its kind: ("dx", "427.31")."""


def quiet(line: str) -> None:
    """Take a line of progress and keep it to oneself."""


class Coding(NamedTuple):
    """One code of one admission."""

    admission: str
    kind: str
    """"dx" or "pr"."""
    code: str
    """Dotted."""


class Passage(NamedTuple):
    """A marked passage of one note."""

    key: str
    """`Note.key` of the note."""
    kind: str
    code: str
    """Dotted."""
    begin: int
    """First character in `Note.text`."""
    end: int
    """The character after the last."""
    role: str
    """Such as "evidence" or "negated"."""


@dataclass(frozen=True)
class Origin:
    """What the card says about the source."""

    name: str
    """Name of the corpus: that of its folder."""
    source: str
    """Where notes and codes come from, in a sentence."""
    text: str
    """"open" or "credentialed"."""
    command: str
    """The command line that makes this corpus again, without paths of one's own machine."""
    language: str = "en"
    ccs_key: str | None = None
    """How `category` names the categories ("kind:number", "number", ...)."""


def prepare(
    folder: Path,
    *,
    notes: Iterable[Note],
    codings: Iterable[Coding],
    split: Callable[[Mapping[str, str]], Mapping[str, str]],
    title: Callable[[str, str], str],
    category: Callable[[str, str], CodeEntry | None] | None,
    origin: Origin,
    choices: PrepareConfig,
    passages: Iterable[Passage] | None = None,
    dropped: Counter[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Write a corpus with the tasks "icd" and, where codes have categories, "ccs".

    `notes`, then `codings`, then `passages` are gone through once each. Kept are admissions that
    have a note and at least one kept code, and of these the ones that `split` places.

    Args:
        folder: a fresh folder, as `marn.corpus.replacing` yields it.
        notes: all notes of the source that count.
        codings: all codes of the source; repetitions within an admission count once.
        split: given {admission: subject} of all admissions that could be kept, in order, returns
            {admission: "train", "dev" or "test"}; admissions it does not name are left out. A
            split that no admission falls into is not written.
        title: the English title of a code, from its kind and dotted form.
        category: the coarse code (task "ccs") of a code, or None if it has none; None where the
            source has no categories, and the corpus no task "ccs".
        origin: what the card says about the source.
        choices: what the user chose.
        passages: marked passages, or None where the source marks none.
        dropped: what the source has left out while it was read, by reason; what is left out
            here is added to it, and the sum goes into the card.
        settings: further choices of the source that the card records; looked at when all is read.
        progress: takes lines about how far the work is.

    Returns:
        The card of the corpus.

    Raises:
        MarnError: if nothing is left, or the parts contradict each other.
    """
    dropped = Counter() if dropped is None else dropped
    with Store(folder / "scratch", choices.workers) as store:
        with store.read(notes, dropped, progress):
            given = _gather(codings)
        assigned = _assign(given, store.admissions, dropped)
        kept = _most_frequent(assigned, choices.codes, dropped)
        members = _members(store.admissions, assigned, split)
        icd = [
            CodeEntry(code, kind, title(kind, code))
            for kind, code in sorted(
                {pair for ids in members.values() for id_ in ids for pair in assigned[id_]},
                key=lambda pair: (pair[1], pair[0]),
            )
        ]
        codes: dict[str, list[CodeEntry]] = {"icd": icd}
        parent: list[int] = []
        said = f"codes: {len(icd)} of {kept}"
        if category is not None:
            codes["ccs"], parent = _categories(icd, category)
            dropped["codes kept without a category"] += parent.count(-1)
            said += f", in {len(codes['ccs'])} categories"
        progress(said)
        column = {(entry.kind, entry.code): place for place, entry in enumerate(icd)}
        marked = _Marked(store.admissions, members, column)
        if passages is not None:
            marked.read(passages, dropped)
        writer = CorpusWriter(folder, codes, parent, sorted(marked.roles))
        parts = {name: [store.admissions[id_] for id_ in ids] for name, ids in members.items()}
        with store.texts({folder / name: its for name, its in parts.items()}) as written:
            vocabulary = store.settle(members["train"], choices.min_count)
            progress(f"vocabulary: {len(vocabulary.words):,} of {len(store.words):,} words")
            for name, ids in members.items():
                rows = [sorted(column[pair] for pair in assigned[id_]) for id_ in ids]
                writer.split(
                    name,
                    ids=ids,
                    subjects=[part.subject for part in parts[name]],
                    lengths=np.array([part.tokens for part in parts[name]], dtype=np.int64),
                    tokens=map(store.tokens, parts[name]),
                    columns={
                        task: rows
                        if task == "icd"
                        else [sorted({parent[place] for place in row} - {-1}) for row in rows]
                        for task in codes
                    },
                    evidence=None if passages is None else marked.rows(name),
                )
                progress(f"{name}: {len(ids):,} notes written")
        writer.add(written)
    if choices.vectors != "none":
        learn_from = ["train"] if choices.vectors == "train" else list(members)
        vectors = word2vec(
            lambda: writer.written_notes(learn_from),
            vocabulary,
            seed=choices.seed,
            progress=progress,
        )
        writer.vectors(vectors, {"notes": choices.vectors, "seed": choices.seed})
    return writer.finish(
        vocabulary=vocabulary,
        name=origin.name,
        source=origin.source,
        text=origin.text,
        language=origin.language,
        command=origin.command,
        seed=choices.seed,
        ccs_key=origin.ccs_key,
        settings={"codes": choices.codes, "min_count": choices.min_count, **(settings or {})},
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
    )


def _gather(codings: Iterable[Coding]) -> dict[str, list[Pair]]:
    """Gather the codes of every admission, as often as they are given."""
    pairs: dict[Pair, Pair] = {}  # one object for each code, not one for each row
    given: dict[str, list[Pair]] = {}
    for coding in codings:
        pair = (coding.kind, coding.code)
        given.setdefault(coding.admission, []).append(pairs.setdefault(pair, pair))
    return given


def _assign(
    given: dict[str, list[Pair]], admissions: Mapping[str, Admission], dropped: Counter[str]
) -> dict[str, list[Pair]]:
    """Leave each admission each of its codes once, and those without a note out."""
    for id_ in list(given):
        if id_ not in admissions:
            dropped["codes of admissions without a note"] += len(given.pop(id_))
            continue
        # Lists, since a set of fifteen takes ten times the memory.
        codes = list(dict.fromkeys(given[id_]))
        dropped["codes repeated within an admission"] += len(given[id_]) - len(codes)
        given[id_] = codes
    dropped["admissions with a note and without a code"] += len(admissions) - len(given)
    return given


def _most_frequent(assigned: dict[str, list[Pair]], codes: str, dropped: Counter[str]) -> int:
    """Cut the codes down to the most frequent ones; return how many different ones there were.

    Frequency is the number of admissions with a note; among equals the smaller code wins.
    """
    counts = Counter(pair for pairs in assigned.values() for pair in pairs)
    if codes == "full":
        return len(counts)
    order = sorted(counts, key=lambda pair: (-counts[pair], pair[1]))
    keep = set(order[: int(codes)])
    dropped["codes less frequent than the kept ones"] += sum(
        counts[p] for p in order if p not in keep
    )
    for id_ in list(assigned):
        assigned[id_] = [pair for pair in assigned[id_] if pair in keep]
        if not assigned[id_]:
            del assigned[id_]
            dropped["admissions without a kept code"] += 1
    return len(counts)


def _members(
    admissions: Mapping[str, Admission],
    assigned: Mapping[str, list[Pair]],
    split: Callable[[Mapping[str, str]], Mapping[str, str]],
) -> dict[str, list[str]]:
    """Return the admissions of each split, in the order of their ids."""
    if not assigned:
        raise MarnError(
            f"No admission has both a note and a code ({len(admissions):,} have a note). Check "
            "that the tables belong together."
        )
    order = sorted(assigned, key=lambda id_: (len(id_), id_))  # numbers by value
    places = split({id_: admissions[id_].subject for id_ in order})
    used = [name for name in SPLITS if name in places.values()]
    if "train" not in used:
        raise MarnError(f"None of {len(order)} admissions falls into split train. Give more notes.")
    members = {name: [id_ for id_ in order if places.get(id_) == name] for name in used}
    home: dict[str, str] = {}
    for name, ids in members.items():
        for id_ in ids:
            subject = admissions[id_].subject
            if home.setdefault(subject, name) != name:
                raise MarnError(
                    f"Patient {subject} stands in the splits {home[subject]} and {name}. Give "
                    "lists that keep the admissions of a patient together."
                )
    return members


def _categories(
    icd: Sequence[CodeEntry], category: Callable[[str, str], CodeEntry | None]
) -> tuple[list[CodeEntry], list[int]]:
    """Return the categories of codes, and the place of each code's category (-1: none)."""
    above = [category(entry.kind, entry.code) for entry in icd]
    merged: dict[str, dict[str, str]] = {}  # category -> {kind: title}
    for entry in above:
        if entry is not None:
            merged.setdefault(entry.code, {})[entry.kind] = entry.title
    ccs = [
        CodeEntry(
            code,
            "+".join(sorted(merged[code])),
            " / ".join(merged[code][kind] for kind in sorted(merged[code])),
        )
        for code in sorted(merged)
    ]
    place = {entry.code: number for number, entry in enumerate(ccs)}
    return ccs, [-1 if entry is None else place[entry.code] for entry in above]


class _Marked:
    """Passages of single notes, turned into passages of the corpus's notes."""

    def __init__(
        self,
        admissions: Mapping[str, Admission],
        members: Mapping[str, Sequence[str]],
        column: Mapping[Pair, int],
    ) -> None:
        self._column = column
        self.roles: list[str] = []
        # key of a note -> split, place in it, characters before the note, characters of it
        self._homes: dict[str, tuple[str, int, int, int]] = {}
        for name, ids in members.items():
            for place, id_ in enumerate(ids):
                shift = 0
                for piece in admissions[id_].pieces:
                    self._homes[piece.key] = name, place, shift, piece.chars
                    shift += piece.chars + 1
        self._rows = {name: array("i") for name in members}

    def read(self, passages: Iterable[Passage], dropped: Counter[str]) -> None:
        """Take in the passages of codes and notes that are in the corpus."""
        numbers: dict[str, int] = {}
        for passage in passages:
            home = self._homes.get(passage.key)
            column = self._column.get((passage.kind, passage.code))
            if home is None:
                dropped["passages of notes left out"] += 1
            elif column is None:
                dropped["passages of codes left out"] += 1
            elif not 0 <= passage.begin < passage.end <= home[3]:
                dropped["passages outside their note"] += 1
            else:
                name, place, shift, _ = home
                role = numbers.setdefault(passage.role, len(numbers))
                self._rows[name].extend(
                    (place, column, shift + passage.begin, shift + passage.end, role)
                )
        # Sorted, so that the numbers do not hang on which role came first.
        self.roles = sorted(numbers)
        self._final = np.array([self.roles.index(role) for role in numbers], dtype=np.uint8)

    def rows(self, split: str) -> np.ndarray:
        """Return the passages of a split as rows of dtype `EVIDENCE`."""
        table = np.frombuffer(self._rows[split], dtype=np.intc).reshape(-1, 5)
        rows = np.empty(len(table), dtype=EVIDENCE)
        for place, name in enumerate(("note", "code", "begin", "end")):
            rows[name] = table[:, place]
        rows["role"] = self._final[table[:, 4]]
        return rows
