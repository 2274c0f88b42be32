"""What the experiments on systems, blocks and presets share: trainings listed as arguments.

A plan is one training: a system, options of `marn.build`, settings of `marn.TrainConfig`. The
result file holds a row for each plan that is done. Started again, an experiment keeps the rows
whose plan, corpus and seed are the same, goes on with a training that was interrupted, and does the
rest. Each row says which commit it comes from.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import marn
from marn import metrics
from marn.corpus import Corpus
from marn.progress import duration
from marn.saving import provenance, write_json

RULES: Final = ("0.5", "one", "per code")
"""Thresholds: fixed, one a task tuned on dev for micro-F1, one a code tuned on dev for its F1."""
Report = Callable[[str], None]
Finish = Callable[[list[dict[str, Any]]], dict[str, Any]]
"""What goes into a result, beside its rows, once all of them are there."""


@dataclass(frozen=True)
class Plan:
    """One training, as arguments."""

    name: str
    """What its row is called."""
    system: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `marn.build`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Of `marn.TrainConfig`, over the recipe of the system."""
    tasks: Sequence[str] = ("icd", "ccs")
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Columns of the row that are there to be read, as `{"blocks": "mtl+ram"}`."""

    def as_json(self) -> dict[str, Any]:
        """Write it down as it comes back from a file."""
        return json.loads(json.dumps(asdict(self)))


def train(plan: Plan, corpus: Corpus, seed: int, folder: Path) -> dict[str, Any]:
    """Train, and score the test notes by each of `RULES`."""
    mine = corpus.only(*plan.tasks)
    model = marn.build(plan.system, mine, seed=seed, **plan.options)
    config = marn.TrainConfig.of(model, seed=seed, device="cpu", **plan.training)
    run = marn.fit(model, mine, config, run_dir=folder)
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in ("seed", "device", "devices", "nodes")
    }
    return {
        "plan": plan.as_json(),
        "commit": provenance()["commit"],
        "parameters": model.count_parameters(embeddings=False),
        "training": settings,
        "epochs": len(run.history),
        "best_epoch": run.best_epoch,
        "kept_epoch": run.kept_epoch,
        "seconds": round(float(run.history["seconds"].sum()), 1),
        "scores": score(model, mine),
    }


Scores = dict[str, dict[str, dict[str, Any]]]


def score(model: marn.Coder, corpus: Corpus) -> Scores:
    """Score a model on the test notes; see `by_rule`."""
    dev, test = (marn.predict(model, corpus, split) for split in ("dev", "test"))
    return by_rule(
        corpus,
        {task: dev.probabilities(task) for task in model.tasks},
        {task: test.probabilities(task) for task in model.tasks},
    )


def shares(corpus: Corpus) -> Scores:
    """Score what knows no note: each code's share of the training notes, for every note."""
    share = {task: corpus["train"].targets(task).mean(axis=0) for task in corpus.tasks}
    dev, test = (
        {task: np.tile(one, (len(corpus[split]), 1)) for task, one in share.items()}
        for split in ("dev", "test")
    )
    return by_rule(corpus, dev, test)


def by_rule(
    corpus: Corpus, dev: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]
) -> Scores:
    """Score probabilities: {rule: {task: {figure: fraction}}}, and the thresholds that are one."""
    found: Scores = {rule: {} for rule in RULES}
    for task, known in dev.items():
        truth = corpus["dev"].targets(task)
        thresholds = (
            0.5,
            metrics.best_threshold(known, truth),
            metrics.best_thresholds(known, truth),
        )
        for rule, threshold in zip(RULES, thresholds, strict=True):
            figures = metrics.score(test[task], corpus["test"].targets(task), threshold=threshold)
            found[rule][task] = {key: rounded(value) for key, value in figures.items()}
            if isinstance(threshold, float):
                found[rule][task]["threshold"] = rounded(threshold)
    return found


def rounded(value: float) -> float | None:
    """Five digits after the point; nothing for what is undefined."""
    return round(float(value), 5) if np.isfinite(value) else None


def run(
    plans: Sequence[Plan],
    args: argparse.Namespace,
    report: Report,
    finish: Finish = lambda rows: {},
) -> None:
    """Do every plan that has no row yet, and write the result after each.

    Args:
        plans: with names of their own.
        args: the options of an `Experiment`.
        report: takes a line.
        finish: see `Finish`.

    Raises:
        MarnError: the corpus is missing, or a training fails.
    """
    torch.set_num_threads(1)
    corpus = Corpus.load(args.corpus).head(train=args.train, dev=args.dev, test=args.test)
    about = describe(args, corpus)
    old = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    same = all(old.get(key) == about[key] for key in ("corpus", "seed"))
    done = {row["plan"]["name"]: row for row in old["rows"]} if same else {}
    rows: list[dict[str, Any]] = []
    began, new = time.monotonic(), 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for place, plan in enumerate(plans):
        row = done.get(plan.name)
        if row is None or row["plan"] != plan.as_json():
            if args.new is not None and new == args.new:
                continue
            report(f"{place + 1} of {len(plans)}: {plan.name}")
            # A folder for a corpus: a run of the same name on other notes is another run.
            folder = args.runs / f"{corpus.hash[:8]}_{args.train}_{args.seed}" / slug(plan.name)
            row = train(plan, corpus, args.seed, folder)
            new += 1
            left = (time.monotonic() - began) / new * (len(plans) - place - 1)
            report(f"{plan.name} done; at most about {duration(left)} left")
        rows.append(row)
        seconds = round(sum(row["seconds"] for row in rows), 1)
        rest = finish(rows) if len(rows) == len(plans) else {}
        write_json(args.out, about | {"seconds": seconds, "rows": rows} | rest)
    report(f"{args.out.name} written: {len(rows)} rows, {new} of them new")


def slug(name: str) -> str:
    """Make a folder name of a plan's."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def describe(args: argparse.Namespace, corpus: Corpus) -> dict[str, Any]:
    """Say what was measured and how, without a path of this machine."""
    keys = ("train", "dev", "test", "length", "epochs", "seed")
    words = ["python", f"book/experiments/{args.script}", "--corpus", f"data/{corpus.name}"]
    words += ["--out", f"book/results/{args.out.name}"]
    words += [word for key in keys for word in (f"--{key}", str(getattr(args, key)))]
    return {
        "command": shlex.join(words),
        "seed": args.seed,
        "corpus": {
            "name": corpus.name,
            "hash": corpus.hash,
            "command": corpus.card["created"]["command"],
            "open": corpus.is_open,
            "notes": {split: len(corpus[split]) for split in corpus.splits},
            "codes": dict(corpus.tasks),
            "words of a training note, on average": round(float(corpus["train"].lengths.mean())),
            "longer than what is read": rounded(
                float((corpus["train"].lengths > args.length).mean())
            ),
        },
        "provenance": provenance(),
        "shares": shares(corpus),
    }


@dataclass(frozen=True)
class Experiment:
    """A list of trainings under a name: its command line, and what there is to run.

    `book/experiments/NAME.py` makes one and calls `main`; the result is `book/results/NAME.json`.
    """

    name: str
    text: str
    """One line for `--help`."""
    plans: Callable[[argparse.Namespace], Sequence[Plan]]
    """Lists the trainings, given the options."""
    defaults: Mapping[str, int]
    """Of the options `train`, `dev`, `test`, `length` and `epochs`."""
    finish: Finish = lambda rows: {}

    def parser(self) -> argparse.ArgumentParser:
        """Declare the options."""
        parser = argparse.ArgumentParser(description=self.text)
        parser.set_defaults(script=f"{self.name}.py")
        out, runs = Path(f"book/results/{self.name}.json"), Path(f"runs/{self.name}")
        parser.add_argument("--corpus", type=Path, default=Path("data/teaching"))
        parser.add_argument("--out", type=Path, default=out)
        parser.add_argument("--runs", type=Path, default=runs, help="run directories")
        parser.add_argument("--train", type=int, help="training notes that are used, at most")
        parser.add_argument("--dev", type=int, help="dev notes that are used, at most")
        parser.add_argument("--test", type=int, help="test notes that are scored, at most")
        parser.add_argument("--length", type=int, help="words of a note that are read")
        parser.add_argument("--epochs", type=int, help="passes over the training notes, at most")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--new", type=int, help="trainings to do now, at most; the rest another time"
        )
        parser.set_defaults(**self.defaults)
        return parser

    def main(self, line: Sequence[str] | None = None) -> int:
        """Run the command line; a wrong option or corpus is a line, not a traceback."""

        def report(text: str) -> None:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

        args = self.parser().parse_args(line)
        try:
            run(self.plans(args), args, report, self.finish)
        except marn.MarnError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        return 0
