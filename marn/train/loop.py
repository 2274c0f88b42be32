"""Training: a loop that stops early, keeps the best weights and can be resumed.

It knows no system by name: a model defined in a notebook cell trains like any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from marn import parallel
from marn.corpus import Corpus, Split
from marn.corpus.batches import POOL, Batch, Order, collate, training_order
from marn.errors import MarnError
from marn.evaluation import check_tasks, evaluate, tune_thresholds
from marn.models import Coder
from marn.nn.ram import TokenNorm
from marn.progress import Progress, duration, standard
from marn.train.checkpoint import RunFolder
from marn.train.config import TrainConfig
from marn.train.memory import MemorySaver, peak_memory, return_freed_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_EVERY = 50
"""Steps between two lines of `steps.csv`; reading the loss makes a GPU wait."""

_RANK_STRIDE = 2_654_435_761  # far apart in 32 bits, as torch's generator of the CPU reads no more


@dataclass(frozen=True)
class Run:
    """A finished training."""

    model: Coder
    """The model that was given, with the weights that were kept, on the device of its training."""
    history: pd.DataFrame
    """One row per epoch: `epoch` (from 1), `loss` (mean over training notes, nats), `seconds`, and
    every dev score as `dev/<task>/<figure>`."""
    best_epoch: int
    """The epoch, from 1, with the best dev score."""
    kept_epoch: int
    """The epoch whose weights were kept; differs from the best only with `keep="last"`."""
    config: TrainConfig
    folder: Path | None
    """Run directory; None if nothing was written."""


def start(config: TrainConfig, *, launch: bool = False) -> Fabric:
    """Start Lightning Fabric for these settings; see `marn.parallel.start`."""
    return parallel.start(
        config.device, config.devices, config.nodes, config.precision, launch=launch
    )


def fit(
    model: Coder,
    corpus: Corpus,
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    quiet: bool = False,
) -> Run:
    """Train a model, watch the dev split, and leave the model with its best weights (see `keep`).

    With a run directory every epoch ends in a checkpoint. Repeat the call and training resumes
    after the last complete epoch, with the same result as without an interruption; a finished run
    is returned at once. The directory then holds `model.safetensors` and `model.json`
    (`marn.load_model`), `scores.json` (dev scores of the epoch kept), `run.json` (settings and
    provenance), `checkpoint.pt`, `history.csv` (a row per epoch) and `steps.csv` (a row every 50
    steps: mean loss of the notes since the last row in nats, learning rate, notes per second, and
    the most memory taken so far in MB, of a CUDA device, else of the process).

    On several devices (`TrainConfig.devices`, `nodes`) each has a process that makes this call
    with the same arguments; `python -m marn train` starts them, or torchrun does. They share each
    batch; gradients, batch statistics, loss and scores are those of the whole batch. Only rank 0
    writes and prints. A run may resume on another number of devices.

    Args:
        model: from `marn.build`, or of your own class.
        corpus: has the splits train and dev and the model's tasks.
        config: by default `TrainConfig.of(model)`, the settings of the system's paper.
        run_dir: folder to write to; by default nothing is written.
        quiet: whether to print nothing. Otherwise each epoch prints a line, with the time left.

    Returns:
        The run; `run.model` is `model`.

    Raises:
        MarnError: the corpus does not fit the model, the run directory belongs to another run, the
            loss is not finite, the disk or the memory of the device is full, the device is lost, or
            another process ended. The last checkpoint is kept.
        KeyboardInterrupt: the last checkpoint is kept.

    Example:
        >>> run = marn.fit(model, corpus, run_dir="runs/mine")  # doctest: +SKIP
        >>> run.history["loss"].iloc[-1]  # doctest: +SKIP
    """
    config = config or TrainConfig.of(model)
    missing = sorted({"train", "dev"} - {s for s in corpus.splits if len(corpus[s])})
    if missing:
        raise MarnError(f"corpus {corpus.name!r} has no notes in {missing}, which training needs")
    check_tasks(model, corpus)
    fabric = start(config)
    with parallel.collective():
        folder = RunFolder(None if run_dir is None else Path(run_dir), model, corpus, config)
        return _fit(fabric, model, corpus, config, folder, quiet)


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
    steps = -(-len(corpus["train"]) // config.batch_size)
    out = standard(quiet or parallel.rank() != 0)
    progress = Progress(steps * config.epochs, stream=out, done=steps * resumed)
    if resumed:
        progress.line(f"{folder.path}: {resumed} epochs were done before")
    score = f"dev/{next(iter(model.tasks))}/{config.monitor}"

    while len(history) < config.epochs and len(history) - best["epoch"] < config.patience:
        epoch, began = len(history) + 1, time.monotonic()
        watched = [row[score] for row in history]
        loss = _train_epoch(step, epoch, watched, folder, progress.step)
        row = {"epoch": epoch, "loss": loss, "seconds": 0.0, **_dev_scores(step, corpus)}
        if score not in row:
            raise MarnError(f"monitor {config.monitor!r} is not a score; choose one of {[*row]}")
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

    # The released code tests the last weights if the epochs ran out before the patience did.
    ran_out = len(history) - best["epoch"] < config.patience
    kept = len(history) if config.keep == "last" and ran_out else best["epoch"]
    if kept == best["epoch"]:
        model.load_state_dict(best["model"])
    if folder.path is not None and (len(history) > resumed or not folder.finished):
        with fabric.autocast():
            thresholds = tune_thresholds(model, corpus, batch_size=2 * config.batch_size)
        dev = {t: _with_prefix(f"dev/{t}/", history[kept - 1]) for t in model.tasks}
        scores = {"best_epoch": best["epoch"], "kept_epoch": kept, "dev": dev}
        folder.finish(model, corpus, thresholds, scores)
    table = pd.DataFrame(history).astype({"epoch": int})
    return Run(model, table, best["epoch"], kept, replace(config), folder.path)


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
    total = torch.zeros((), dtype=torch.float64, device=device)  # this rank's sum over notes
    seen = logged_notes = 0
    logged_loss, logged_at = 0.0, time.monotonic()
    step.model.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # Dropout depends on seed, epoch and rank only, so a resumed run is the same run.
        torch.manual_seed(config.seed * 1_000_003 + epoch + parallel.rank() * _RANK_STRIDE)
        for number, notes in enumerate(batches, start=1):
            done = (epoch - 1) * len(batches) + number
            rate = config.rate(done, config.epochs * len(batches), watched)
            total += step(notes, rate) * len(notes)
            seen += len(notes)
            if number % LOG_EVERY == 0 or number == len(batches):
                loss, now = float(parallel.all_reduce(total.clone())), time.monotonic()
                if not np.isfinite(loss):
                    raise MarnError(
                        f"the loss became {loss} in epoch {epoch}, by step {number} of "
                        f"{len(batches)}; choose a lower learning_rate or a smaller clip_norm (the "
                        "last checkpoint is kept)"
                    )
                recent = seen - logged_notes
                mean, speed = (loss - logged_loss) / recent, recent / (now - logged_at)
                folder.log(epoch, number, mean, rate, speed, peak_memory(device))
                logged_loss, logged_notes, logged_at = loss, seen, now
            tick(f"epoch {epoch}/{config.epochs}, step {number}/{len(batches)}")
    return logged_loss / len(step.train)


def epoch_batches(train: Split, model: Coder, config: TrainConfig, epoch: int) -> Order:
    """Return the batches of an epoch, from 1, as places of notes in the split."""
    return training_order(
        train.lengths.clip(max=model.max_length),
        config.batch_size,
        seed=config.seed,
        epoch=epoch,
        pool=POOL if config.batching == "bucketed" else 1,
    )


def _dev_scores(step: TrainingStep, corpus: Corpus) -> dict[str, float]:
    """Score the dev split: {"dev/<task>/<figure>": value}, the same on all ranks."""
    with step.fabric.autocast():
        scores = evaluate(step.model, corpus, "dev", batch_size=2 * step.config.batch_size)
    scores = parallel.on_main_process(lambda: scores)
    return {f"dev/{t}/{name}": x for t, figures in scores.items() for name, x in figures.items()}


def _with_prefix(prefix: str, row: Mapping[str, float]) -> dict[str, float]:
    """Pick some columns of a row of the history, without their prefix."""
    return {k.removeprefix(prefix): x for k, x in row.items() if k.startswith(prefix)}


class TrainingStep:
    """One step of a training: forward, loss, backward, clip, update. Call it with a batch.

    Args:
        model: is moved to the device.
        train: the training notes.
        config: settings of the training.
        fabric: from `start`, by default one for these settings.

    Raises:
        MarnError: the device is unknown or missing, or cannot do the precision; or the model has
            batch statistics that several devices cannot share; or memory does not suffice.
    """

    def __init__(
        self, model: Coder, train: Split, config: TrainConfig, fabric: Fabric | None = None
    ) -> None:
        self.model, self.train, self.config = model, train, config
        self.fabric = start(config) if fabric is None else fabric
        if config.processes > 1:
            _refuse_batch_norm(model)
        if self.fabric.device.type == "cpu":
            return_freed_memory(model)
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self._memory = MemorySaver(model, config.accumulate)
        self._forward: Any = model
        if parallel.world_size() > 1:
            self.fabric.to_device(model)
            largest = np.argsort(-train.lengths, kind="stable")[: config.batch_size]
            own = largest[parallel.rank() :: parallel.world_size()]
            with self.fabric.autocast():
                self._memory.rehearse(lambda: self._gradients(own), len(own), self._size(own)[1])
        self._forward, self._optimizer = self.fabric.setup(model, self.optimizer)

    def __call__(self, notes: np.ndarray, learning_rate: float) -> Tensor:
        """Change the weights by the gradient of a batch.

        Args:
            notes: (B,) places in the split.
            learning_rate: of this step.

        Returns:
            Scalar: mean loss of the batch before the step, in nats; on several devices the share
            of this rank in it.

        Raises:
            MarnError: the memory of the device is full, and nothing helps.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._memory.run(lambda: self._gradients(notes), *self._size(notes))
        if self.config.clip_norm is not None:
            self.fabric.clip_gradients(
                self._forward,
                self._optimizer,
                max_norm=self.config.clip_norm,
                error_if_nonfinite=False,  # a loss that is not finite stops the epoch
            )
        self._optimizer.step()
        return loss

    def _gradients(self, notes: np.ndarray) -> Tensor:
        """Compute the gradients of a batch, part by part, and return this rank's loss.

        DDP averages the gradients of the ranks in the last part: a rank's loss is weighted by its
        share of the notes times the number of ranks, so that the mean is that of the batch.
        """
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.fabric.device)
        parts = np.array_split(np.arange(len(notes)), min(self._memory.parts, len(notes)))
        for part in parts:
            mine = part[part % parallel.world_size() == parallel.rank()]
            share = len(mine) / len(notes)
            batch = self._batch(notes[mine if share else part[:1]], notes[part])
            with self._no_sync(part is not parts[-1]), parallel.shadowing(not share):
                logits = self._forward(batch.tokens, batch.lengths)
                loss = self.config.loss_of({t: x.float() for t, x in logits.items()}, batch.targets)
                loss = (loss + self.model.penalty(batch.targets)) * share
                self.fabric.backward(loss * parallel.world_size())
            total += loss.detach()
        return total

    def _batch(self, notes: np.ndarray, part: np.ndarray) -> Batch:
        """Collate notes, padded like the whole part if padding takes part."""
        batch = collate(self.train, notes, self.model.tasks, self.model.max_length)
        if self.model.padding == "released":
            missing = self._size(part)[1] - batch.tokens.shape[1]
            batch = replace(batch, tokens=nn.functional.pad(batch.tokens, (0, missing)))
        return batch.to(self.fabric.device)

    def _size(self, notes: np.ndarray) -> tuple[int, int]:
        """Return how many notes a rank has of a batch, and the length of the longest."""
        longest = int(self.train.lengths[notes].clip(max=self.model.max_length).max())
        return -(-len(notes) // parallel.world_size()), longest

    def _no_sync(self, enabled: bool) -> AbstractContextManager[None]:
        if enabled and parallel.world_size() > 1:
            return self.fabric.no_backward_sync(self._forward)
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of weights, optimizer and fp16 scaling, for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])


def _refuse_batch_norm(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(
            module, TokenNorm
        ):
            raise MarnError(
                f"{name} is a {type(module).__name__}, whose statistics would be of one device "
                "only; choose marn.nn.ram.TokenNorm"
            )
