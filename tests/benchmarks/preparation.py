"""Raw tables to an encoded corpus, 250 MB and 4 GB of notes, against the three passes of CAML.

The notes are random words in MIMIC-III's dialect: 10,350 discharge summaries among 17,250 notes.
`python -m data_prep` runs as a program, and so do the three passes. They come in two shapes: lean,
as one would write them today, which holds for the times; and as released, with everything in lists,
which holds for the memory.
"""

from __future__ import annotations

import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import Bar, agree
from benchmarks.made_up import note_lengths
from data_prep.hospital.tables import COLUMNS
from marn.errors import MarnError

BARS = [
    Bar("cpu", "CPU time at 250 MB", least=4.5),
    Bar("wall", "wall time at 250 MB", least=8),
    Bar("mb", "peak of the process at 250 MB", most=600, unit="MB"),
    Bar("large_mb", "peak of the process at 4 GB", most=600, unit="MB"),
    Bar("memory", "peak at 250 MB, of that of the released scripts' shape", most=0.25),
]
TESTS = Path(__file__).parents[1]
_TURNS = 7  # a run is short, and other users of the machine slow it by half
SPLITS = {"train": 0.8, "dev": 0.1, "test": 0.1}
CODES = [
    "4019", "4280", "42731", "41401", "5849", "25000", "2724", "51881", "5990", "53081", "2720",
    "2859", "2449", "486", "2851", "2762", "496", "99592", "5070", "0389", "5859", "40390", "311",
    "3051", "412", "2875", "41071", "2761", "4240", "V1582",
]  # fmt: skip


def write_raw(folder: Path, notes: int, lists: Path) -> int:
    """Write the tables of random notes, and CAML's lists of admissions.

    Args:
        folder: for the tables.
        notes: rows of NOTEEVENTS; three in five are discharge summaries, one an admission.
        lists: for the lists.

    Returns:
        Bytes of NOTEEVENTS.
    """
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = [
        "".join(rng.choice(letters, n)) + f"{i:x}"[-2:]
        for i, n in enumerate(rng.integers(2, 9, 50_000))
    ]
    written = [*words, *(f"{w}," for w in words), *(f"{w.title()}.\n" for w in words)]
    written += [f"{x / 10}" for x in range(2000)]
    frequency = 1 / np.arange(1, len(words) + 1)
    chance = np.concatenate([0.7 * frequency, 0.15 * frequency, 0.1 * frequency])
    chance = np.append(chance / chance.sum() * 0.95, np.full(2000, 0.05 / 2000))
    surface, limits = np.array(written, object), np.cumsum(chance)
    folder.mkdir(parents=True)
    lists.mkdir(parents=True)
    code_rows: dict[str, list[tuple[int, int, str]]] = {"DIAGNOSES_ICD": [], "PROCEDURES_ICD": []}
    admissions = []
    with (folder / "NOTEEVENTS.csv").open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(COLUMNS["NOTEEVENTS"].split())
        for row, length in enumerate(note_lengths(notes)):
            places = np.searchsorted(limits[:-1], rng.random(int(length * 1.13)))
            is_summary = row % 5 < 3
            category = "Discharge summary" if is_summary else "Nursing"
            subject, admission = 10 + row, 100_000 + row
            writer.writerow(
                (
                    *(row, subject, admission, "2151-08-04", "", "", category, "Report", "", ""),
                    " ".join(surface[places]),
                )
            )
            if is_summary:
                admissions.append(admission)
                mine = rng.choice(len(CODES), 3, replace=False)
                code_rows["DIAGNOSES_ICD"] += [(subject, admission, CODES[i]) for i in mine]
    code_rows["PROCEDURES_ICD"].append((10, admissions[0], "3893"))
    for table, rows in code_rows.items():
        with (folder / f"{table}.csv").open("w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow(COLUMNS[table].split())
            writer.writerows(
                (i, subject, admission, 1, code)
                for i, (subject, admission, code) in enumerate(rows)
            )
    bounds = (np.cumsum([0, *SPLITS.values()]) * len(admissions)).round().astype(int)
    for name, start, stop in zip(SPLITS, bounds, bounds[1:], strict=False):
        lines = "".join(f"{admission}\n" for admission in admissions[start:stop])
        (lists / f"{name}_full_hadm_ids.csv").write_text(lines)
    return (folder / "NOTEEVENTS.csv").stat().st_size


def repeat_notes(raw: Path, folder: Path, times: int) -> None:
    """Copy tables several times over, as further admissions with rows of their own."""
    folder.mkdir()
    for table in ("DIAGNOSES_ICD.csv", "PROCEDURES_ICD.csv"):
        (folder / table).write_bytes((raw / table).read_bytes())
    with (folder / "NOTEEVENTS.csv").open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        with (raw / "NOTEEVENTS.csv").open(newline="") as source:
            writer.writerow(next(csv.reader(source)))
        codes = []
        for time_over in range(times):
            with (raw / "NOTEEVENTS.csv").open(newline="") as source:
                rows = csv.reader(source)
                next(rows)
                for row in rows:
                    subject, admission = int(row[1]), int(row[2]) + time_over * 100_000
                    row_id = int(row[0]) + time_over * 10_000_000
                    writer.writerow((row_id, subject, admission, *row[3:]))
                    if time_over and row[6] == "Discharge summary":
                        codes.append((0, subject, admission, 1, CODES[0]))
    with (folder / "DIAGNOSES_ICD.csv").open("a", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(codes)


def three_passes(raw: Path, lists: Path, out: Path, *, hold: bool = False) -> None:
    """Tokenise and write text; read it again and count words; read it again and encode.

    Args:
        raw: the tables.
        lists: admissions of each split.
        out: folder to make, with `vocabulary.json` and the tokens and codes of each split.
        hold: whether to hold in memory what the released scripts hold: CAML's a matrix of training
            notes by words, made from a list with an entry for every word; MultiResCNN's and MARN's
            loader, of all notes, the words, their numbers and a target for every code.
    """
    csv.field_size_limit(1 << 30)
    out.mkdir()
    with (raw / "NOTEEVENTS.csv").open(newline="") as source, (out / "1.csv").open("w") as file:
        rows = csv.reader(source)
        next(rows)
        for row in rows:
            if row[6] == "Discharge summary":
                words = [w.lower() for w in re.findall(r"\w+", row[10]) if not w.isnumeric()]
                file.write(f"{row[1]},{row[2]},{' '.join(words)}\n")
    codes: dict[str, list[str]] = {}
    for table in ("DIAGNOSES_ICD", "PROCEDURES_ICD"):
        with (raw / f"{table}.csv").open(newline="") as source:
            rows = csv.reader(source)
            next(rows)
            for row in rows:
                codes.setdefault(row[2], []).append(row[4])
    splits = {
        line: name
        for name in SPLITS
        for line in (lists / f"{name}_full_hadm_ids.csv").read_text().split()
    }
    counted = _Matrix() if hold else _Counted()
    files = {name: (out / f"2_{name}.csv").open("w") for name in SPLITS}
    for admission, text in _notes(out / "1.csv"):
        name = splits[admission]
        files[name].write(f"{admission},{text},{';'.join(codes[admission])}\n")
        if name == "train":
            counted.take(text)
    for file in files.values():
        file.close()
    words = counted.in_three_notes()
    (out / "vocabulary.json").write_text(json.dumps(words))
    numbers = {word: i for i, word in enumerate(words, start=1)}
    columns = {c: i for i, c in enumerate(sorted({c for mine in codes.values() for c in mine}))}
    held = []
    for name in SPLITS:
        tokens, labels = [], []
        for line in (out / f"2_{name}.csv").open():
            _admission, text, mine = line.rstrip("\n").split(",")
            tokens.append([numbers.get(word, len(words) + 1) for word in text.split()])
            labels.append([columns[code] for code in mine.split(";")])
            if hold:
                targets = np.zeros(len(columns))
                targets[labels[-1]] = 1
                held.append((text.split(), tokens[-1], targets))
        np.save(out / f"{name}.tokens.npy", np.concatenate([np.array(t, np.int32) for t in tokens]))
        np.save(out / f"{name}.codes.npy", np.array([c for mine in labels for c in mine], np.int32))


class _Counted:
    """Counts the notes that have a word."""

    def __init__(self) -> None:
        self._notes: Counter[str] = Counter()

    def take(self, text: str) -> None:
        """Count a note."""
        self._notes.update(set(text.split()))

    def in_three_notes(self) -> list[str]:
        """Return the words that three notes or more have, sorted."""
        return sorted(word for word, count in self._notes.items() if count >= 3)


class _Matrix(_Counted):
    """Counts by a sparse matrix of notes by words."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._columns: list[int] = []
        self._ones: list[int] = []
        self._ends = [0]

    def take(self, text: str) -> None:
        """Enter a note."""
        for word in text.split():
            self._columns.append(self._numbers.setdefault(word, len(self._numbers)))
            self._ones.append(1)
        self._ends.append(len(self._columns))

    def in_three_notes(self) -> list[str]:
        """Return the words that three notes or more have, sorted."""
        from scipy.sparse import csr_matrix

        matrix = csr_matrix((self._ones, self._columns, self._ends), dtype=int)
        matrix.sum_duplicates()
        notes = matrix.getnnz(axis=0)
        return sorted(word for word, number in self._numbers.items() if notes[number] >= 3)


def _notes(path: Path) -> Iterator[tuple[str, str]]:
    with path.open() as file:
        for line in file:
            _subject, admission, text = line.rstrip("\n").split(",")
            yield admission, text


class Spent(NamedTuple):
    """What a program took."""

    cpu: float
    """Seconds, of all its processes."""
    wall: float
    """Seconds."""
    mb: float
    """Peak of its largest process, or of the one that started it if that is more."""


# Runs a program and tells its status, seconds and peak. A process that is started takes over the
# peak of the one that starts it (getrusage(2)); this one is small.
_WATCH = """
import os, subprocess, sys, time
began = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
wall = time.monotonic() - began
print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss)
"""


def program(*arguments: str) -> Spent:
    """Run a Python program to its end, its modules compiled beforehand as any user's are."""
    os.sync()  # else what the program before it wrote would be written at the cost of this one
    watched = subprocess.run(
        [sys.executable, "-S", "-c", _WATCH, sys.executable, *arguments],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(TESTS)},
    )
    status, seconds, wall, peak = watched.stdout.split()
    if int(status):
        raise MarnError(f"{arguments[1]} ended with status {status}: {watched.stderr[-300:]}")
    return Spent(float(seconds), float(wall), int(peak) * 1024 / 1e6)


def _three_passes(raw: Path, lists: Path, out: Path, *, hold: bool = False) -> Spent:
    code = "import sys; from pathlib import Path; from benchmarks.preparation import *; "
    code += f"three_passes(*map(Path, sys.argv[1:]), hold={hold})"
    return program("-c", code, *map(str, (raw, lists, out)))


def prepare(raw: Path, lists: Path, out: Path) -> Spent:
    """Run `python -m data_prep mimic3` with all codes and without word vectors."""
    options = "--codes full --vectors none"
    return program(
        *("-m", "data_prep", "mimic3", "--raw", str(raw), "--out", str(out)),
        *("--splits", str(lists), *options.split()),
    )


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the bars, seconds and MB of each side."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, lists = folder / "raw", folder / "lists"
        size = write_raw(raw, 60 if quick else 17_250, lists)
        spent: dict[str, list[Spent]] = {"reference": [], "ours": []}
        for turn in range(1 if quick else _TURNS):
            places = {side: folder / f"{side}{turn}" for side in spent}
            spent["reference"].append(_three_passes(raw, lists, places["reference"]))
            spent["ours"].append(prepare(raw, lists, places["ours"]))
        released = _three_passes(raw, lists, folder / "released", hold=True)
        _same(folder / "released", places["ours"])
        _same(places["reference"], places["ours"])
        middle = {
            side: Spent(*(statistics.median(values) for values in zip(*runs, strict=True)))
            for side, runs in spent.items()
        }
        repeat_notes(raw, folder / "large", 2 if quick else 16)
        for split in SPLITS:
            path = lists / f"{split}_full_hadm_ids.csv"
            first = path.read_text().split()
            times = range(2 if quick else 16)
            path.write_text("\n".join(str(int(a) + t * 100_000) for t in times for a in first))
        large = prepare(folder / "large", lists, folder / "large_corpus")
    return {
        "cpu": middle["reference"].cpu / middle["ours"].cpu,
        "wall": middle["reference"].wall / middle["ours"].wall,
        "mb": middle["ours"].mb,
        "large_mb": large.mb,
        "memory": middle["ours"].mb / released.mb,
        "size_mb": size / 1e6,
        "seconds": middle["ours"].cpu,
        "reference_seconds": middle["reference"].cpu,
        "wall_seconds": middle["ours"].wall,
        "reference_wall_seconds": middle["reference"].wall,
        "reference_mb": middle["reference"].mb,
        "released_seconds": released.cpu,
        "released_wall_seconds": released.wall,
        "released_mb": released.mb,
        "large_seconds": large.cpu,
    }


def _same(theirs: Path, ours: Path) -> None:
    """See that both made the same words, tokens and codes."""
    words = [json.loads((folder / "vocabulary.json").read_text()) for folder in (theirs, ours)]
    if words[0] != words[1]:
        raise MarnError("the two sides of a benchmark differ in the vocabulary")
    for name in SPLITS:
        counts = [
            np.bincount(np.load(path))
            for path in (theirs / f"{name}.tokens.npy", ours / name / "tokens.npy")
        ]
        agree(f"tokens of {name}", counts[1], counts[0], 0)
        sizes = [
            len(np.load(path))
            for path in (theirs / f"{name}.codes.npy", ours / name / "icd.indices.npy")
        ]
        agree(f"codes of {name}", sizes[1], sizes[0], 0)
