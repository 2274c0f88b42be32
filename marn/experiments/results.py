"""Results of the runs of a sweep, see `marn.experiments.recording`: one table, and comparisons."""

import html
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from marn import pages
from marn.errors import MarnError
from marn.experiments.recording import PREDICTIONS, RESULTS
from marn.resampling import difference, holm
from marn.saving import replace

Array = NDArray[np.floating]

_TRAINING = ("loss", "learning_rate", "batch_size")  # settings that are columns of the table


def collect(folder: str | Path, runs: Container[str] | None = None) -> pd.DataFrame:
    """Collect the finished runs of a sweep, or of several, into a tidy table.

    Args:
        folder: that `python -m marn sweep` wrote to, or one that holds several such folders.
        runs: keys of the runs that are meant; by default all that are there, also those of an
            earlier version of the code or of another corpus.

    Returns:
        One row per run, task and rule of `recording.RULES`: the run's labels and seed, `task`,
        `rule`, every score (fractions), `threshold`, then what it was and took: `system`,
        `parameters`, `notes`, `steps`, `epochs`, `best_epoch`, `train_seconds`, `seconds`, settings
        of the training, `experiment` (the sweep's folder), `corpus`, `corpus_hash`, `code`, `key`,
        versions and hardware, and last the short options of the model.

    Raises:
        MarnError: no run there is finished.
    """
    rows = []
    for place, done in _runs(folder, runs):
        result = json.loads((place / "run" / RESULTS).read_text(encoding="utf-8"))
        of_run = {
            **{key: result[key] for key in ("system", "parameters", "steps", "epochs")},
            **{key: result[key] for key in ("best_epoch", "train_seconds")},
            "seconds": done["seconds"],
            "notes": result["corpus"]["notes"],
            **{key: result["training"].get(key) for key in _TRAINING},
            "experiment": place.parent.name,
            "corpus": result["corpus"]["name"],
            "corpus_hash": result["corpus"]["hash"],
            "code": done["about"]["code"],
            "key": done["key"],
            **result["provenance"],
            **result["options"],
        }
        for rule, tasks in result["scores"].items():
            for task, figures in tasks.items():
                row = {**done["labels"], "task": task, "rule": rule, **figures}
                rows.append({**row, **{k: v for k, v in of_run.items() if k not in row}})
    return pd.DataFrame(rows)


def curves(folder: str | Path, runs: Container[str] | None = None) -> pd.DataFrame:
    """Collect the history of every finished run: a row per epoch, with the run's labels.

    The arguments are those of `collect`.

    Raises:
        MarnError: no run there is finished.
    """
    parts = [
        pd.read_csv(place / "run" / "history.csv").assign(**done["labels"])
        for place, done in _runs(folder, runs)
    ]
    return pd.concat(parts, ignore_index=True)


def _runs(
    folder: str | Path, runs: Container[str] | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """Return the folder and `done.json` of each finished run that has scores."""
    files = [*Path(folder).glob("*/done.json"), *Path(folder).glob("*/*/done.json")]
    files = sorted(file for file in files if (file.parent / "run" / RESULTS).exists())
    known = [(file.parent, json.loads(file.read_text(encoding="utf-8"))) for file in files]
    found = [(place, done) for place, done in known if runs is None or done["key"] in runs]
    if not found:
        raise MarnError(f"no run in {folder} is finished; make some with: python -m marn sweep")
    return found


def told(kept: Mapping[str, Any]) -> str:
    """Say how a result that the book keeps was made.

    Args:
        kept: what `book/experiments/evidence.py` wrote.

    Returns:
        Three lines: the command that runs the trainings, the one that makes the result of them
        (without its list of pairs), and the number of runs, with seeds, hours, processor and
        commits.
    """
    runs = kept["runs"]
    seeds = ", ".join(str(seed) for seed in runs["seeds"])
    processor = " ".join(runs[key] for key in ("processor", "machine") if runs.get(key))
    hardware = runs.get("gpu") or f"{processor} with {runs['cpu_capability']}"
    return (
        f"{runs['sweep']}\n{kept['command'].partition(' --pairs')[0]}\n"
        f"{runs['count']} runs, seeds {seeds}, {runs['hours']} hours, {hardware}, "
        f"torch {runs['torch']}, commits {', '.join(runs['commits'])}"
    )


def summary(table: pd.DataFrame, by: Sequence[str], figures: Sequence[str]) -> pd.DataFrame:
    """Average figures, columns of a table from `collect`, over seeds.

    Args:
        table: from `collect`.
        by: columns that name a row, such as `["system", "loss"]`; `task` and `rule` are added.
        figures: columns to average.

    Returns:
        One row per group: `seeds`, and for each figure its mean and, as `FIGURE sd`, the standard
        deviation over seeds (missing for a single one).
    """
    groups = table.groupby([*by, "task", "rule"], sort=False, dropna=False)
    parts: list[Any] = [groups.size().rename("seeds")]
    for figure in figures:
        parts += [groups[figure].mean(), groups[figure].std().rename(f"{figure} sd")]
    return pd.concat(parts, axis=1).reset_index()


def per_code(folder: str | Path, runs: Container[str] | None = None) -> pd.DataFrame:
    """Score each ICD code of each finished run, to see what rare codes gain.

    The arguments are those of `collect`.

    Returns:
        One row per run and code: the run's labels, `code`, `frequency` (training notes that have
        it), `present` (test notes that have it), `f1` at the run's tuned threshold, 0 where
        nothing is right, and `relative loss`: the code's binary cross-entropy over the test notes,
        divided by that of a model that reads nothing and gives each code its share of the training
        notes. In it the f_j of Fig. 11 of the papers cancels.

    Raises:
        MarnError: no run there is finished.
    """
    parts = []
    for place, done in _runs(folder, runs):
        card = json.loads((place / "run" / "model.json").read_text(encoding="utf-8"))
        predicted, truth, arrays = _decisions(place)
        hits, total = (predicted & truth).sum(0), predicted.sum(0) + truth.sum(0)
        result = json.loads((place / "run" / RESULTS).read_text(encoding="utf-8"))
        notes = result["corpus"]["notes"]
        share = (arrays["icd/frequency"] + 0.5) / (notes + 1)
        columns = {
            "code": [code["code"] for code in card["codes"]["icd"]],
            "frequency": arrays["icd/frequency"],
            "present": truth.sum(0),
            "f1": micro_f1(np.stack([hits, total], axis=1)),
            "relative loss": _cross_entropy(arrays["icd/probabilities"], truth)
            / _cross_entropy(share, truth),
        }
        parts.append(pd.DataFrame(columns).assign(**done["labels"]))
    return pd.concat(parts, ignore_index=True)


def predictions(folder: str | Path) -> Iterator[tuple[dict[str, Any], Array, NDArray[np.bool_]]]:
    """Yield each run's labels, and probabilities and targets (N, C) of test notes and ICD codes."""
    for place, done in _runs(folder):
        with np.load(place / "run" / PREDICTIONS) as file:
            yield done["labels"], file["icd/probabilities"], file["icd/targets"]


def micro_f1(counts: Array) -> Array:
    """F1 of hits and of predictions plus positives: (..., 2) -> (...), 0 where there are none."""
    return 2 * counts[..., 0] / np.maximum(counts[..., 1], 1)


def compare(
    folder: str | Path,
    by: Sequence[str],
    baseline: Mapping[str, Any],
    *,
    notes: NDArray[np.bool_] | None = None,
    codes: NDArray[np.bool_] | None = None,
    draws: int = 10_000,
) -> pd.DataFrame:
    """Compare the micro-F1 of ICD codes of systems with a baseline's, on the same seeds and notes.

    Each run's tuned threshold decides. Patients (with all their notes) and seeds are drawn, and
    predictions exchanged, as `marn.resampling.difference` does; p is corrected for the number of
    comparisons by Holm's method. A system that draws nothing, such as a regression, is the same
    with every seed. Predictions are exchanged within the seeds that were run, so p says nothing of
    other seeds; the interval does.

    Args:
        folder: of a sweep.
        by: labels that name a system.
        baseline: values of these labels, for the system that the others are compared with.
        notes: (N,), the test notes to compare on; by default all.
        codes: (C,), the ICD codes to compare on; by default all.
        draws: of the bootstrap, and of the test.

    Returns:
        One row per other system: its labels, `seeds` that both have, `difference` of the mean
        micro-F1, `low` and `high` (95 %), `p` and `p corrected`.

    Raises:
        MarnError: no finished run has the baseline's labels, or it shares no seed with another, or
            they saw other notes, or two runs have the same labels and seed.
    """
    runs: dict[tuple[Any, ...], dict[int, Array]] = {}
    fixed: set[tuple[Any, ...]] = set()
    for place, done in _runs(folder):
        name = tuple(done["labels"].get(key) for key in by)
        mine, seed = runs.setdefault(name, {}), done["labels"]["seed"]
        if seed in mine:
            raise MarnError(
                f"two runs of {folder} are of {name} with seed {seed}, of two versions or corpora; "
                f"move the one that is not meant elsewhere, such as {place.name}"
            )
        mine[seed] = _counts(place, notes, codes)
        result = json.loads((place / "run" / RESULTS).read_text(encoding="utf-8"))
        draws_anything = result["training"] or result["system"] in ("average", "stack")
        fixed |= set() if draws_anything else {name}
    drawn = {key for name, mine in runs.items() if name not in fixed for key in mine} or {0}
    for name in fixed:
        runs[name] = dict.fromkeys(drawn, next(iter(runs[name].values())))
    first = tuple(baseline.get(key) for key in by)
    if first not in runs:
        raise MarnError(f"no finished run has the labels {dict(baseline)}; there are {list(runs)}")
    rows = []
    for name, theirs in runs.items():
        seeds = sorted(set(theirs) & set(runs[first]))
        if name == first:
            continue
        if not seeds:
            raise MarnError(
                f"{name} and {first} have no seed in common; run both with the same seeds"
            )
        ours, base = ([of[key] for key in seeds] for of in (theirs, runs[first]))
        gap = difference(ours, base, lambda sums: {"f1": micro_f1(sums)}, draws)["f1"]
        row = {"difference": gap.value, "low": gap.low, "high": gap.high, "p": gap.p}
        rows.append({**dict(zip(by, name, strict=True)), "seeds": len(seeds), **row})
    table = pd.DataFrame(rows)
    return table.assign(**{"p corrected": holm(table["p"])}) if rows else table


def _decisions(place: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Read what a run predicted and what is true, (N, C) bool each, and all its arrays."""
    with np.load(place / "run" / PREDICTIONS) as file:
        arrays = dict(file)
    return arrays["icd/probabilities"] > arrays["icd/tuned"], arrays["icd/targets"], arrays


def _cross_entropy(probabilities: Array, truth: NDArray[np.bool_]) -> Array:
    """Average the binary cross-entropy of each code over notes: (N, C) or (C,), (N, C) -> (C,)."""
    p = np.clip(probabilities.astype(float), 1e-7, 1 - 1e-7)  # float32 has exact zeros and ones
    return np.where(truth, -np.log(p), -np.log1p(-p)).mean(0)


def _counts(
    place: Path,
    notes: NDArray[np.bool_] | None = None,
    codes: NDArray[np.bool_] | None = None,
) -> Array:
    """Count by patient: hits, and predictions plus positives, (P, 2)."""
    predicted, truth, arrays = _decisions(place)
    if codes is not None:
        predicted, truth = predicted & codes, truth & codes
    patient = arrays["patient"]
    each = np.stack([(predicted & truth).sum(1), predicted.sum(1) + truth.sum(1)], axis=1)
    counts = np.zeros((patient.max() + 1, 2))
    np.add.at(counts, patient, each if notes is None else each * notes[:, None])
    return counts


def publish(table: pd.DataFrame, path: str | Path, *, digits: int = 4) -> list[Path]:
    """Write a table as CSV, JSON, Markdown, HTML and LaTeX.

    Args:
        table: any.
        path: of the files, without a suffix.
        digits: after the point.

    Returns:
        The files written.
    """
    rounded, path = table.round(digits), Path(path)
    written = {
        "csv": rounded.to_csv(index=False),
        "json": rounded.to_json(orient="records", indent=1, double_precision=digits) + "\n",
        "md": rounded.map(_in_markdown).rename(columns=_in_markdown).to_markdown(index=False)
        + "\n",
        "html": pages.head(path.name)
        + pages.wide(rounded.to_html(index=False, border=0, na_rep=""), "table")
        + pages.TAIL,
        "tex": rounded.to_latex(index=False, na_rep="", escape=True, float_format=f"%.{digits}f"),
    }
    for suffix, text in written.items():
        replace(Path(f"{path}.{suffix}"), partial(Path.write_text, data=text, encoding="utf-8"))
    return [Path(f"{path}.{suffix}") for suffix in written]


def _in_markdown(value: Any) -> Any:
    """Escape what would end a cell of a table in Markdown, or begin HTML."""
    return html.escape(value, quote=False).replace("|", "\\|") if isinstance(value, str) else value


def check_place(path: Path) -> None:
    """Refuse a place where `publish` could not write, before hours are spent.

    Raises:
        MarnError: the folder cannot be made, or is not writable.
    """
    place = Path(f"{path}.csv")
    if place.is_dir():
        raise MarnError(f"{place} is a folder; choose another place for the table")
    replace(trial := place.with_name(f".{place.name}.trial"), Path.touch)
    trial.unlink()
