r"""Compare the explanations of `marn.attribution` with marked evidence.

    python book/experiments/explanations.py short data/teaching data/short_notes
    python -m marn sweep book/experiments/explanations.yaml
    python book/experiments/explanations.py score runs/explanations data/teaching \
        data/short_notes data/codiesp_es5 --out book/results/explanations.json

The first command makes a corpus of short notes: from each of the hospital's notes (at most 2,000
per split) one window of 31 words, around a one-word passage of a code drawn at random. The second
trains the systems. The third explains notes of the test split, and in each up to three codes that
the note has, that the model assigns at 0.5, and that are marked in the words that the model reads.
Methods, systems and seeds were not chosen by these results.

* Plausibility: token F1 of the five heaviest words, average precision of the ranking of all words,
  and whether the heaviest word is marked (`top`) or only beside a marked one, within two words
  (`beside`).
* Faithfulness: comprehensiveness and sufficiency (`marn.explain.faithfulness`).
* Controls: random weights, and words weighed by how rare they are in the training notes.
* The cue test: a window of 31 words around the first marked passage that is one word long; is that
  word (or another marked one) the heaviest? `occlusion` tries 16 words, as everywhere.

Systems trained on short notes take the cue test on the hospital's notes. Intervals resample notes
and seeds; p-values of differences are corrected by Holm's method within a system. After an
interruption, repeat the command and it resumes.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

import marn
from data_prep.__main__ import main as data_prep
from marn import attribution, explain
from marn.corpus import Corpus
from marn.corpus.text import token_spans
from marn.resampling import difference, holm, interval
from marn.saving import provenance, write_json

METHODS: Final = ("attention", "occlusion", "gradients", "attention_gradients")
CONTROLS: Final = ("random", "rarity")
FIGURES: Final = (
    *("token_f1", "average_precision", "top", "beside", "comprehensiveness", "sufficiency"),
    "cue",
)
CODES: Final = 3
SIDE: Final = 15  # words on each side of a cue
ROLES: Final = ("evidence", "cue")

Floats = NDArray[np.floating]
Passages = Mapping[int, Sequence[tuple[int, int]]]
"""{column: passages (begin, end) in characters}."""


@dataclass(frozen=True)
class Note:
    """A note to be explained."""

    text: str
    marked: Passages
    """Passages of the codes that the note has."""


def notes_of(corpus: Corpus, split: str, places: Sequence[int]) -> Iterator[Note]:
    """Yield notes with the passages of their codes.

    Args:
        corpus: the corpus.
        split: one of its splits.
        places: indices of the notes in the split.
    """
    part = corpus[split]
    for place in places:
        marked: dict[int, list[tuple[int, int]]] = {}
        mine = set(part.code_indices("icd", place).tolist())
        for passage in part.evidence(place):
            if passage.role in ROLES and passage.code in mine:
                marked.setdefault(passage.code, []).append((passage.begin, passage.end))
        yield Note(part.text(place), marked)


def proved(spans: NDArray[np.int64], passages: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Tell which words (T,) share a character with a passage."""
    found = np.zeros(len(spans), dtype=bool)
    for begin, end in passages:
        found |= (spans[:, 0] < end) & (spans[:, 1] > begin)
    return found


def window(note: Note, column: int) -> Note | None:
    """Cut out the words around the first passage of a code that is one word long."""
    _, spans = token_spans(note.text)
    for passage in note.marked[column]:
        places = np.flatnonzero(proved(spans, [passage]))
        if len(places) == 1:
            words = spans[max(0, places[0] - SIDE) : places[0] + SIDE + 1]
            begin, end = int(words[0, 0]), int(words[-1, 1])
            marked = {
                code: [(b - begin, e - begin) for b, e in some if b >= begin and e <= end]
                for code, some in note.marked.items()
            }
            return Note(note.text[begin:end], {code: some for code, some in marked.items() if some})
    return None


def write_short(hospital: Corpus, folder: Path) -> None:
    """Make a corpus of windows, one from each note, around a passage of a code drawn at random."""
    rng, rows = np.random.default_rng(0), []
    for split in ("train", "dev", "test"):
        places = range(min(len(hospital[split]), 2000))
        for number, note in enumerate(notes_of(hospital, split, places)):
            cut = window(note, int(rng.choice([*note.marked]))) if note.marked else None
            if cut is not None:
                codes = [hospital.codes["icd"][column] for column in cut.marked]
                shown = ";".join(code.code for code in codes)
                rows.append([f"{split}{number}", cut.text, shown, split])
    with tempfile.TemporaryDirectory() as place:
        notes = Path(place) / "notes.csv"
        with notes.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["note_id", "text", "codes", "split"], *rows])
        line = ["own", "--notes", str(notes), "--system", "icd9", "--text", "open"]
        if data_prep([*line, "--out", str(folder)]) != 0:
            raise marn.MarnError(f"{folder} has no corpus of short notes; see above")


class Explained:
    """A trained system, and how it explains notes."""

    def __init__(self, model: Any, corpus: Corpus, codes: Sequence[str], seed: int) -> None:
        self.model, self.vocabulary = model, corpus.vocabulary
        mine = {entry.code: column for column, entry in enumerate(corpus.codes["icd"])}
        self.columns = [mine.get(code) for code in codes]  # by the column of the notes' corpus
        count = np.zeros(len(self.vocabulary) + 1)
        for note in range(len(corpus["train"])):
            count[np.unique(corpus["train"].note_tokens(note))] += 1
        self.rarity = 1 / (1 + count)
        self.rng = np.random.default_rng([seed, 7])

    def read(self, text: str) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """Return the numbers (T,) and spans (T, 2) of the words that the model reads."""
        words, spans = token_spans(text)
        numbers = self.vocabulary.encode(words)[: self.model.max_length].astype(np.int64)
        return torch.from_numpy(numbers), spans[: len(numbers)]

    def assigned(self, tokens: torch.Tensor) -> NDArray[np.bool_]:
        """Tell which codes (C,) have a probability above 0.5."""
        with torch.no_grad():
            logits = self.model(tokens[None], torch.tensor([len(tokens)]))["icd"][0]
        return (logits > 0).numpy()

    def weights(self, tokens: torch.Tensor, columns: Sequence[int]) -> dict[str, Floats]:
        """Weigh the words by each method, (K, T)."""
        unknown = self.vocabulary.unknown
        found = {
            method: attribution.word_weights(self.model, tokens, columns, "icd", unknown, method)
            for method in METHODS[:3]
        }
        # the product, as `word_weights` defines it
        found["attention_gradients"] = found["attention"] * found["gradients"]
        found["random"] = self.rng.random((len(columns), len(tokens)))
        found["rarity"] = np.tile(self.rarity[tokens], (len(columns), 1))
        return found

    def whole(self, note: Note) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield each method with its scores, for each explained code of a note."""
        tokens, spans = self.read(note.text)
        right = self.assigned(tokens)
        some = [
            column
            for column, passages in sorted(note.marked.items())
            if self.columns[column] is not None
            and right[self.columns[column]]
            and proved(spans, passages).any()
        ][:CODES]
        if not some:
            return
        columns = [self.columns[column] for column in some]
        weights = self.weights(tokens, columns)
        falls = explain.faithfulness(
            self.model, tokens, columns * len(weights), "icd", self.vocabulary.unknown,
            np.concatenate([*weights.values()]),
        )  # fmt: skip
        for place, (method, rows) in enumerate(weights.items()):
            for row, column in enumerate(some):
                given = rows[row] if rows[row].any() else np.ones(len(spans))
                overlap = explain.evidence_overlap(given, spans, note.marked[column])
                proves = proved(spans, note.marked[column])
                heaviest = int(given.argmax())
                near = proves[max(0, heaviest - 2) : heaviest + 3].any()
                yield (
                    method,
                    {
                        "token_f1": overlap["token_f1"],
                        "average_precision": overlap["average_precision"],
                        "top": float(proves[heaviest]),
                        "beside": float(near and not proves[heaviest]),
                        **{name: of[place * len(some) + row] for name, of in falls.items()},
                    },
                )

    def cues(self, note: Note) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield each method with the cue test: whether the cue of a window is its heaviest word."""
        for column in [*sorted(note.marked)][:CODES]:
            cut = window(note, column)
            if cut is None or self.columns[column] is None:
                continue
            tokens, spans = self.read(cut.text)
            if self.assigned(tokens)[self.columns[column]]:
                proves = proved(spans, cut.marked[column])
                for method, rows in self.weights(tokens, [self.columns[column]]).items():
                    yield method, {"cue": float(proves[rows[0].argmax()])}


def example(explained: Explained, corpus: Corpus, notes: Sequence[Note]) -> dict[str, Any]:
    """Return the first window of an open corpus whose heaviest word by attention is not a cue."""
    for note in notes if corpus.is_open else []:
        for column in sorted(note.marked):
            cut = window(note, column)
            if cut is None:
                continue
            tokens, spans = explained.read(cut.text)
            proves = proved(spans, cut.marked[column])
            weights = explained.weights(tokens, [explained.columns[column]])
            wrong = not proves[weights["attention"][0].argmax()]
            if wrong and explained.assigned(tokens)[explained.columns[column]]:
                code = corpus.codes["icd"][column]
                return {
                    "code": code.code,
                    "title": code.title,
                    "words": [cut.text[begin:end] for begin, end in spans],
                    "marked": proves.tolist(),
                    "weights": {
                        method: [round(float(x), 4) for x in weights[method][0]]
                        for method in METHODS
                    },
                }
    return {}


def tables_of(explained: Explained, notes: Sequence[Note], whole: bool) -> dict[str, Floats]:
    """Return {method: (N, 2 F)}: the sum over codes, and their number, for each note and score."""
    found = {name: np.zeros((len(notes), len(FIGURES), 2)) for name in (*METHODS, *CONTROLS)}
    for place, note in enumerate(notes):
        parts = [explained.whole(note)] if whole else []
        for method, figures in (pair for part in (*parts, explained.cues(note)) for pair in part):
            for name, value in figures.items():
                found[method][place, FIGURES.index(name)] += value, 1
    return {name: table.reshape(len(notes), -1) for name, table in found.items()}


def measure(sums: Floats) -> dict[str, Floats]:
    """Average the scores (B,) over pairs of note and code."""
    values, counts = sums[:, ::2], sums[:, 1::2]
    means = np.divide(values, counts, out=np.full(values.shape, np.nan), where=counts > 0)
    return {name: means[:, place] for place, name in enumerate(FIGURES)}


def seconds_of(explained: Explained, text: str, codes: int = 10) -> dict[str, float]:
    """Time the explanation of ten codes of a note of 2,000 words, in processor seconds."""
    model, length = explained.model, explained.model.max_length
    model.max_length = 2000
    tokens, _ = explained.read(text)
    tokens, found = tokens.repeat(-(-2000 // len(tokens)))[:2000], {}
    for method in METHODS:
        began = time.process_time()
        attribution.word_weights(
            model,
            tokens,
            range(min(codes, model.tasks["icd"])),
            "icd",
            explained.vocabulary.unknown,
            method,
        )
        found[method] = round(time.process_time() - began, 2)
    model.max_length = length
    return found


def summarise(
    tables: Mapping[tuple[str, str], Sequence[Mapping[str, Floats]]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the scores of each method with intervals, and their differences from attention."""
    summary, differences = [], []
    for (data, system), seeds in tables.items():
        about = {"data": data, "system": system}
        for method in (*METHODS, *CONTROLS):
            mine = [seed[method] for seed in seeds]
            pairs = dict(zip(FIGURES, sum(mine)[:, 1::2].sum(axis=0).tolist(), strict=True))
            for name, found in interval(mine, measure, 2000).items():
                if np.isfinite(found.value):
                    row = {"method": method, "figure": name, **rounded(found)}
                    summary.append(about | row | {"pairs": int(pairs[name])})
        gaps = {
            method: difference(
                [seed[method] for seed in seeds], [seed["attention"] for seed in seeds],
                measure, 2000,
            )
            for method in METHODS[1:]
        }  # fmt: skip
        for name in FIGURES:
            corrected = holm([gap[name].p for gap in gaps.values()])
            for (method, gap), p in zip(gaps.items(), corrected, strict=True):
                if np.isfinite(gap[name].value):
                    row = {"method": method, "minus": "attention", "figure": name}
                    row |= rounded(gap[name]) | {"p": gap[name].p, "p corrected": float(p)}
                    differences.append(about | row)
    return summary, differences


def rounded(estimate: Any) -> dict[str, float]:
    """Return value, low and high with four digits."""
    return {name: round(getattr(estimate, name), 4) for name in ("value", "low", "high")}


def run(args: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    """Explain notes with every run of the sweep."""
    torch.set_num_threads(1)
    hospital, *others = (Corpus.load(path) for path in args.corpora)
    corpora = {corpus.hash: corpus for corpus in (hospital, *others)}
    tables: dict[tuple[str, str], list[dict[str, Floats]]] = {}
    seconds: list[dict[str, Any]] = []
    shown: dict[str, Any] = {}
    about: dict[str, dict[str, Any]] = {}
    trained_at = set()
    files = args.runs.glob("*/run/results.json")
    runs = [(json.loads(file.read_text(encoding="utf-8")), file.parent) for file in files]
    if not runs:
        raise marn.MarnError(f"no finished run is in {args.runs}; sweep explanations.yaml first")
    runs.sort(key=lambda run: (run[0]["system"], run[0]["options"]["seed"]))
    for made, folder in runs:
        system, seed = made["system"], made["options"]["seed"]
        corpus = corpora.get(made["corpus"]["hash"])
        if corpus is None:
            raise marn.MarnError(f"{folder} was trained on none of the corpora; name it, too")
        own = corpus["test"]
        short = not any(own.evidence(note) for note in range(len(own)))
        source = hospital if short else corpus
        data = "hospital" if corpus is hospital else "short" if short else "codiesp"
        part = source["test"]
        notes = [*notes_of(source, "test", range(min(args.notes, len(part))))]
        codes = [entry.code for entry in source.codes["icd"]]
        model = marn.load_model(folder, corpus).model
        explained = Explained(model, corpus, codes, seed)
        kept = folder.parent / f"explanations_{args.notes}.npz"
        if not kept.exists():
            began = time.process_time()
            np.savez(kept, **tables_of(explained, notes, whole=not short))
            report(f"{data}, {system}, seed {seed}: {time.process_time() - began:.0f} CPU-s")
        with np.load(kept) as found:
            tables.setdefault((data, system), []).append(dict(found))
        if corpus is hospital and system not in shown:
            seconds.append({"system": system} | seconds_of(explained, notes[0].text))
            shown[system] = example(explained, source, notes)
        trained_at.add(made["provenance"]["commit"])
        about[data] = {
            "hash": corpus.hash,
            "training notes": len(corpus["train"]),
            "notes explained": len(notes),
            "steps": made["steps"],
        }
    summary, differences = summarise(tables)
    return {
        "command": f"python book/experiments/explanations.py {shlex.join(args.line)}",
        "sweep": "python -m marn sweep book/experiments/explanations.yaml",
        "seeds": sorted({made["options"]["seed"] for made, _ in runs}),
        "corpora": about,
        "provenance": provenance() | {"systems trained at": sorted(trained_at)},
        "seconds of 10 codes of a note of 2,000 words": seconds,
        "example": {"system": "caml"} | shown.get("caml", {}),
        "summary": summary,
        "differences": differences,
    }


def main(line: Sequence[str] | None = None) -> int:
    """Run the experiment; report a wrong option or corpus in one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    short = commands.add_parser("short", help="make a corpus of short notes")
    short.add_argument("hospital", type=Path)
    short.add_argument("out", type=Path)
    score = commands.add_parser("score", help="explain notes with the runs of the sweep")
    score.add_argument("runs", type=Path)
    score.add_argument("corpora", type=Path, nargs="+", help="of the runs, the hospital first")
    score.add_argument("--notes", type=int, default=40, help="notes explained, of each corpus")
    score.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args(line)
    args.line = sys.argv[1:] if line is None else line

    def report(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    try:
        if args.command == "short":
            write_short(Corpus.load(args.hospital), args.out)
        else:
            write_json(args.out, run(args, report))
    except marn.MarnError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
