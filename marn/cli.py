"""The command line: `marn train NAME CORPUS RUN_DIR [--epochs 3 …] [--devices 2]`.

A command is a function of this module. What takes long to import is imported within it, so that
`--help` is there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import marn
from marn import command_line
from marn.errors import MarnError
from marn.train.config import TrainConfig

if TYPE_CHECKING:
    from marn.corpus import Corpus
    from marn.train.loop import Run

FEW_NOTES = 200
"""Fewer dev notes tune a threshold to chance."""

_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # of torchrun, srun and Fabric

app = command_line.new(
    "MARN and the systems it is compared with: train and score them.", completion=True
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"marn {marn.__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None: ...


def train(
    given: dict[str, Any],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The system.", autocompletion=lambda: marn.available()),
    ],
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder of the corpus.")],
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of the run.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="An option of the system, such as hidden_size=64; the value is JSON, or text. "
            "Repeat it for several. seed=… is the seed of the initial weights; default: --seed.",
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Start from the weights of another run of the same system, options and words; "
            "where its codes differ, the head of the task begins anew.",
        ),
    ] = None,
    test: Annotated[
        bool,
        typer.Option(
            "--test", help="Score the test split at the end, at threshold 0.5 and as tuned on dev."
        ),
    ] = False,
) -> None:
    """Train a system with the settings of its paper, and write it to a run directory.

    Repeat the command after an interruption and training resumes after the last complete epoch,
    with other devices if you like; with more --epochs or --patience it goes on. With several
    devices the command starts a process for each. With several nodes, give it on each node, with
    MASTER_ADDR, MASTER_PORT and NODE_RANK set, or start it by torchrun or srun. An option that you
    leave out has the value of the system's paper.
    """
    from marn.corpus import Corpus
    from marn.registry import build, system
    from marn.train.launch import start
    from marn.train.loop import fit

    config = TrainConfig.of(system(name), **given)
    options: dict[str, Any] = {}
    for text in model or []:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise MarnError(f"--model must be KEY=VALUE, but got {text!r}; try hidden_size=64")
        options[key] = command_line.json_or_text(value)
    data = Corpus.load(corpus)
    network = build(name, data, **{"seed": config.seed, **options})
    if config.processes > 1:
        start(config, launch=True)
    run = fit(network, data, config, run_dir=run_dir, init_from=init_from)
    if test:
        _print_test_scores(run, data, run_dir)


def _print_test_scores(run: Run, corpus: Corpus, run_dir: Path) -> None:
    from marn import metrics, parallel
    from marn.evaluation import predict
    from marn.saving import read_card

    config, model = run.config, run.model
    with parallel.collective() if config.processes > 1 else nullcontext():
        found = predict(model, corpus, "test", batch_size=2 * config.batch_size)
        if parallel.rank() != 0:
            return
    thresholds = read_card(run_dir)["thresholds"]
    dev = len(corpus["dev"])
    few = ", which are few, so that they may not suit other notes" if dev < FEW_NOTES else ""
    for task in model.tasks:
        given = found.probabilities(task), found.targets[task]
        for figure, score in metrics.score(*given).items():
            sys.stdout.write(f"test {task} {figure} {score:.3f}\n")
        for figure, score in metrics.score(*given, threshold=thresholds[task]).items():
            if "_f1" in figure:
                sys.stdout.write(f"test {task} {figure}_tuned {score:.3f}\n")
    tuned = ", ".join(f"{task} {thresholds[task]:.3f}" for task in model.tasks)
    sys.stdout.write(f"thresholds tuned on {dev} dev notes{few}: {tuned}\n")


command_line.add(app, train, TrainConfig, defaults=False)


@app.command()
def sweep(
    experiment: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT", help="Its YAML file, as in book/experiments.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder of the runs.  [default: runs/ and its name]"),
    ] = None,
    jobs: Annotated[
        int, typer.Option(metavar="INTEGER", min=1, help="Runs at a time, on this machine.")
    ] = 1,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Use the workers of this Dask scheduler, as tcp://host:8786."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and their time, and run none.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write the table of results, as CSV, here."),
    ] = None,
) -> None:
    """Run an experiment: a notebook over a grid of parameters and seeds.

    Repeat the command after an interruption: what is finished stays, the rest is taken up.
    """
    from marn.experiments import results
    from marn.experiments.sweep import sweep

    folder = out or Path("runs") / experiment.stem
    sweep(experiment, folder, jobs=jobs, address=address, dry_run=dry_run)
    if table is not None and not dry_run:
        results.publish(results.collect(folder), table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 2 for an error, 130 for Ctrl-C."""
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    return command_line.run(
        app,
        "marn",
        arguments,
        kept="repeat the command to resume after the last complete epoch",
        # What all processes meet alike is printed by the first.
        silent=() if rank == "0" else (MarnError, KeyboardInterrupt),
    )
