"""What `marn predict`, `marn evaluate` and `marn score` do, once their options are checked."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from marn import notes as reading
from marn import privacy
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.evaluation import evaluate
from marn.prediction import FORMATS, CodedNote, Explained, write_coded
from marn.progress import Progress, duration
from marn.saving import load_model, replace
from marn.scoring import compare, read_predictions, report


def predict_notes(
    run: Path,
    notes: str,
    *,
    out: Path | None,
    explain: Explained | None,
    top: int,
    threshold: float | None,
    task: str | None,
    split: str | None,
    text_column: str | None,
    id_column: str | None,
    encoding: str | None,
    show_credentialed_text: bool,
) -> None:
    """Code notes and write them; see `marn.cli.PredictConfig`.

    Raises:
        MarnError: naming what is wrong with the model, the notes or the file to write.
    """
    kind = ".csv" if out is None else out.suffix.lower()
    if kind not in FORMATS:
        raise MarnError(f"out must end in {', '.join(FORMATS)}, but got {out}; choose one of them")
    if out is not None and out.is_dir():
        raise MarnError(f"out {out} is a folder; give the name of a file")
    saved = load_model(run)
    is_open = saved.is_open and reading.is_open(notes)
    privacy.check_may_write(out, is_open, show_credentialed_text)
    texts = reading.read_notes(
        notes, text_column=text_column, id_column=id_column, split=split, encoding=encoding
    )
    texts = itertools.chain([next(texts)], texts)  # what is wrong shows before anything is written
    coded = saved.code(
        texts, task=task, top=top, threshold=threshold, explain=explain, to_file=True
    )
    counted = _counted(coded)
    if out is None:
        write_coded(counted, sys.stdout, kind)
        return

    def write(aside: Path) -> None:
        with aside.open("w", encoding="utf-8", newline="") as file:
            write_coded(counted, file, kind, title=f"Codes of {Path(notes).name}")

    replace(out, write)


def _counted(coded: Iterable[CodedNote]) -> Iterator[CodedNote]:
    """Pass notes on; show progress, and at the end how many there were and what was remarked."""
    remarks: Counter[str] = Counter()
    notes, assigned, began = 0, 0, time.monotonic()
    progress = Progress(None, stream=sys.stderr, unit="note")
    for note in coded:
        notes += 1
        assigned += sum(code.assigned for code in note.codes)
        if note.remark:
            # the numbers differ from note to note
            remarks[re.sub(r"\d[\d,]*", "N", note.remark.partition(";")[0])] += 1
        progress.step("coding")
        yield note
    progress.close()
    took = duration(time.monotonic() - began)
    progress.line(f"{_number(notes, 'note')}, {_number(assigned, 'code')} assigned, {took}")
    for remark, count in remarks.most_common():
        progress.line(f"  {_number(count, 'note')}: {remark}")


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def evaluate_run(run: Path, corpus: Path, *, split: str, batch_size: int) -> None:
    """Print the scores of a model on a split; see `marn.cli.evaluate`.

    Raises:
        MarnError: there is no model, or the words or codes of the corpus are not the model's.
    """
    data = Corpus.load(corpus)
    saved = load_model(run, data)
    data = data.only(*saved.model.tasks)
    columns = [
        evaluate(saved.model, data, split, threshold=threshold, batch_size=batch_size)
        for threshold in (saved.thresholds, 0.5)
    ]
    for task in saved.model.tasks:
        threshold = saved.thresholds[task]
        shown = f"{threshold:.3f}" if isinstance(threshold, float) else "own"
        _print(f"{f'{split} {task}':32s} {f'threshold {shown}':>16s} {'0.5':>8s}")
        for figure, value in columns[0][task].items():
            _print(f"  {figure:30s} {value:16.3f} {columns[1][task][figure]:8.3f}")


def score_files(
    files: Sequence[Path],
    *,
    split: str,
    task: str | None,
    threshold: float,
    resamples: int,
    seed: int,
) -> None:
    """Print the scores of files of predictions, and how they differ; see `marn.cli.ScoreConfig`.

    Raises:
        MarnError: a file cannot be read, or has no note or code of the corpus.
    """
    if len(files) < 2:
        raise MarnError("score needs files of predictions and a corpus; name the corpus last")
    *paths, folder = files
    corpus = Corpus.load(folder)
    task = task or next(iter(corpus.tasks))
    found = [read_predictions(path, corpus, split, task, threshold) for path in paths]
    for predictions in found:
        for line in report(predictions, resamples, seed):
            _print(line)
    for line in compare(found, resamples, seed):
        _print(line)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
