"""The command line: `python -m marn train NAME CORPUS RUN_DIR [--epochs 3 …] [--devices 2]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from marn import parallel
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.evaluation import evaluate
from marn.registry import available, build
from marn.train.config import TrainConfig
from marn.train.loop import fit, start

_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # of torchrun, srun and Fabric


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists what there is\n")


def _value(text: str) -> Any:
    """Read JSON, such as 8, true or {"icd": 1}, or None; anything else is text."""
    try:
        return None if text == "None" else json.loads(text)
    except json.JSONDecodeError:
        return text


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, _value(value)


def _parser() -> _Parser:
    parser = _Parser(prog="python -m marn", description="Train a system on a corpus.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        allow_abbrev=False,
        help="train a system, on one device or on several",
        description="Train a system by its paper's recipe, and write it into a run directory. The "
        "same command goes on after an interruption, also with other devices. On several devices "
        "it starts their processes; on several nodes it is given on each, with MASTER_ADDR, "
        "MASTER_PORT and NODE_RANK set, or by torchrun or srun.",
    )
    train.add_argument("name", metavar="NAME", help=f"the system: {', '.join(available())}")
    train.add_argument("corpus", metavar="CORPUS", help="folder of the corpus")
    train.add_argument("run_dir", metavar="RUN_DIR", help="folder of the run")
    train.add_argument(
        "--model",
        metavar="KEY=VALUE",
        type=_option,
        nargs="+",
        action="extend",
        default=[],
        help="options of the system, such as hidden_size=64 (values as in JSON, or text); its "
        "initial weights have the seed of the training unless seed=… is among them",
    )
    train.add_argument("--test", action="store_true", help="score the test split at the end")
    settings = train.add_argument_group(
        "settings", "of marn.TrainConfig, which explains them; by default the system's recipe"
    )
    kinds = get_type_hints(TrainConfig)
    for field in fields(TrainConfig):
        kind = kinds[field.name]
        choices = get_args(kind) if get_origin(kind) is Literal else None
        settings.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind if kind in (int, float, str) else str if choices else _value,
            choices=choices,
            metavar=None if choices else "VALUE",
            default=argparse.SUPPRESS,
        )
    return parser


def _train(args: argparse.Namespace) -> None:
    corpus = Corpus.load(args.corpus)
    changes = {f.name: getattr(args, f.name) for f in fields(TrainConfig) if f.name in args}
    seed = changes.get("seed", TrainConfig.seed)
    model = build(args.name, corpus, **{"seed": seed, **dict(args.model)})
    config = TrainConfig.of(model, **changes)
    if config.processes > 1:
        start(config, launch=True)
    run = fit(model, corpus, config, run_dir=args.run_dir)
    if not args.test:
        return
    with parallel.collective() if config.processes > 1 else nullcontext():
        scores = evaluate(run.model, corpus, "test", batch_size=2 * config.batch_size)
        if parallel.rank() == 0:
            _tell(scores)


def _tell(scores: Mapping[str, Mapping[str, float]]) -> None:
    for task, figures in scores.items():
        for name, value in figures.items():
            sys.stdout.write(f"test {task} {name} {value:.3f}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 2 for bad input, 130 for Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(arguments)
    ranks = [os.environ[name] for name in _RANKS if name in os.environ]
    first = ranks[:1] in ([], ["0"])
    try:
        _train(args)
    except MarnError as error:
        # What all processes meet alike is said once.
        if first or isinstance(error, parallel.RankError):
            sys.stderr.write(f"{parser.prog} {args.command}: {error}\n")
        return 2
    except KeyboardInterrupt:
        if first:
            sys.stderr.write("Interrupted; the last checkpoint is kept, if there is one.\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
