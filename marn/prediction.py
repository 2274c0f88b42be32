"""Code notes with a saved model: codes, probabilities, categories, and the words that carried them.

`marn.load` returns a `SavedModel`. Notes are read, coded and written a few hundred at a time, so
memory does not grow with their number.
"""

import csv
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import IO, Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from marn import pages
from marn.attribution import Method, word_weights
from marn.corpus import CodeEntry
from marn.corpus.columns import as_text
from marn.corpus.text import Vocabulary, token_spans
from marn.errors import MarnError
from marn.evaluation import evaluating, sigmoid
from marn.explain import WORDS, CodeExplanation, TopWord, largest, note_html
from marn.models import Coder
from marn.models.reading import batches
from marn.notes import Note
from marn.privacy import check_may_show
from marn.readers.base import TextSystem

COLUMNS = (
    *("note_id", "code", "title", "probability", "assigned"),
    *("category", "category_title", "words", "remark"),
)
"""Columns of the table: a row per code, and one row without a code for a note without codes."""
REMARKS = "; "
"""Separator between the remarks on a note."""
FORMATS = (".csv", ".jsonl", ".html")
Explained = Method | Literal["none"]

_CHUNK = 256  # notes held at once
_CHARACTERS = 1 << 24  # characters of a chunk, after which it takes no more notes
_BATCH = 32
# Occlusion of a system that reads text, where each trial reads the whole note:
_TRIED = 96  # most words or groups of words that are tried one by one
_GROUP = 16  # fewest words of a group
_KEPT = 2  # groups of each code that are split further
_LEAST = 0.05  # a listed word has more than this share of the heaviest word's weight
_MARKUP = re.compile(r"</[a-z]\w*\s*>|<(br|img|p|div)\b[^<>]*>|&(nbsp|amp|[lg]t);", re.IGNORECASE)
_STRANGE = 0.5  # a note with at least this share of unknown words gets a remark


@dataclass(frozen=True)
class PredictedCode(CodeExplanation):
    """A code predicted for a note."""

    assigned: bool
    """Whether the probability is above the threshold."""
    category: str
    """Category of the code, "" if unknown."""
    category_title: str
    """Title of the category, "" if unknown."""


@dataclass(frozen=True)
class CodedNote:
    """A note with its predicted codes; its `repr` shows nothing of the note."""

    id: str
    text: str = field(repr=False)
    spans: NDArray[np.int64] = field(repr=False)
    """(T, 2): first character of each word that was read, and one past its last."""
    codes: list[PredictedCode]
    """Most probable first."""
    remark: str
    """Why there are no codes, what the model could not read, or what is wrong with the id; "" if
    nothing is."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the table, with the keys `COLUMNS`."""
        nothing = dict.fromkeys(COLUMNS, "") | {"note_id": self.id, "remark": self.remark}
        if not self.codes:
            yield nothing
        for code in self.codes:
            yield nothing | {
                "code": code.code,
                "title": code.title,
                "probability": round(code.probability, 4),
                "assigned": int(code.assigned),
                "category": code.category,
                "category_title": code.category_title,
                "words": "; ".join(dict.fromkeys(word.word for word in code.top)),
            }


@dataclass(frozen=True)
class SavedModel:
    """A model read from a folder, with all that it needs to code your notes.

    Example:
        >>> import marn
        >>> marn.load("runs/marn").predict(["He was given Lasix."])  # doctest: +SKIP
    """

    model: Coder
    """The system, in evaluation mode, on the CPU."""
    vocabulary: Vocabulary = field(repr=False)
    """The words that the model knows."""
    codes: dict[str, list[CodeEntry]] = field(repr=False)
    """The codes of each task, in the order of the logits."""
    thresholds: dict[str, float | NDArray[np.float64]]
    """{task: probability above which a code is assigned}: a number, or (C,) with one per code."""
    card: dict[str, Any] = field(repr=False)
    """The card of the model, `model.json`."""

    @property
    def is_open(self) -> bool:
        """Whether the model was trained on open text."""
        return bool(self.card["corpus"]["open"])

    def predict(
        self,
        texts: str | Iterable[str] | Mapping[str, str],
        *,
        task: str | None = None,
        top: int = 0,
        threshold: float | None = None,
        explain: Explained | None = None,
    ) -> pd.DataFrame:
        """Code notes, and find the words that carried each code.

        Args:
            texts: a note, a list of notes, or {id: note}; without ids they are numbered from 1.
            task: task to predict; by default the model's first, the ICD codes.
            top: list at least this many codes per note; those below the threshold have
                `assigned` 0.
            threshold: probability above which a code is assigned; by default the model's.
            explain: method of `marn.attribution`, or `"none"`, which is much faster.

        Returns:
            A row per code, with `COLUMNS`; a note without codes has a row that says why. In a
            notebook, showing words of a credentialed corpus must be allowed (`marn.privacy`).

        Raises:
            MarnError: a note is not text, or an argument is out of range.
        """
        if isinstance(texts, str):
            texts = [texts]
        if not isinstance(texts, Iterable):
            raise MarnError(f"texts must be a list of notes, but got {texts!r:.40}")
        notes = texts.items() if isinstance(texts, Mapping) else enumerate(texts, start=1)
        named = ((str(note), text) for note, text in notes)
        coded = self.code(named, task=task, top=top, threshold=threshold, explain=explain)
        return pd.DataFrame([row for note in coded for row in note.rows()], columns=list(COLUMNS))

    def code(
        self,
        notes: Iterable[Note],
        *,
        task: str | None = None,
        top: int = 0,
        threshold: float | None = None,
        explain: Explained | None = None,
        to_file: bool = False,
    ) -> Iterator[CodedNote]:
        """Code notes as `predict` does, but as a stream, so that memory does not grow.

        Args:
            notes: (id, text) of each note.
            task: see `predict`.
            top: see `predict`.
            threshold: see `predict`.
            explain: see `predict`.
            to_file: whether the result goes to a file that `marn.privacy.check_may_write` allowed.

        Returns:
            An iterator over the coded notes, in the order given.

        Raises:
            MarnError: see `predict`; or words of the notes may not be shown here.
        """
        if explain != "none" and not to_file:
            check_may_show(self.is_open, show_credentialed_text=True)
        task = task or next(iter(self.model.tasks))
        if task not in self.model.tasks:
            raise MarnError(f"the model has no task {task!r}; it has {', '.join(self.model.tasks)}")
        if threshold is not None and not (isinstance(threshold, Real) and 0 <= threshold <= 1):
            raise MarnError(f"threshold must be in [0, 1], but got {threshold!r:.40}; choose one")
        if top < 0:
            raise MarnError(f"top must be at least 0, but got {top}; choose a number of codes")
        above = self.thresholds[task] if threshold is None else threshold
        reader = _Reader(self, task, top, np.broadcast_to(above, len(self.codes[task])), explain)
        return reader.run(notes)


def _some(notes: Iterator[Note]) -> list[Note]:
    """Take the next chunk of notes; an empty one at the end."""
    taken: list[Note] = []
    size = 0
    while len(taken) < _CHUNK and size < _CHARACTERS and (note := next(notes, None)):
        taken.append(note)
        size += len(note[1]) if isinstance(note[1], str) else 0  # `_read` refuses other types
    return taken


class _Reader:
    """Code notes for one task."""

    def __init__(
        self,
        saved: SavedModel,
        task: str,
        top: int,
        above: NDArray[np.float64],
        explain: Explained | None,
    ) -> None:
        self.saved, self.task, self.top, self.above, self.explain = saved, task, top, above, explain
        self.model, self.codes = saved.model, saved.codes[task]
        self.reads_text = isinstance(saved.model, TextSystem)
        self.device = None if self.reads_text else next(saved.model.parameters()).device
        self.most = None if self.reads_text else saved.model.max_length  # words that are read
        known = saved.card.get("categories") if task == "icd" else None
        self.categories = known or [None] * len(self.codes)

    def run(self, notes: Iterable[Note]) -> Iterator[CodedNote]:
        """Code notes in the order given."""
        remaining, earlier = iter(notes), set[int]()
        while chunk := _some(remaining):
            read = [self._read(note, text) for note, text in chunk]
            words = [numbers for numbers, _ in read]
            probabilities = self._probabilities(words, [text for _, text in chunk])
            for (note, text), (numbers, spans), row in zip(chunk, read, probabilities, strict=True):
                about_id = ["an earlier note has the same id"] if hash(note) in earlier else []
                earlier.add(hash(note))
                if not note.strip():
                    about_id = ["the note has no id"]
                yield self._coded(note, text, numbers, spans, row, about_id)

    def _read(self, note: str, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers (T,) and spans (T, 2) of the words of a note."""
        if not isinstance(text, str):
            raise MarnError(f"note {note} must be text, but is a {type(text).__name__}")
        words, spans = token_spans(text)
        return self.saved.vocabulary.encode(words).astype(np.int64), spans

    def _probabilities(
        self, notes: list[NDArray[np.int64]], texts: list[str]
    ) -> NDArray[np.float64]:
        """Return the probabilities (N, C) of N notes; zero for a note without a known word."""
        found = np.zeros((len(notes), len(self.codes)))
        unknown, most = self.saved.vocabulary.unknown, self.most
        some = np.array([i for i, n in enumerate(notes) if (n[:most] != unknown).any()], np.int64)
        if self.reads_text and len(some):
            found[some] = sigmoid(self._of_texts([texts[i] for i in some]))
        elif len(some):
            with evaluating(self.model):
                read = batches(self.model, [notes[i] for i in some], _BATCH)
                for places, tokens, lengths in read:
                    logits = self.model(tokens, lengths)[self.task]
                    found[some[places]] = logits.double().sigmoid().cpu().numpy()
        return found

    def _of_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """Return the logits (N, C) of a system that reads text."""
        return cast(TextSystem, self.model).logits(texts)[self.task]

    def _weights(
        self, text: str, numbers: NDArray[np.int64], spans: NDArray[np.int64], columns: list[int]
    ) -> NDArray[np.float32]:
        """Weigh the words that the model reads of a note, (K, T).

        For a system that reads text, the weight is the drop in the logit when all occurrences of a
        word are blanked. In a long note, groups of words are tried first, and then the single words
        of the most important groups; the others have weight 0.
        """
        unknown = self.saved.vocabulary.unknown
        if not self.reads_text:
            tokens = torch.from_numpy(numbers).to(self.device)
            method = None if self.explain == "none" else self.explain
            return word_weights(self.model, tokens, columns, self.task, unknown, method)
        if self.explain not in (None, "occlusion"):
            raise MarnError(
                f"{self.model.name} can only be explained by occlusion; leave explain out"
            )
        places: dict[str, list[int]] = {}
        for place, (begin, end) in enumerate(spans.tolist()):
            places.setdefault(text[begin:end].lower(), []).append(place)
        words, size = [*places.values()], 0
        while len(words) > _TRIED and size != _GROUP:
            size = max(_GROUP, -(-len(words) // _TRIED))
            groups = [words[start : start + size] for start in range(0, len(words), size)]
            falls = self._falls(
                text, spans, [[i for word in group for i in word] for group in groups], columns
            )
            best = np.unique(np.argsort(-falls, axis=0, kind="stable")[:_KEPT])
            words = [word for group in best for word in groups[group]]
        weights = np.zeros((len(columns), len(spans)), np.float32)
        for mine, fall in zip(words, self._falls(text, spans, words, columns), strict=True):
            weights[:, mine] = np.maximum(fall, 0)[:, None]
        return weights

    def _falls(
        self,
        text: str,
        spans: NDArray[np.int64],
        erased: Sequence[Sequence[int]],
        columns: list[int],
    ) -> NDArray[np.float32]:
        """Return the drop in K logits when the words of each of N lists are blanked, (N, K)."""
        whole = self._of_texts([text])[0, columns]
        falls = np.zeros((len(erased), len(columns)), np.float32)
        for start in range(0, len(erased), _BATCH):
            texts = []
            for mine in erased[start : start + _BATCH]:
                letters = list(text)
                for begin, end in spans[mine].tolist():
                    letters[begin:end] = " " * (end - begin)
                texts.append("".join(letters))
            falls[start : start + len(texts)] = whole - self._of_texts(texts)[:, columns]
        return falls

    def _coded(
        self,
        note: str,
        text: str,
        numbers: NDArray[np.int64],
        spans: NDArray[np.int64],
        probabilities: NDArray[np.float64],
        about_id: list[str],
    ) -> CodedNote:
        read = len(numbers[: self.most])
        remarks = self._remarks(text, numbers, read)
        count = max(self.top, int((probabilities > self.above).sum()))
        # assigned codes come first, even if thresholds per code put them below others
        order = np.lexsort((-probabilities, probabilities <= self.above))
        columns = [int(c) for c in order[:count] if probabilities[c] > 0]
        weights = None
        if self.explain != "none" and columns:
            weights = self._weights(text, numbers[:read], spans[:read], columns)
        codes = []
        for place, column in enumerate(columns):
            row = np.zeros(read, np.float32) if weights is None else weights[place]
            words = [(text[slice(*spans[i])], float(row[i]), *spans[i].tolist())
                     for i in largest(row, WORDS) if row[i] > _LEAST * row.max()]  # fmt: skip
            category, title = self.categories[column] or ("", "")
            entry, probability = self.codes[column], float(probabilities[column])
            codes.append(
                PredictedCode(
                    *(column, entry.code, entry.title, probability, row),
                    top=[TopWord(*word) for word in words],
                    assigned=bool(probability > self.above[column]),
                    category=category,
                    category_title=title,
                )
            )
        if not any(code.assigned for code in codes):
            remarks = remarks or ["no code is above the threshold"]
        return CodedNote(note, text, spans[:read], codes, REMARKS.join(about_id + remarks))

    def _remarks(self, text: str, numbers: NDArray[np.int64], read: int) -> list[str]:
        """List what the model could not read of a note; `read` is the number of words read."""
        if not len(numbers):
            return ["the note is empty: it has no word, and numbers are not read"]
        strange = float((numbers[:read] == self.saved.vocabulary.unknown).mean())
        if strange == 1:
            return ["the model knows no word of the note: is it in the language of the training?"]
        remarks = []
        if _MARKUP.search(text):
            remarks.append("the text has HTML, whose tags are read as words: give plain text")
        elif strange >= _STRANGE:
            remarks.append(
                f"the model does not know {strange:.0%} of the words: is the note in the language "
                "of the training?"
            )
        if read < len(numbers):
            remarks.append(f"only the first {read:,} of {len(numbers):,} words were read")
        return remarks


def write_coded(notes: Iterable[CodedNote], file: IO[str], kind: str, title: str = "") -> None:
    """Write coded notes into a text file, one after the other.

    Args:
        notes: from `SavedModel.code`.
        file: opened with `newline=""`.
        kind: one of `FORMATS`: a table, a JSON object per note, or a page that shows the notes.
        title: of the page.
    """
    if kind == ".csv":
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in (row for note in notes for row in note.rows()):
            cells = {k: as_text(v) if isinstance(v, str) else v for k, v in row.items()}
            table.writerow(cells)
    elif kind == ".jsonl":
        for note in notes:
            codes = [
                {
                    key: value
                    for key, value in vars(code).items()
                    if key not in ("column", "weights")
                }
                | {"words": [word._asdict() for word in code.top]}
                for code in note.codes
            ]
            for code in codes:
                code.pop("top")
            line = {"note_id": note.id, "remark": note.remark, "codes": codes}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    else:
        file.write(pages.head(title) + _WARNING)
        for note in notes:
            file.write(_section(note))
        file.write(pages.TAIL)


_WARNING = """<p>Made by a program from text alone. It is not a medical device: do not use it for
coding, billing or treatment.</p>
"""


def _section(note: CodedNote) -> str:
    """Return the section of the page for one note."""
    remark = f"<p>{html.escape(note.remark)}</p>" if note.remark else ""
    body = ""
    for row in note.rows():
        if row["code"]:
            mark = "" if row["assigned"] else " (below the threshold)"
            above = f"{row['category']} {row['category_title']}"
            cells = (
                row["code"],
                row["title"],
                f"{row['probability']:.2f}{mark}",
                above,
                row["words"],
            )
            body += "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>\n"
    heads = ("code", "title", "probability", "category", "words that carried it")
    table = "<table><tr>" + "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr>\n"
    table = pages.wide(f"{table}{body}</table>", f"codes of {note.id}") if body else ""
    # one picture for all codes: a word has its largest weight for any, as a share of the heaviest
    rows = [code.weights / code.weights.max() for code in note.codes if code.weights.max(initial=0)]
    weights = np.max(rows, axis=0) if rows else np.zeros(len(note.spans))
    view = note_html(note.text, note.spans, weights, title="The note", open_text=True)
    return f"<section><h2>{html.escape(note.id)}</h2>\n{remark}{table}{view}</section>\n"
