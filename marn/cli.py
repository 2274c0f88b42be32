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
from typing import Annotated, Any

import typer

import marn
from marn import command_line
from marn.errors import MarnError
from marn.train.config import TrainConfig

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
    test: Annotated[bool, typer.Option("--test", help="Score the test split at the end.")] = False,
) -> None:
    """Train a system with the settings of its paper, and write it to a run directory.

    Repeat the command after an interruption and training resumes after the last complete epoch,
    with other devices if you like. With several devices the command starts a process for each.
    With several nodes, give it on each node, with MASTER_ADDR, MASTER_PORT and NODE_RANK set, or
    start it by torchrun or srun. An option that you leave out has the value of the system's paper.
    """
    from marn import parallel
    from marn.corpus import Corpus
    from marn.evaluation import evaluate
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
    run = fit(network, data, config, run_dir=run_dir)
    if not test:
        return
    with parallel.collective() if config.processes > 1 else nullcontext():
        scores = evaluate(run.model, data, "test", batch_size=2 * config.batch_size)
        if parallel.rank() == 0:
            for task, figures in scores.items():
                for figure, score in figures.items():
                    sys.stdout.write(f"test {task} {figure} {score:.3f}\n")


command_line.add(app, train, TrainConfig, defaults=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 2 for an error, 130 for Ctrl-C."""
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    return command_line.run(
        app,
        "marn",
        arguments,
        kept="the last checkpoint is kept, if there is one",
        # What all processes meet alike is printed by the first.
        silent=() if rank == "0" else (MarnError, KeyboardInterrupt),
    )
