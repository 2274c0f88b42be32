"""Reproduce every table of the two papers on MIMIC-III, and MARN's Figs. 8, 12 and 13.

    make reproduce MIMIC=DIR
    make reproduce MIMIC=DIR DRY=1 OPTIONS="--splits LISTS"

DIR holds NOTEEVENTS, DIAGNOSES_ICD and PROCEDURES_ICD of MIMIC-III v1.4, or tables that the
teaching hospital wrote. The corpora are prepared as the authors' code does (top 50 codes, and all),
`SWEEPS` are run on the GPUs of this machine, and the papers' tables are written with our scores
beside the printed ones. All files are written below --out; repeat the command after an
interruption.

With DRY=1 nothing is written: the runs are listed with the time that each will take, from the
papers' number of notes and one training step of each kind on this machine, on random words. The
first time is that of a run that stops as soon as its patience allows, the second that of a run that
never stops early.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from benchmarks.made_up import made_up, note_lengths

import marn
from data_prep import __main__ as data_prep
from data_prep import splits, tables
from data_prep.sources import mimic3
from marn import MarnError, TrainConfig, command_line
from marn.corpus.batches import training_order
from marn.experiments import published, results
from marn.experiments import tables as layouts
from marn.experiments.plan import Planned, plan
from marn.experiments.presets import preset
from marn.experiments.sweep import sweep
from marn.privacy import check_may_write
from marn.progress import duration
from marn.registry import build
from marn.saving import write_json
from marn.settings import Count, Location, settings, unknown
from marn.train.step import TrainingStep

HOME = Path(__file__).parent
RAW = ("NOTEEVENTS", "DIAGNOSES_ICD", "PROCEDURES_ICD")
DATASETS = {"50": "MIMIC-III-50", "full": "MIMIC-III-full"}
JOINT = ["bigru", "caml", "dr_caml", "multirescnn"]
ALL_CODES = [*JOINT, "cnn", "laat", "joint_laat", "fusion"]
BATCH = {"train_args.batch_size": 64}  # MARN Section 4.2, for all codes

AT_FULL_SIZE = {"preset": "released", "steps": 0, "train_notes": 0, "seeds": [0]}

Sweeps = dict[str, tuple[str, str, dict[str, Any]]]
SWEEPS: Sweeps = {
    "systems_50": ("50", "paper_systems", {}),
    "systems_50_ccs": ("50", "paper_systems", {"model": JOINT, "tasks": ["ccs"]}),
    "mt_ram_50": ("50", "paper_mt_ram", {}),
    "marn_50": ("50", "paper_marn", {}),
    "settings_50": ("50", "settings", AT_FULL_SIZE),
    "systems_full": ("full", "paper_systems", {"model": ALL_CODES}),
    "systems_full_ccs": ("full", "paper_systems", {"model": JOINT, "tasks": ["ccs"]}),
    "marn_full": ("full", "paper_marn", BATCH),
}
"""{name: which codes, experiment, and parameters that replace those of its file}."""

TABLES = (
    *(("MARN", f"Table {n}") for n in range(1, 7)),
    *(("MT-RAM", f"Table {n}") for n in range(1, 5)),
)
LONGER = (("MARN", "Table 5"), ("MARN", "Table 6"))
"""Tables that also get our rows without a printed one, such as +FL."""
DRAWN = {
    "marn_figure_8": ("mt_ram_50", ["model", "blocks"]),
    "marn_figures_12_and_13": ("settings_50", ["reading", "setting"]),
}
"""{what the tables of a figure are called: their sweep, and what names a row}."""
FIGURES = ["macro_auc", "micro_auc", "macro_f1_caml", "micro_f1"]
FIGURES += [f"precision_at_{k}" for k in (5, 8, 15)]
RUN_MB = {"50": 100, "full": 600}  # size of a run's folder, mostly weights and test predictions
SECONDS_PER_MB = 0.11  # to prepare NOTEEVENTS: preset `full` in book/results/hospital_full.json
SAMPLE = 1575
"""Number of words of each note in a measured step: the mean of `note_lengths`."""


@settings
class ReproduceConfig:
    """Options of `make reproduce`."""

    splits: Location = Path("fetch")
    """As `python -m data_prep mimic3` takes it: by default CAML's lists, which are downloaded once;
    their folder; or shares of the patients, such as 0.8,0.1,0.1."""
    out: Location = Path("runs/reproduce")
    """Folder of everything that is made; git must not see it."""
    prepare: tuple[str, ...] = ()
    """KEY=VALUE, an option of `python -m data_prep mimic3` otherwise than in MARN's code, such as
    ccs_procedures=hcup or vectors=none."""
    only: tuple[str, ...] = ()
    """One of the sweeps, such as marn_50; repeat it for several. By default all."""
    set: tuple[str, ...] = ()
    """KEY=VALUE, as `marn sweep` takes it, for every sweep, such as seeds=[0,1,2]."""
    jobs: Count | None = None
    """Runs at a time; by default one for each GPU."""
    dry_run: bool = False
    """Say what would be run and how long it will take, and write nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    app = command_line.new("Reproduce the papers' tables.")
    command_line.add(app, reproduce, ReproduceConfig)
    given = sys.argv[1:] if arguments is None else arguments
    return command_line.run(app, "make", ["reproduce", *given], kept="repeat the command to go on")


def reproduce(
    given: dict[str, Any],
    mimic: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of MIMIC-III's tables.")],
) -> None:
    """Prepare MIMIC-III, run what the papers ran, and write their tables beside our scores."""
    config = ReproduceConfig(**given)
    for name in config.only:
        if name not in SWEEPS:
            raise unknown("no sweep is named", name, SWEEPS)
    chosen = {name: SWEEPS[name] for name in config.only or SWEEPS}
    changes = command_line.pairs("--set", config.set)
    jobs = config.jobs or max(1, torch.cuda.device_count())
    raw_mb = check(mimic, config, [which for which, *_ in chosen.values()])
    with tempfile.TemporaryDirectory() as folder:
        plans = planned(config.out, chosen, changes, Path(folder))  # reports a wrong setting now
        if config.dry_run:
            estimate(plans, Path(folder), jobs)
            lacking = {which for which, *_ in chosen.values() if not _corpus(config.out, which)}
            seconds = len(lacking) * raw_mb * SECONDS_PER_MB
            typer.echo(f"preparation: about {duration(seconds)}")
            return
    runs, failed = {}, []
    for name, (which, experiment, own) in chosen.items():
        path = HOME / f"{experiment}.yaml"
        settings = {"corpus": prepare(mimic, config, which), **own, **changes}
        typer.echo(f"{name}:")
        runs[name] = {run.key for run in plan(path, config.out.resolve() / name, settings)}
        try:
            sweep(path, config.out / name, jobs=jobs, changes=settings)
        except MarnError as error:  # the other sweeps are still run
            failed.append(f"{name}: {error}")
    for file in write_tables(config.out, runs):
        typer.echo(file)
    if failed:
        raise MarnError("; ".join(failed))


def check(mimic: Path, config: ReproduceConfig, labels: list[str]) -> float:
    """Check what would stop the work later; return the size of NOTEEVENTS in MB.

    Raises:
        MarnError: a table or a list of admissions is missing, git would see the results, or the
            disk is too small.
    """
    tables.folder(mimic, "MIMIC=DIR")
    size, *_ = (tables.require(mimic, name).stat().st_size / 1e6 for name in RAW)
    try:
        check_may_write(config.out / "table.csv", False, False)
    except MarnError:
        raise MarnError(
            f"git does not ignore {config.out}, and what is made there is under MIMIC's agreement; "
            "choose another folder with --out, such as runs/reproduce"
        ) from None
    for which in dict.fromkeys([*labels, "full"]):  # "full" gives the words
        line_of(mimic, config, which)
        if str(config.splits) != "fetch":
            splits.chosen(config.splits, which, 0, Counter())
        elif not config.dry_run:
            splits.fetch_lists(which)
    need = sum(RUN_MB[which] for which in labels) * 8 + size
    home = next(place for place in (config.out, *config.out.resolve().parents) if place.is_dir())
    if (free := shutil.disk_usage(home).free / 1e6) < need and not config.set:
        raise MarnError(
            f"this needs about {need:,.0f} MB in {config.out}, but the disk has {free:,.0f} MB "
            "free; free space or choose another folder with --out"
        )
    return size


def line_of(mimic: Path, config: ReproduceConfig, which: str) -> list[str]:
    """Return the command line that prepares a corpus as MARN's code does, with the user's changes.

    Raises:
        MarnError: an option is not one of `python -m data_prep mimic3`.
    """
    lists = config.splits.resolve() if config.splits.exists() else config.splits
    own = command_line.pairs("--prepare", config.prepare)
    options = {**preset("released").data, "codes": which, **own, "splits": str(lists)}
    mimic3.Config(raw=mimic, out=config.out, **options)
    line = ["mimic3", "--raw", str(mimic.resolve())]
    for key, value in options.items():
        line += [f"--{key.replace('_', '-')}", str(value)]
    return line


def prepare(mimic: Path, config: ReproduceConfig, which: str) -> str:
    """Prepare a corpus unless it exists, made from the same tables; return its folder."""
    corpus, stamp = (config.out / f"corpus_{which}{end}" for end in ("", ".json"))
    sizes = [tables.require(mimic, name).stat().st_size for name in RAW]
    made_from = {"line": line_of(mimic, config, which), "bytes": sizes}
    known = json.loads(stamp.read_text()) if stamp.is_file() and _corpus(config.out, which) else {}
    if known != made_from:
        stamp.unlink(missing_ok=True)
        config.out.mkdir(parents=True, exist_ok=True)
        if status := data_prep.main([*made_from["line"], "--out", str(corpus)]):
            raise SystemExit(status)
        write_json(stamp, made_from)
    return str(corpus.resolve())


def _corpus(out: Path, which: str) -> Path | None:
    """Return the folder of a corpus, or None if it does not exist."""
    corpus = out.resolve() / f"corpus_{which}"
    return corpus if (corpus / "card.json").is_file() else None


def planned(
    out: Path, chosen: Sweeps, changes: dict[str, Any], folder: Path
) -> dict[str, tuple[str, list[Planned]]]:
    """Plan every sweep, and make corpora of random words in `folder` to measure steps on.

    Returns:
        {sweep: which codes, and its runs}.
    """
    found = {}
    for name, (which, experiment, own) in chosen.items():
        random, (_, codes) = folder / which, size_of(which)
        if not random.exists():
            share = min(16 / codes["icd"], 0.1)  # about as many codes per note as in MIMIC-III
            made_up(random, np.full(64, SAMPLE), codes, share=share)
        corpus = _corpus(out, which) or random
        settings = {"corpus": str(corpus), **own, **changes}
        runs = plan(HOME / f"{experiment}.yaml", out.resolve() / name, settings)
        found[name] = (which, runs)
    return found


def estimate(plans: dict[str, tuple[str, list[Planned]]], folder: Path, jobs: int) -> None:
    """List the runs and the time that each will take, from one step of each kind."""
    low, high, known = 0.0, 0.0, dict[str, tuple[float, float]]()
    for name, (which, runs) in plans.items():
        for run in runs:
            if run.finished:
                typer.echo(f"{name}: {run.name}: finished")
                continue
            kind = {**run.parameters, "corpus": str(folder / which), "seed": 0}
            key = json.dumps(kind, sort_keys=True)
            if key not in known:
                known[key] = seconds_of(kind, size_of(which)[0])
            low, high = low + known[key][0], high + known[key][1]
            typer.echo(f"{name}: {run.name}: {' to '.join(map(duration, known[key]))}")
    where = f"{jobs} at a time on {torch.cuda.device_count() or 'no'} GPU"
    typer.echo(f"runs: {duration(low / jobs)} to {duration(high / jobs)}, {where}")


def size_of(which: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the notes of each split, and the codes of each task, that the paper states."""
    cells = published.figures()
    here = (cells["paper"] == "MARN") & (cells["dataset"] == DATASETS[which])
    cells = cells[here & (cells["table"] == "data set")]
    notes = {m.removesuffix("_notes"): int(n) for m, n in cells[["metric", "value"]].to_numpy()}
    codes = cells[cells["metric"] == "codes"].set_index("task")["value"]
    return notes, {task: int(codes[task]) for task in ("icd", "ccs")}


def seconds_of(parameters: dict[str, Any], sizes: dict[str, int]) -> tuple[float, float]:
    """Measure a training step, and return the least and most seconds of the run.

    Reading a note for its scores counts as a third of a step.
    """
    data = marn.Corpus.load(parameters["corpus"]).only(*parameters.get("tasks") or ["icd", "ccs"])
    reading = preset(parameters["preset"]) if parameters.get("preset") else None
    model_args, train_args = (reading.model, reading.training) if reading else ({}, {})
    network = build(parameters["model"], data, **model_args | parameters.get("model_args", {}))
    config = TrainConfig.of(network, **train_args | parameters.get("train_args", {}))
    step = TrainingStep(network, data["train"], config)
    batch = np.arange(config.batch_size if step.fabric.device.type == "cuda" else 2)
    taken = []
    for _ in range(2):  # the first makes the state of the optimiser
        began = time.perf_counter()
        float(step(batch, config.learning_rate))
        taken.append(time.perf_counter() - began)
    pace = min(taken) / len(batch) / min(SAMPLE, network.max_length)
    lengths = note_lengths(sum(sizes[split] for split in ("train", "dev", "test")))
    lengths = lengths.clip(max=network.max_length)
    train = lengths[: min(parameters.get("train_notes") or len(lengths), sizes["train"])]
    pool = {} if config.batching == "bucketed" else {"pool": 1}
    batches = training_order(train, config.batch_size, seed=0, epoch=1, **pool)
    steps = pace * sum(len(notes) * lengths[notes].max() for notes in batches)
    reading = pace * lengths[-sizes["dev"] :].sum() / 3
    tests = pace * lengths[-sizes["dev"] - sizes["test"] :].sum() / 3
    least, most = min(config.patience + 1, config.epochs), config.epochs
    return least * (steps + reading) + tests, most * (steps + reading) + tests


def write_tables(out: Path, runs: dict[str, set[str]]) -> list[Path]:
    """Write every table of the papers for which we have a score, and one of all runs."""
    found = []
    for name, keys in runs.items():
        with suppress(MarnError):  # none of its runs is finished
            found.append(results.collect(out / name, keys).assign(sweep=name))
    if not found:
        raise MarnError(f"no run in {out} is finished, so there is no table; repeat the command")
    everything = pd.concat(found, ignore_index=True)
    files = results.publish(everything, out / "tables" / "runs")
    for axis in ("model", "blocks"):  # not every sweep has both
        everything[axis] = everything.get(axis, pd.Series(dtype=str)).fillna("")
    shown = published.figures()
    for paper, number in TABLES:
        cells = shown[(shown["paper"] == paper) & (shown["table"] == number)]
        dataset, task = cells[["dataset", "task"]].iloc[0]
        own = rows_of(everything, paper, dataset, task, bool(cells["blocks"].any()))
        means = results.summary(own, ["model", "blocks"], FIGURES)
        laid = layouts.beside(means, paper, number, dataset=dataset, task=task)
        if (paper, number) not in LONGER:
            laid = laid[laid.filter(like=" published").notna().any(axis=1)]
        if not laid["seeds"].any():
            continue
        place = out / "tables" / f"{paper}_{number}".replace(" ", "_").lower()
        files += results.publish(laid, place, digits=1)
    for name, (of, by) in DRAWN.items():
        if (own := everything[everything["sweep"] == of]).size:
            means = results.summary(own, by, FIGURES)
            files += results.publish(means, out / "tables" / name)
    return files


def rows_of(table: pd.DataFrame, paper: str, dataset: str, task: str, blocks: bool) -> pd.DataFrame:
    """Choose the runs that a table of a paper is about, scored at a threshold of 0.5 as there."""
    which = next(key for key, name in DATASETS.items() if name == dataset)
    table = table[(table["rule"] == "0.5") & (table["task"] == task)]
    if blocks:
        return table[table["sweep"] == f"{'marn' if paper == 'MARN' else 'mt_ram'}_{which}"]
    systems = table["sweep"] == f"systems_{which}{'_ccs' if task == 'ccs' else ''}"
    ours = (table["sweep"] == f"marn_{which}") & (table["blocks"] == "+RAM+MTL+FL")
    ours &= paper == "MARN"
    before = (table["sweep"] == f"mt_ram_{which}") & (table["blocks"] == "+RAM+MTL")
    return table[systems | ours | (before & (table["model"] == "bigru_la"))]


if __name__ == "__main__":
    sys.exit(main())
