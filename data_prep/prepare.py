"""Turn the notes and codes of any source into a corpus on disk.

A source (`mimic3`, `codiesp`, ...) reads its own files and yields notes, codings and, if it has
them, marked passages. Everything after that is the same for all sources and is done here. Notes
pass through one by one; only an index of them, the codes and the table of words stay in memory.

A source is a module of `data_prep.sources`, and its name is that of its command. It has a docstring
whose first line describes it, settings `Config`, a subclass of `data_prep.config.PrepareConfig`,
and `run(config, progress) -> Path`; `tests/test_sources.py` checks every source.
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.lib.recfunctions import unstructured_to_structured

from data_prep import left_out
from data_prep.config import PrepareConfig
from data_prep.corpus_writer import CorpusWriter
from data_prep.note_store import Admission, Note, NoteStore, Progress
from data_prep.splits import Splitter
from data_prep.word_vectors import word2vec
from marn.corpus import EVIDENCE, SPLITS, CodeEntry
from marn.corpus.text import Vocabulary
from marn.errors import MarnError
from marn.progress import counted

Pair = tuple[str, str]
"""A code with its kind: ("dx", "427.31")."""

MOST_ROLES = np.iinfo(EVIDENCE["role"]).max + 1
"""Maximum number of roles in the evidence of a corpus."""


def quiet(line: str) -> None:
    """Ignore a line of progress."""


class Coding(NamedTuple):
    """One code of one admission."""

    admission: str
    kind: str
    """"dx" or "pr"."""
    code: str
    """Dotted."""


class Annotation(NamedTuple):
    """A marked passage of one note."""

    key: str
    """`Note.key` of the note."""
    kind: str
    """"dx" or "pr"."""
    code: str
    """Dotted."""
    begin: int
    """First character in `Note.text`."""
    end: int
    """One past the last character."""
    role: str
    """Such as "evidence" or "negated"."""


@dataclass(frozen=True)
class Origin:
    """What the card says about the source."""

    source: str
    """Where notes and codes come from, in a sentence."""
    text: str
    """"open" or "credentialed"."""
    command: str
    """The command line that makes this corpus again, without paths of your machine."""
    language: str = "en"
    ccs_key: str | None = None
    """How `category` names the categories ("kind:number", "number", ...)."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """What a source yields; the iterables are iterated once, in the order of the fields."""

    notes: Iterable[Note]
    """All notes of the source that may enter the corpus."""
    codings: Iterable[Coding]
    """All codes of the source; repetitions within an admission count once."""
    annotations: Iterable[Annotation] | None = None
    """Marked passages, or None if the source marks none."""
    title: Callable[[str, str], str]
    """The English title of a code, from its kind and dotted form."""
    category: Callable[[str, str], CodeEntry | None] | None
    """The category (task "ccs") of a code, or None if it has none; None instead of a function if
    the source has no categories, and the corpus no task "ccs"."""
    split: Splitter
    """Given {admission: subject} of all admissions that could be kept, in order, returns
    {admission: "train", "dev" or "test"}. Admissions it does not name are left out, and a split
    without admissions is not written."""
    whole: Splitter | None = None
    """Splits all admissions with a note, as `split` does those of the corpus; the vocabulary and
    word vectors are then learnt from these. None learns them from those of the corpus."""


def prepare(
    folder: Path,
    records: Records,
    *,
    origin: Origin,
    choices: PrepareConfig,
    dropped: Counter[str],
    settings: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
) -> None:
    """Write a corpus with the tasks "icd" and, where codes have categories, "ccs".

    An admission is kept if it has a note and at least one kept code (with `choices.keep_uncoded`,
    no code is needed), and if `records.split` places it.

    Args:
        folder: a fresh folder, as `data_prep.corpus_writer.replacing` yields it.
        records: what the source yields.
        origin: what the card says about the source.
        choices: what the user chose.
        dropped: number of items that the source left out, by reason; what is left out here is
            added to it, and the card records the sum.
        settings: further choices of the source that the card records; read last, so that the
            source may add to them while it is read.
        progress: takes lines of progress.

    Raises:
        MarnError: if nothing is left, or notes, codes and splits contradict each other.
    """
    given: Counter[str] = Counter()
    with NoteStore(folder / "scratch") as store:
        store.read(left_out.counting(records.notes, given, "notes"), dropped, progress)
        codings = left_out.counting(records.codings, given, "rows")
        assigned, codes_met = _assign(codings, store.admissions, choices, dropped)
        members = _members(store.admissions, assigned, records.split, choices.keep_uncoded)
        codes, parent = _code_entries(assigned, members, records, dropped)
        grouped = f", in {len(codes['ccs'])} categories" if "ccs" in codes else ""
        progress(f"codes: {len(codes['icd'])} of {codes_met}{grouped}")
        roles, evidence = _evidence(
            records.annotations, store.admissions, members, codes["icd"], dropped
        )
        writer = CorpusWriter(folder, codes, parent, roles)
        learnt = members if records.whole is None else _placed(store.admissions, records.whole)
        training = (store.admissions[id_] for id_ in learnt["train"])
        vocabulary = store.build_vocabulary(training, choices.min_count)
        progress(f"vocabulary: {len(vocabulary.words):,} of {len(store.words):,} words")
        for name, ids in members.items():
            columns = _columns(assigned, ids, codes, parent)
            _write_split(writer, name, ids, store, columns, evidence[name])
            progress(f"{name}: {len(ids):,} notes written")
        if choices.vectors != "none":
            _learn_vectors(writer, store, vocabulary, learnt, choices, progress)
    for line in _warnings(assigned, members, codes["icd"], given, dropped):
        progress(f"warning: {line}")
    writer.finish(
        vocabulary,
        **asdict(origin),
        name=choices.name,
        seed=choices.seed,
        settings=_recorded(choices, learnt) | dict(settings or {}),
        given=given,
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
    )


def _learn_vectors(
    writer: CorpusWriter,
    store: NoteStore,
    vocabulary: Vocabulary,
    learnt: Mapping[str, Sequence[str]],
    choices: PrepareConfig,
    progress: Progress,
) -> None:
    """Learn word vectors from the training notes or from all notes, and write them."""
    names = ["train"] if choices.vectors == "train" else list(learnt)
    admissions = [store.admissions[id_] for name in names for id_ in learnt[name]]
    vectors = word2vec(
        lambda: map(store.tokens, admissions), vocabulary, seed=choices.seed, progress=progress
    )
    writer.vectors(vectors, {"notes": choices.vectors, "seed": choices.seed})


def _recorded(choices: PrepareConfig, learnt: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the choices that the card of every corpus records."""
    recorded: dict[str, Any] = {"codes": choices.codes, "min_count": choices.min_count}
    if choices.min_code_count > 1:
        recorded["min_code_count"] = choices.min_code_count
    if choices.keep_uncoded:
        recorded["keep_uncoded"] = True
    if choices.vocabulary != "corpus":
        recorded["vocabulary"] = f"all training notes ({len(learnt['train']):,})"
    return recorded


def _assign(
    codings: Iterable[Coding],
    admissions: Mapping[str, Admission],
    choices: PrepareConfig,
    dropped: Counter[str],
) -> tuple[pl.DataFrame, int]:
    """Keep the most frequent codes of admissions with a note, each once per admission.

    Frequency is the number of admissions with a note; of equally frequent codes, the first in
    alphabetical order is kept.

    Args:
        codings: all codings of the source.
        admissions: admissions with a note.
        choices: how many codes to keep, and whether notes without a code are kept.
        dropped: gets the number of items left out, by reason.

    Returns:
        A frame with the columns admission, kind and code; and the number of different codes before
        the choice.
    """
    given = _as_frame(codings)
    noted = given.filter(pl.col("admission").is_in(list(admissions)))
    dropped["codings of admissions without a note"] += len(given) - len(noted)
    assigned = noted.unique(maintain_order=True)
    dropped["codes repeated within an admission"] += len(noted) - len(assigned)
    coded = assigned["admission"].n_unique()
    if not choices.keep_uncoded:
        dropped["admissions with a note and without a code"] += len(admissions) - coded
    counts = assigned.group_by("kind", "code", maintain_order=True).len()
    counts = counts.sort("len", "code", descending=[True, False], maintain_order=True)
    kept = counts.filter(pl.col("len") >= choices.min_code_count)
    kept = kept if choices.codes == "full" else kept[: int(choices.codes)]
    if len(kept) < len(counts):
        rare = counts[len(kept) :]
        assigned = assigned.join(rare, on=["kind", "code"], how="anti", maintain_order="left")
        dropped["codings of codes less frequent than the kept ones"] += int(rare["len"].sum())
        if not choices.keep_uncoded:
            dropped["admissions without a kept code"] += coded - assigned["admission"].n_unique()
    return assigned, len(counts)


def _as_frame(codings: Iterable[Coding]) -> pl.DataFrame:
    """Gather codings in a frame, in chunks, since tuples of all of them would fill the memory."""
    schema = {"admission": pl.String, "kind": pl.String, "code": pl.String}
    frames = [pl.DataFrame(schema=schema)]
    codings = iter(codings)
    while some := list(islice(codings, 100_000)):
        frames.append(pl.DataFrame(some, schema=schema, orient="row"))
    return pl.concat(frames)


def _members(
    admissions: Mapping[str, Admission], assigned: pl.DataFrame, split: Splitter, keep_uncoded: bool
) -> dict[str, list[str]]:
    """Return the admissions of each split, in the order of their ids."""
    if assigned.is_empty():
        raise MarnError(
            f"no admission has both a note and a code ({len(admissions):,} have a note); "
            "check that the tables belong together, or lower --min-code-count"
        )
    candidates = admissions if keep_uncoded else {*assigned["admission"].unique()}
    members = _placed({id_: admissions[id_] for id_ in candidates}, split)
    home: dict[str, str] = {}
    for name, ids in members.items():
        for id_ in ids:
            subject = admissions[id_].subject
            if home.setdefault(subject, name) != name:
                # if the columns of a table have shifted, it may be text of a note
                who = subject if re.fullmatch(r"[\w.:-]{1,20}", subject) else "(a text)"
                raise MarnError(
                    f"patient {who} is in the splits {home[subject]} and {name}; give lists "
                    "that keep the admissions of a patient together"
                )
    return members


def _placed(admissions: Mapping[str, Admission], split: Splitter) -> dict[str, list[str]]:
    """Return the admissions that `split` puts into each split, in the order of their ids."""
    order = sorted(admissions, key=lambda id_: (len(id_), id_))  # numbers by value
    places = split({id_: admissions[id_].subject for id_ in order})
    used = [name for name in SPLITS if name in places.values()]
    if "train" not in used:
        raise MarnError(
            f"none of {counted(len(order), 'admission')} with a note falls into split train; give "
            "more notes, or put some into train"
        )
    return {name: [id_ for id_ in order if places.get(id_) == name] for name in used}


def _warnings(
    assigned: pl.DataFrame,
    members: Mapping[str, Sequence[str]],
    codes: Sequence[CodeEntry],
    given: Counter[str],
    dropped: Mapping[str, int],
) -> Iterator[str]:
    """Yield warnings about what a corpus cannot be used for, and what was left out of it."""
    training = assigned.filter(pl.col("admission").is_in(members["train"]))
    counts = training.group_by("code", "kind").len()
    always = counts.filter(pl.col("len") == len(members["train"]))["code"].sort().to_list()
    if always and len(members["train"]) >= left_out.LEAST:
        yield (
            f"{len(always):,} of {counted(len(codes), 'code')} occur{'s' * (len(always) == 1)} in "
            f"every training note ({', '.join(always[:3])}), so a high score there means nothing; "
            "give notes without it too, or keep those without any code (--keep-uncoded)"
        )
    if missing := [name for name in SPLITS if name not in members]:
        yield (
            f"no note is in split {' or '.join(missing)}; training stops by dev and is scored on "
            "test: put some notes there, or give shares, such as --splits 0.8,0.1,0.1"
        )
    left_out.add_dropped(given, dropped)
    yield from left_out.losses(given, dropped)


def _code_entries(
    assigned: pl.DataFrame,
    members: Mapping[str, Sequence[str]],
    records: Records,
    dropped: Counter[str],
) -> tuple[dict[str, list[CodeEntry]], list[int]]:
    """Return the codes of each task, and for each code of "icd" its column in "ccs" (-1: none)."""
    placed = [id_ for ids in members.values() for id_ in ids]
    used = assigned.filter(pl.col("admission").is_in(placed)).select("code", "kind").unique()
    icd = [
        CodeEntry(code, kind, records.title(kind, code))
        for code, kind in used.sort("code", "kind").rows()
    ]
    if records.category is None:
        return {"icd": icd}, []
    above = [records.category(entry.kind, entry.code) for entry in icd]
    merged: dict[str, dict[str, str]] = {}  # category -> {kind: title}
    for entry in above:
        if entry is not None:
            merged.setdefault(entry.code, {})[entry.kind] = entry.title
    ccs = [
        CodeEntry(
            code, "+".join(sorted(titles)), " / ".join(titles[kind] for kind in sorted(titles))
        )
        for code, titles in sorted(merged.items())
    ]
    column = {entry.code: number for number, entry in enumerate(ccs)}
    parent = [-1 if entry is None else column[entry.code] for entry in above]
    dropped["codes kept without a category"] += parent.count(-1)
    return {"icd": icd, "ccs": ccs}, parent


def _columns(
    assigned: pl.DataFrame,
    ids: Sequence[str],
    codes: Mapping[str, Sequence[CodeEntry]],
    parent: Sequence[int],
) -> dict[str, list[list[int]]]:
    """Return, for each task, the columns of the codes of each admission."""
    order = pl.DataFrame({"admission": ids}).with_row_index("note")
    entries = pl.DataFrame(
        [(entry.code, entry.kind) for entry in codes["icd"]], schema=["code", "kind"], orient="row"
    )
    columns = (
        order.join(assigned, on="admission")
        .join(entries.with_row_index("column"), on=["code", "kind"])
        .group_by("note")
        .agg(pl.col("column").sort())
    )
    rows = order.join(columns, on="note", how="left").sort("note")["column"].to_list()
    icd = [row or [] for row in rows]  # a note may have no code
    ccs = ([sorted({parent[place] for place in row} - {-1}) for row in icd] for _ in codes)
    return {task: icd if task == "icd" else next(ccs) for task in codes}


def _write_split(
    writer: CorpusWriter,
    name: str,
    ids: Sequence[str],
    store: NoteStore,
    columns: Mapping[str, Sequence[Sequence[int]]],
    evidence: np.ndarray | None,
) -> None:
    admissions = [store.admissions[id_] for id_ in ids]
    writer.split(
        name,
        ids=ids,
        subjects=[admission.subject for admission in admissions],
        sizes=np.array([admission.bytes for admission in admissions], dtype=np.int64),
        texts=map(store.text, admissions),
        lengths=np.array([admission.tokens for admission in admissions], dtype=np.int64),
        tokens=map(store.tokens, admissions),
        columns=columns,
        evidence=evidence,
    )


def _evidence(
    annotations: Iterable[Annotation] | None,
    admissions: Mapping[str, Admission],
    members: Mapping[str, Sequence[str]],
    icd: Sequence[CodeEntry],
    dropped: Counter[str],
) -> tuple[list[str], dict[str, np.ndarray | None]]:
    """Turn annotations of single notes into evidence of the corpus's notes and codes.

    Returns:
        The roles, sorted, so that their numbers do not depend on which role came first; and for
        each split its rows of dtype `EVIDENCE`, or None if no annotations are given.
    """
    if annotations is None:
        return [], dict.fromkeys(members)
    columns = {(entry.kind, entry.code): column for column, entry in enumerate(icd)}
    # key of a note -> split, index in it, characters before the note, characters of it
    homes: dict[str, tuple[str, int, int, int]] = {}
    for name, ids in members.items():
        for index, id_ in enumerate(ids):
            shift = 0
            for piece in admissions[id_].pieces:
                homes[piece.key] = name, index, shift, piece.chars
                shift += piece.chars + 1
    rows = {name: array("i") for name in members}
    numbers: dict[str, int] = {}
    for one in annotations:
        home, column = homes.get(one.key), columns.get((one.kind, one.code))
        if home is None:
            dropped["passages of notes left out"] += 1
        elif column is None:
            dropped["passages of codes left out"] += 1
        elif not 0 <= one.begin < one.end <= home[3]:
            dropped["passages outside their note"] += 1
        else:
            name, index, shift, _ = home
            role = numbers.setdefault(one.role, len(numbers))
            rows[name].extend((index, column, shift + one.begin, shift + one.end, role))
    if len(numbers) > MOST_ROLES:
        raise MarnError(
            f"the passages have {len(numbers):,} roles, and a corpus at most {MOST_ROLES}; "
            "check the column of roles"
        )
    roles = sorted(numbers)
    final = np.array([roles.index(role) for role in numbers], dtype=np.intc)
    evidence: dict[str, np.ndarray | None] = {}
    for name, flat in rows.items():
        table = np.array(flat, dtype=np.intc).reshape(-1, 5)
        table[:, 4] = final[table[:, 4]]
        evidence[name] = unstructured_to_structured(table, EVIDENCE)
    return roles, evidence
