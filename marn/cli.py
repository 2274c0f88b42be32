"""The command line: `marn train`, `marn sweep`, `marn predict`, `marn evaluate`, `marn score`.

A command is a function of this module. What takes long to import is imported within it, so that
`--help` is there at once.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from pydantic import Field, NonNegativeInt

import marn
from marn import command_line
from marn.errors import MarnError
from marn.progress import Progress, counted, duration
from marn.settings import Count, Encoding, Location, Seed, check, settings
from marn.train.config import TrainConfig

if TYPE_CHECKING:
    from marn.corpus import Corpus
    from marn.prediction import CodedNote
    from marn.train.loop import Run

FEW_NOTES = 200
"""Fewer dev notes tune a threshold to chance."""

_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # of torchrun, srun and Fabric

# Settings of a paper that are kept or replaced together.
_RECIPE = {"clip_norm", "epochs", "learning_rate", "patience", "schedule", "warmup"}
_LENGTH = {"epochs", "patience"}

_OF_READERS = {"monitor", "seed"}  # all that matters to a system that learns at once
_Recipes = Literal["auto", "paper", "laptop", "few_notes"]

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the model.")]
_CorpusFolder = Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder of the corpus.")]
_SystemOptions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="An option of the system NAME, such as hidden_size=64; the value is JSON, or text. "
        "Repeat --model for several. seed=… is the seed of the initial weights; default: --seed.",
    ),
]
_Recipe = Annotated[
    str,
    typer.Option(
        metavar="|".join(get_args(_Recipes)),
        autocompletion=lambda: [*get_args(_Recipes)],
        help="Options and settings to start from: those of the system's paper; laptop, for one "
        "processor core; or few_notes, for a few hundred notes (words and titles of codes, see "
        "chapter 7). auto takes few_notes for up to 1,000 notes if the system supports it and "
        "you give no option of the system, learning rate, schedule, clipping or --init-from; "
        "otherwise paper.",
    ),
]
_InitFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Start from the weights of another run with the same system, options and words; "
        "if its codes differ, the head of the task starts afresh.",
    ),
]

app = command_line.new(
    "Train, score and use MARN and the systems it is compared with.", completion=True
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
        typer.Argument(
            metavar="NAME",
            help="The system, such as marn, bigru_la or average; chapter 10 lists them.",
            autocompletion=lambda: marn.available(),
        ),
    ],
    corpus: _CorpusFolder,
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder to write the run to.")],
    model: _SystemOptions = None,
    recipe: _Recipe = "auto",
    init_from: _InitFrom = None,
    test: Annotated[
        bool,
        typer.Option(
            "--test", help="Score the test split at the end, at threshold 0.5 and as tuned on dev."
        ),
    ] = False,
) -> None:
    """Train a system and write it to a run directory.

    Repeat the command after an interruption and training resumes after the last complete epoch, on
    other devices if you like. Repeat it with more --epochs or --patience to train further. With
    several devices the command starts a process for each. With several nodes, run it on each node
    with MASTER_ADDR, MASTER_PORT and NODE_RANK set, or start it with torchrun or srun.

    An option that you leave out takes its value from the recipe; those of recipe paper for MARN are
    in brackets. They give too few steps for a small corpus: if an epoch has fewer than 250 steps
    and you set neither the learning rate nor the length of training, it takes 1,000 steps at a
    suitable rate.
    """
    from marn import parallel
    from marn.corpus import Corpus
    from marn.registry import available, build, check_options, system
    from marn.train.launch import start
    from marn.train.loop import fit
    from marn.train.recipes import suits

    check("recipe", _Recipes, recipe, "auto")
    TrainConfig.of(system(name), **given)  # refuses what is wrong before the corpus is read
    idle = [f"--{key.replace('_', '-')}" for key in given if key not in _OF_READERS]
    if idle and name in available(text=True):
        raise MarnError(f"{name} takes no training settings; leave out {', '.join(idle)}")
    options = command_line.pairs("--model", model or [])
    check_options(name, {key: options[key] for key in options if key != "seed"})
    data = Corpus.load(corpus)
    notes = len(data["train"])
    chosen = {*options} - {"seed", "vectors"} or (_RECIPE - _LENGTH) & {*given} or init_from
    if is_few := recipe == "auto" and not chosen and suits(name, notes):
        recipe = "few_notes"
    options, config = _completed(name, notes, recipe, options, given)
    network = build(name, data, **{"seed": config.seed, **options})
    if config.processes > 1:
        start(config, launch=True)
    if is_few and parallel.rank() == 0:
        sys.stdout.write(
            f"{notes} training notes, so recipe few_notes, with words and titles of the codes; "
            "give --recipe paper for the settings of the paper\n"
        )
    run = fit(network, data, config, run_dir=run_dir, init_from=init_from)
    if test:
        _print_test_scores(run, data, run_dir)
    with parallel.collective():
        if parallel.rank() == 0:
            _print_next(run_dir, corpus)


def _completed(
    name: str, notes: int, recipe: str, options: dict[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], TrainConfig]:
    """Complete what was given by a recipe: options of the system, and settings of the training."""
    from marn.registry import system
    from marn.train.recipes import RECIPES

    if recipe in RECIPES:
        start_from = RECIPES[recipe](name, notes)
        config = TrainConfig.of(system(name), **{**start_from.training, **given})
        return {**start_from.model, **options}, config
    if _RECIPE & {*given}:
        return options, TrainConfig.of(system(name), **given)
    return options, TrainConfig.suited(system(name), notes, **given)


def _print_next(run_dir: Path, corpus: Path) -> None:
    """Say where the model is, and what to do with it."""
    run, data = shlex.quote(str(run_dir)), shlex.quote(str(corpus))
    table = shlex.quote(str(run_dir / "new_codes.csv"))
    sys.stdout.write(
        f"the model is in {run_dir}; score it, or code new notes:\n"
        f"  marn evaluate {run} {data}\n"
        f"  marn predict {run} new_notes.csv --out {table}\n"
    )


def _print_test_scores(run: Run, corpus: Corpus, run_dir: Path) -> None:
    from marn import metrics, parallel
    from marn.evaluation import predict
    from marn.saving import read_card

    config, model = run.config, run.model
    with parallel.collective():
        found = predict(model, corpus, "test", batch_size=2 * config.batch_size)
        if parallel.rank() != 0:
            return
    thresholds = read_card(run_dir)["thresholds"]
    dev = len(corpus["dev"])
    few = ", which are few, so that they may not suit other notes" if dev < FEW_NOTES else ""
    for task in model.tasks:
        given = found.probabilities(task), found.targets[task]
        for figure, score in _informative(metrics.score(*given), model.tasks[task]):
            sys.stdout.write(f"test {task} {figure} {score:.3f}\n")
        for figure, score in metrics.score(*given, threshold=thresholds[task]).items():
            if "_f1" in figure:
                sys.stdout.write(f"test {task} {figure}_tuned {score:.3f}\n")
    tuned = ", ".join(f"{task} {thresholds[task]:.3f}" for task in model.tasks)
    sys.stdout.write(f"thresholds tuned on {dev} dev notes{few}: {tuned}\n")


def _informative(scores: Mapping[str, float], codes: int) -> Iterator[tuple[str, float]]:
    """Yield the scores but for those at k where k takes in all the codes, and so says nothing."""
    for figure, value in scores.items():
        k = figure.partition("_at_")[2]
        if not k or int(k) < codes:
            yield figure, value


command_line.add(app, train, TrainConfig, default="MARN")


@settings
class SweepConfig:
    """Options of `marn sweep`."""

    out: Location | None = None
    """Folder of the runs; by default runs/ followed by the name of the experiment."""
    jobs: Count = 1
    """Number of runs at a time on this machine."""
    address: str | None = None
    """Use the workers of this Dask scheduler, such as tcp://host:8786."""
    dry_run: bool = False
    """List the runs and the time that they will take, without running any."""
    set: tuple[str, ...] = ()
    """KEY=VALUE: replace what the file says: a parameter of every run (corpus=../../data/mine), the
    values of an axis, or the seeds (seeds=[0,1]). Repeat the option for several."""
    table: Location | None = None
    """File to write the table of results to, as CSV, JSON, Markdown, HTML and LaTeX; the scores of
    each code and the curves go beside it, to TABLE_codes.csv and TABLE_curves.csv."""


def sweep(
    given: dict[str, Any],
    experiment: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT", help="YAML file, as in book/experiments.")
    ],
) -> None:
    """Run a notebook over a grid of parameters and seeds.

    Repeat the command after an interruption: finished runs are kept and the others resumed.
    """
    from marn.experiments import results
    from marn.experiments.sweep import sweep

    options = vars(SweepConfig(**given))
    table, out = options.pop("table"), options.pop("out")
    folder = out or Path("runs") / experiment.stem
    options["changes"] = command_line.pairs("--set", options.pop("set"))
    if table is not None:
        results.check_place(table)
    runs = sweep(experiment, folder, **options)
    if table is not None and not options["dry_run"]:
        keys = {run.key for run in runs}
        results.publish(results.collect(folder, keys), table)
        for name, part in (("codes", results.per_code), ("curves", results.curves)):
            part(folder, keys).to_csv(f"{table}_{name}.csv", index=False)


@settings
class PredictConfig:
    """Options of `marn predict`."""

    out: Location | None = None
    """File to write: a table (.csv), a JSON object per note (.jsonl) or a page (.html); by default
    the table goes to standard output."""
    explain: (
        Literal["attention_gradients", "gradients", "attention", "occlusion", "none"] | None
    ) = None
    """How to find the words that carried a code (see marn.attribution); by default the best method
    for the model. "none" is many times faster."""
    top: NonNegativeInt = 0
    """List at least this many codes per note; those below the threshold have assigned=0."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Probability above which a code is assigned; by default the model's threshold."""
    task: str | None = None
    """Codes to predict: "icd" or "ccs"; by default the model's first task."""
    split: str | None = None
    """Split of a corpus to code; by default all its notes."""
    text_column: str | None = None
    """Column of the text; by default text, or a similar name."""
    id_column: str | None = None
    """Column of the id; by default note_id, or a similar name. Without one, rows are numbered."""
    encoding: Encoding | None = None
    """Encoding of the notes, such as cp850; by default UTF-8, UTF-16, UTF-32 or Windows-1252,
    whichever fits."""
    show_credentialed_text: bool = False
    """Write credentialed text even to a file that git does not ignore."""


def predict(
    given: dict[str, Any],
    run: _Run,
    notes: Annotated[
        str,
        typer.Argument(
            metavar="NOTES",
            help="A text file, a folder of texts (.txt, at any depth), a table with a column text "
            "(CSV, JSONL, JSON, Parquet or Feather), a corpus, or - (standard input).",
        ),
    ],
) -> None:
    """Predict the codes of notes, with probabilities and words.

    The table has a row per code: title, probability, category and the words that carried it. Memory
    does not grow with the number of notes. A file is written completely or not at all.
    """
    from marn import notes as reading
    from marn import privacy
    from marn.prediction import FORMATS, write_coded
    from marn.saving import load_model, replace

    config = PredictConfig(**given)
    out, shown = config.out, config.show_credentialed_text
    kind = ".csv" if out is None else out.suffix.lower()
    if kind not in FORMATS:
        raise MarnError(f"out must end in {', '.join(FORMATS)}, but got {out}; choose one of them")
    if out is not None and out.is_dir():
        raise MarnError(f"out {out} is a folder; give the name of a file")
    if out is not None and out.exists() and os.path.exists(notes) and out.samefile(notes):
        raise MarnError(f"out {out} is the file of the notes; give another name")
    saved = load_model(run)
    privacy.check_may_write(out, saved.is_open and reading.is_open(notes), shown)
    columns = {key: getattr(config, key) for key in ("text_column", "id_column")}
    texts = reading.read_notes(notes, **columns, split=config.split, encoding=config.encoding)
    texts = itertools.chain([next(texts)], texts)  # what is wrong shows before anything is written
    options = {key: getattr(config, key) for key in ("task", "top", "threshold", "explain")}
    coded = _reported(saved.code(texts, **options, to_file=True))
    if out is None:
        write_coded(coded, sys.stdout, kind)
        return

    def write(aside: Path) -> None:
        with aside.open("w", encoding="utf-8", newline="") as file:
            write_coded(coded, file, kind, title=f"Codes of {Path(notes).name}")

    replace(out, write)


def _reported(coded: Iterable[CodedNote]) -> Iterator[CodedNote]:
    """Pass notes on; show progress, and at the end how many there were and what was remarked."""
    from marn.prediction import REMARKS

    remarks: Counter[str] = Counter()
    notes, assigned, began = 0, 0, time.monotonic()
    progress = Progress(None, stream=sys.stderr, unit="note")
    for note in coded:
        notes += 1
        assigned += sum(code.assigned for code in note.codes)
        # the numbers differ from note to note
        each = re.sub(r"\d[\d,]*", "…", note.remark).split(REMARKS)
        remarks.update(filter(None, each))
        progress.step("coding")
        yield note
    progress.close()
    took = duration(time.monotonic() - began)
    progress.line(f"{counted(notes, 'note')}, {counted(assigned, 'code')} assigned, {took}")
    for remark, count in remarks.most_common():
        progress.line(f"  {counted(count, 'note')}: {remark}")


@settings
class EvaluateConfig:
    """Options of `marn evaluate`."""

    split: str = "test"
    """Split to score."""
    batch_size: Count = 32
    """Number of notes at a time; affects only speed and memory."""


def evaluate(given: dict[str, Any], run: _Run, corpus: _CorpusFolder) -> None:
    """Score a model on a split of a corpus.

    The corpus must have the words and codes that the model was trained on. Scores are printed at
    the thresholds of the model and at 0.5, as in the papers; precision and recall at k only for k
    below the number of codes. The run is not changed.
    """
    from marn.corpus import Corpus
    from marn.evaluation import evaluate
    from marn.saving import load_model

    config, data = EvaluateConfig(**given), Corpus.load(corpus)
    saved = load_model(run, data)
    data = data.only(*saved.model.tasks)
    columns = [
        evaluate(saved.model, data, **vars(config), threshold=threshold)
        for threshold in (saved.thresholds, 0.5)
    ]
    for task in saved.model.tasks:
        threshold = saved.thresholds[task]
        shown = f"{threshold:.3f}" if isinstance(threshold, float) else "own"
        typer.echo(f"{f'{config.split} {task}':32s} {f'threshold {shown}':>16s} {'0.5':>8s}")
        for figure, value in _informative(columns[0][task], saved.model.tasks[task]):
            typer.echo(f"  {figure:30s} {value:16.3f} {columns[1][task][figure]:8.3f}")


@settings
class ScoreConfig:
    """Options of `marn score`."""

    split: str = "test"
    """Split of the corpus that the predictions are for."""
    task: str | None = None
    """Task that the predictions are for: "icd" or "ccs"; by default the corpus's first task."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability above which a code counts as assigned, unless the file says which are."""
    resamples: Count = 1000
    """Number of random samples of the notes for intervals and tests."""
    seed: Seed = 0
    """Seed of the random samples."""


def score(
    given: dict[str, Any],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="PREDICTIONS... CORPUS", help="Files, then the folder of a corpus."),
    ],
) -> None:
    """Score predictions of any system, and compare several files.

    A file is the output of marn predict (.csv, .jsonl); a long table with note_id, code and
    optionally probability; a wide table with a column per code (CSV or Parquet); or CAML's
    preds_*.psv. Notes and codes are matched by name. Intervals are 95 % bootstrap intervals over
    notes; two files are compared by paired permutation tests.
    """
    from marn.corpus import Corpus
    from marn.scoring import compare, read_predictions, report

    config = ScoreConfig(**given)
    if len(files) < 2:
        raise MarnError(
            "score needs one or more files of predictions and a corpus; give the corpus last"
        )
    *paths, folder = files
    corpus = Corpus.load(folder)
    task = config.task or next(iter(corpus.tasks))
    found = [read_predictions(path, corpus, config.split, task, config.threshold) for path in paths]
    drawn = config.resamples, config.seed
    for line in itertools.chain(*(report(one, *drawn) for one in found), compare(found, *drawn)):
        typer.echo(line)


for _command, _settings in (
    (sweep, SweepConfig),
    (predict, PredictConfig),
    (evaluate, EvaluateConfig),
    (score, ScoreConfig),
):
    command_line.add(app, _command, _settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 2 for an error, 130 for Ctrl-C."""
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    resumes = (
        "; a network resumes after its last complete epoch" if arguments[:1] == ["train"] else ""
    )
    return command_line.run(
        app,
        "marn",
        arguments,
        kept=f"repeat the command{resumes}",
        # What all processes meet alike is printed by the first.
        silent=() if rank == "0" else (MarnError, KeyboardInterrupt),
    )
