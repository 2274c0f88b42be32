"""Train a model in a loop that stops early, keeps the best weights and can be resumed.

The loop does not depend on any system: a model defined in a notebook cell trains like any other.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from marn import metrics, parallel
from marn.corpus import Corpus, as_corpus
from marn.errors import MarnError
from marn.evaluation import (
    HoldsCoder,
    Predictions,
    as_coder,
    check_corpus,
    evaluate,
    fingerprint,
    predict,
)
from marn.models import Coder
from marn.progress import Progress, duration
from marn.readers.average import Average
from marn.readers.base import TextSystem
from marn.registry import build
from marn.saving import not_finite
from marn.train.checkpoint import RunFolder
from marn.train.config import TrainConfig
from marn.train.launch import start
from marn.train.memory import peak_memory
from marn.train.recipes import few_notes
from marn.train.start import copy_weights
from marn.train.step import TrainingStep, epoch_batches

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_EVERY = 50
"""Number of steps per line of `steps.csv`; reading the loss makes a GPU wait."""

_RANK_STRIDE = 2_654_435_761  # seeds far apart in 32 bits, all that torch's CPU generator uses


@dataclass(frozen=True)
class Run:
    """The result of `fit`."""

    model: Coder
    """The model that `fit` was given, with the kept weights, on the device that trained it."""
    history: pd.DataFrame
    """One row per epoch: `epoch` (from 1), `loss` (mean over training notes, nats), `seconds`, and
    every dev score as `dev/<task>/<figure>`."""
    best_epoch: int
    """The epoch, from 1, with the best dev score."""
    kept_epoch: int
    """The epoch whose weights were kept; it differs from the best only with `keep="last"`."""
    config: TrainConfig
    """The settings of the training."""
    folder: Path | None
    """Run directory; None if nothing was written."""


def fit(
    model: Coder | HoldsCoder,
    corpus: Corpus | str | Path,
    config: TrainConfig | Mapping[str, Any] | None = None,
    *,
    run_dir: str | Path | None = None,
    init_from: str | Path | None = None,
    quiet: bool = False,
) -> Run:
    """Train a model and leave it with the weights of its best dev score (see `TrainConfig.keep`).

    With a run directory, every epoch ends with a checkpoint. Repeat the call and training resumes
    after the last complete epoch, with the same result as without an interruption; a finished run
    is returned at once, or trained further if you ask for more epochs or patience. The directory is
    locked during training, and `marn.load_model` reads the best model so far. At the end it
    contains `model.safetensors` and `model.json`, `scores.json` (dev scores of the kept epoch),
    `run.json` (settings and provenance), `checkpoint.pt`, `history.csv` (a row per epoch) and
    `steps.csv` (a row every 50 steps: mean loss of the notes since the last row in nats, learning
    rate, notes per second, and peak memory so far in MB, of a CUDA device or otherwise of the
    process).

    With several devices (`TrainConfig.devices`, `nodes`), a process for each makes this call with
    the same arguments; `python -m marn train` or torchrun starts them. They share each batch;
    gradients, batch statistics, loss and scores are those of the whole batch. Only rank 0 writes
    and prints. A run may resume on a different number of devices.

    Args:
        model: from `marn.build`, or of your own class.
        corpus: a corpus with the splits train and dev and the model's tasks, or its folder.
        config: by default `TrainConfig.suited(model, notes)`: the settings of the system's paper,
            adapted to the number of notes. A mapping changes some settings of the paper.
        run_dir: folder to write to; by default nothing is written.
        init_from: run directory whose weights to start from; see `marn.train.start.copy_weights`.
        quiet: print nothing. Otherwise each epoch prints a line with the time left.

    Returns:
        The run; `run.model` is `model`.

    Raises:
        MarnError: the corpus does not match the model, the run directory belongs to another run or
            is in use, the loss is not finite, the disk or the memory of the device is full, the
            device is lost, or another process ended. The last checkpoint is kept.
        KeyboardInterrupt: you pressed Ctrl-C; the last checkpoint is kept.

    Example:
        >>> run = marn.fit(model, corpus, run_dir="runs/mine")  # doctest: +SKIP
        >>> run.history["loss"].iloc[-1]  # doctest: +SKIP
    """
    model, corpus = as_coder(model), as_corpus(corpus)
    config = _settings(model, corpus, config)
    digest = _prepare(model, corpus, init_from)
    path = None if run_dir is None else Path(run_dir)
    if isinstance(model, TextSystem):
        with RunFolder(path, model, corpus, config, digest) as folder:
            return _fit_reader(model, corpus, config, folder, quiet)
    _check_weights(config, model.tasks)
    fabric = start(config)
    with parallel.collective(), RunFolder(path, model, corpus, config, digest) as folder:
        return _fit(fabric, model, corpus, config, folder, quiet)


def _fit_reader(
    model: Any, corpus: Corpus, config: TrainConfig, folder: RunFolder, quiet: bool
) -> Run:
    """Fit a system that reads text, as a run of one epoch without a loss."""
    if config.processes > 1:
        raise MarnError(f"{model.name} learns on one device; leave out devices and nodes")
    state = folder.load()
    complete = state is not None and folder.finished
    began = time.monotonic()
    if state is None:
        if isinstance(model, Average):
            _train_members(model, corpus, quiet)
        else:
            model.stream = None if quiet else sys.stdout
            model.fit(corpus)  # may refuse the corpus, before anything is written
        folder.begin()
    else:
        model.load_state_dict(state["best"]["model"])
    dev = evaluate(model, corpus, "dev")
    row = {f"dev/{t}/{name}": x for t, figures in dev.items() for name, x in figures.items()}
    row = {"epoch": 1, "loss": float("nan"), "seconds": time.monotonic() - began, **row}
    history = [row] if state is None else state["history"]
    if not complete:
        best = {"epoch": 1, "value": 0.0, "model": model.state_dict()}
        folder.save({"history": history, "best": best})
        if folder.path is not None:
            scores = {"best_epoch": 1, "kept_epoch": 1, "dev": dev}
            folder.finish(_tuned(predict(model, corpus, "dev"), corpus, scores), scores)
    if not quiet:
        task, figures = next(iter(dev.items()))
        sys.stdout.write(
            f"{model.name} has learnt from {len(corpus['train'])} notes in "
            f"{duration(history[0]['seconds'])}  dev {task} {config.monitor} "
            f"{figures[config.monitor]:.3f}\n"
        )
    return Run(model, pd.DataFrame(history), 1, 1, config, folder.path)


def _train_members(whole: Average, corpus: Corpus, quiet: bool) -> None:
    """Train the members of an average on the corpus, with the recipe `few_notes`."""
    plans, seed = [], whole.seed
    for spec in whole.specs:
        recipe = few_notes(spec["name"], len(corpus["train"]))
        options = {**recipe.model, **spec["options"], "seed": seed, "tasks": whole.tasks}
        member = build(spec["name"], corpus, **options)
        plans.append((member, TrainConfig.of(member, **recipe.training, seed=seed)))
    for number, (member, config) in enumerate(plans, start=1):
        if not quiet:
            sys.stdout.write(f"member {number} of {len(plans)}: {member.name}\n")
        fit(member, corpus, config, quiet=quiet)
    members = [one if isinstance(one, TextSystem) else one.to("cpu") for one, _ in plans]
    whole.hold(members, corpus.vocabulary)


def _settings(
    model: Coder, corpus: Corpus, config: TrainConfig | Mapping[str, Any] | None
) -> TrainConfig:
    if isinstance(config, TrainConfig):
        return config
    if config or "train" not in corpus.splits:
        return TrainConfig.of(model, **(config or {}))
    return TrainConfig.suited(model, len(corpus["train"]))


def _check_weights(config: TrainConfig, tasks: Mapping[str, int]) -> None:
    if len(tasks) > 1 and (unknown := sorted({*config.task_weights} - {*tasks})):
        weights = json.dumps(dict.fromkeys(tasks, 1))
        raise MarnError(
            f"task_weights name unknown tasks {unknown}; the tasks are {sorted(tasks)}: give "
            f"their weights, such as --task-weights '{weights}'"
        )


def _prepare(model: Coder, corpus: Corpus, init_from: str | Path | None) -> str | None:
    """Refuse a corpus that does not match, and return the digest of the weights to start from."""
    missing = sorted({"train", "dev"} - {s for s in corpus.splits if len(corpus[s])})
    if missing:
        raise MarnError(f"corpus {corpus.name!r} has no notes in {missing}; training needs them")
    check_corpus(model, corpus)
    digest = None if init_from is None else copy_weights(model, corpus, init_from)
    codes = {task: corpus.codes[task] for task in model.tasks}
    model.fingerprint = fingerprint(corpus.vocabulary, codes)
    return digest


def _fit(
    fabric: Fabric,
    model: Coder,
    corpus: Corpus,
    config: TrainConfig,
    folder: RunFolder,
    quiet: bool,
) -> Run:
    state = folder.load()
    step = TrainingStep(model, corpus["train"], config, fabric)
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"epoch": 0, "value": float("-inf"), "model": {}}
    if state is not None:
        step.load_state_dict(state)
        history, best = state["history"], state["best"]
    resumed = len(history)
    steps = len(epoch_batches(corpus["train"], model, config, 1))
    out = None if quiet or parallel.rank() != 0 else sys.stdout
    progress = Progress(steps * config.epochs, stream=out, done=steps * resumed)
    if resumed:
        progress.line(f"{folder.path}: {resumed} epochs already done")
    score = f"dev/{next(iter(model.tasks))}/{config.monitor}"

    def ended() -> bool:
        return len(history) >= config.epochs or len(history) - best["epoch"] >= config.patience

    complete = ended() and folder.finished
    if not complete:
        folder.begin()
    while not ended():
        epoch, began = len(history) + 1, time.monotonic()
        loss = _train_epoch(step, epoch, [row[score] for row in history], folder, progress.step)
        row = {"epoch": epoch, "loss": loss, "seconds": 0.0, **_dev_scores(step, corpus)}
        row["seconds"] = time.monotonic() - began
        history.append(row)
        if row[score] > best["value"] or best["epoch"] == 0:
            weights = {key: x.detach().clone() for key, x in model.state_dict().items()}
            best = {"epoch": epoch, "value": row[score], "model": weights}
        folder.save({**step.state_dict(), "history": history, "best": best})
        progress.line(
            f"epoch {epoch:2d}/{config.epochs}  loss {loss:.4f}  "
            f"{score.replace('/', ' ')} {row[score]:.3f}"
            f"{' *' if best['epoch'] == epoch else '  '}  {duration(row['seconds'])}"
            + (f", at most {duration(progress.left())} left" if epoch < config.epochs else "")
        )

    # The released code tests the last weights in the last epoch, before it checks its patience.
    ran_out = len(history) == config.epochs
    kept = len(history) if config.keep == "last" and ran_out else best["epoch"]
    if kept == best["epoch"]:
        model.load_state_dict(best["model"])
    if not complete:
        scores: dict[str, Any] = {"best_epoch": best["epoch"], "kept_epoch": kept, "dev": {}}
        for name, value in history[kept - 1].items():
            if name.startswith("dev/"):
                _, task, figure = name.split("/", 2)
                scores["dev"].setdefault(task, {})[figure] = value
        _finish(step, corpus, folder, scores, progress)
    table = pd.DataFrame(history).astype({"epoch": int})
    return Run(model, table, best["epoch"], kept, config, folder.path)


def _finish(
    step: TrainingStep, corpus: Corpus, folder: RunFolder, scores: dict[str, Any], out: Progress
) -> None:
    """Tune the thresholds, write the model, and warn if it predicts nothing."""
    found = any(figures["micro_recall"] for figures in scores["dev"].values())
    if found and folder.path is None:
        return
    with step.fabric.autocast():
        dev = predict(step.model, corpus, "dev", batch_size=2 * step.config.batch_size)
    thresholds = _tuned(dev, corpus, scores)
    for task in step.model.tasks:
        if (top := dev.probabilities(task).max()) <= 0.5:
            out.line(
                f"warning: no dev note gets a code of task {task!r}, since the highest probability "
                f"is {top:.3f} and 0.5 assigns one; train for more epochs or with a higher "
                f"learning_rate, or assign above {thresholds[task]:.3f}, which is best on dev"
            )
    folder.finish(thresholds, scores)


def _tuned(dev: Predictions, corpus: Corpus, scores: dict[str, Any]) -> dict[str, float]:
    """Find the threshold of each task, and add the scores of rare and frequent codes with it."""
    thresholds, groups = {}, {}
    for task, targets in dev.targets.items():
        found = dev.probabilities(task)
        thresholds[task] = metrics.best_threshold(found, targets)
        frequency = corpus.frequency(task)
        groups[task] = metrics.by_frequency(found, targets, frequency, thresholds[task])
    scores["dev_by_frequency"] = groups
    return thresholds


def _train_epoch(
    step: TrainingStep,
    epoch: int,
    watched: list[float],
    folder: RunFolder,
    tick: Callable[[str], None],
) -> float:
    """Train for one epoch and return the mean loss over notes, in nats."""
    config, device = step.config, step.fabric.device
    batches = epoch_batches(step.train, step.model, config, epoch)
    epoch_loss, notes_seen, began = 0.0, 0, time.monotonic()  # the last two since the last row
    recent = torch.zeros((), dtype=torch.float64, device=device)  # this rank's sum over notes
    step.model.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # Dropout depends on seed, epoch and rank only, so a resumed run is the same run.
        own_seed = config.seed * 1_000_003 + epoch + parallel.rank() * _RANK_STRIDE
        torch.manual_seed(own_seed % 2**63)
        for number, notes in enumerate(batches, start=1):
            done = (epoch - 1) * len(batches) + number
            rate = config.rate(done, config.epochs * len(batches), watched)
            recent += step(notes, rate) * len(notes)
            notes_seen += len(notes)
            if number % LOG_EVERY == 0 or number == len(batches):
                loss, now = float(parallel.all_reduce(recent)), time.monotonic()
                if not np.isfinite(loss):
                    raise _diverged(f"the loss became {loss}", epoch, number, len(batches))
                speed = notes_seen / (now - began)
                folder.log(epoch, number, loss / notes_seen, rate, speed, peak_memory(device))
                epoch_loss, notes_seen, began = epoch_loss + loss, 0, now
                recent.zero_()
            tick(f"epoch {epoch}/{config.epochs}, step {number}/{len(batches)}")
    if name := not_finite(step.model.state_dict()):  # by the last step, or in statistics
        raise _diverged(f"the weight {name!r} became nan or infinite", epoch, number, len(batches))
    return epoch_loss / len(step.train)


def _diverged(what: str, epoch: int, step: int, steps: int) -> MarnError:
    return MarnError(
        f"{what} in epoch {epoch}, by step {step} of {steps}; choose a lower learning_rate or a "
        "smaller clip_norm (the last checkpoint is kept)"
    )


def _dev_scores(step: TrainingStep, corpus: Corpus) -> dict[str, float]:
    """Score the dev split: {"dev/<task>/<figure>": value}, the same on all ranks."""
    _, at, k = step.config.monitor.partition("_at_")
    ks = sorted({5, 8, 15, int(k)} if at else {5, 8, 15})
    with step.fabric.autocast():
        scores = evaluate(step.model, corpus, "dev", ks=ks, batch_size=2 * step.config.batch_size)
    scores = parallel.on_main_process(lambda: scores)
    return {f"dev/{t}/{name}": x for t, figures in scores.items() for name, x in figures.items()}
