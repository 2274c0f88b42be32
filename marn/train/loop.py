"""Training: one readable loop that stops early, keeps the best weights and can be resumed.

Knows no system by name: a model that was defined in a notebook cell trains like any other.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from marn import parallel
from marn.corpus import Corpus, Split
from marn.corpus.batches import POOL, Order, collate, training_order
from marn.errors import MarnError
from marn.evaluation import evaluate, tune_thresholds
from marn.models import Coder
from marn.nn.ram import TokenNorm
from marn.progress import Progress, duration, standard
from marn.saving import provenance, save_model, write_json
from marn.saving import replace as replace_file
from marn.train.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT, SETTINGS, SCORES = "checkpoint.pt", "run.json", "scores.json"
HISTORY, STEPS = "history.csv", "steps.csv"

_WHERE = ("device", "devices", "nodes")  # settings that do not make another run
_NODES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")  # what Fabric reads of a node
_PATIENCE = timedelta(minutes=10)  # that a process waits for another one; NCCL's own default
_MANY_SCORES = 1 << 24  # of a note: 4,000 words by 88 codes are a fiftieth, by 9,216 twice as many
_MALLOPT = {-3: 4 << 20, -1: 64 << 20}  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, in bytes

_LOG_STEPS = 50  # steps between looks at the loss: reading it makes a GPU wait
_PRECISIONS: Any = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}  # Fabric's names


@dataclass(frozen=True)
class Run:
    """One training that ended: by its last epoch or by patience."""

    model: Coder
    """The model that was given, with the weights that were kept, on the device of its training."""
    history: pd.DataFrame
    """One row an epoch: `epoch` (from 1), `loss` (mean over training notes, nats), `seconds`, and
    every dev score as `dev/<task>/<figure>`."""
    best_epoch: int
    """The epoch, from 1, with the best dev score."""
    kept_epoch: int
    """The epoch whose weights were kept; another one than the best only with `keep="last"`."""
    config: TrainConfig
    folder: Path | None
    """Run directory; None where nothing was written."""


def _settings(model: Coder, corpus: Corpus, config: TrainConfig) -> dict[str, Any]:
    """What makes two runs the same run."""
    return {
        "model": {"name": model.name, "options": model.options, "tasks": model.tasks},
        "corpus": {
            "name": corpus.name,
            "hash": corpus.hash,
            "notes": {split: len(corpus[split]) for split in corpus.splits},
        },
        "training": {key: value for key, value in asdict(config).items() if key not in _WHERE},
    }


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{path} was {old!r}, now {new!r}"]


def _claim(folder: Path, settings: dict[str, Any], text: str) -> None:
    """Make a run directory ours, or refuse one that belongs to another run."""
    if folder.exists() and not folder.is_dir():
        raise MarnError(f"run_dir {folder} is a file; choose a folder")
    path = folder / SETTINGS
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))["settings"]
        changed = _differences(old, json.loads(json.dumps(settings)))
        if changed:
            raise MarnError(
                f"run_dir {folder} holds another run ({'; '.join(changed[:4])}); "
                "choose another run_dir, or delete it"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MarnError(f"run_dir {folder} cannot be made ({error.strerror})") from error
    # Whether the corpus is open is what `marn.privacy` asks of a run.
    write_json(path, {"text": text, "settings": settings, "provenance": provenance()})


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MarnError(
            f"device must be 'auto' or a torch device such as 'cpu' or 'cuda:0', but got {name!r}"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MarnError(
            f"device {name!r} was asked for, but torch finds no CUDA device; use 'auto'"
        )
    return device


def _where(device: torch.device, config: TrainConfig) -> dict[str, Any]:
    """Choose Fabric's strategy and devices for one or several processes."""
    if config.processes == 1:
        if "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise MarnError(
                f"{os.environ['WORLD_SIZE']} processes were started, but the training is for one; "
                "set devices and nodes to what was started"
            )
        own = [device.index or 0] if device.type == "cuda" else 1
        return {"accelerator": device.type, "devices": own}
    if device.index is not None or device.type not in ("cpu", "cuda"):
        raise MarnError(
            f"device {config.device!r} is one device, but {config.processes} are to train; "
            "take 'auto', 'cuda' or 'cpu'"
        )
    if device.type == "cuda" and torch.cuda.device_count() < config.devices:
        raise MarnError(
            f"devices={config.devices} were asked for, but this machine has "
            f"{torch.cuda.device_count()} CUDA devices; take as many, or device='cpu'"
        )
    from lightning_fabric.strategies import DDPStrategy

    return {
        "accelerator": device.type,
        "devices": config.devices,
        "num_nodes": config.nodes,
        "strategy": DDPStrategy(timeout=_PATIENCE),
    }


def start(config: TrainConfig, *, launch: bool = False) -> Fabric:
    """Start the engine, which knows about processes, devices and precision.

    Args:
        config: the settings.
        launch: whether to start the further processes of this node, each of which runs the command
            of this one again, from its beginning. Otherwise they have to be there.

    Raises:
        MarnError: a device is unknown or not there, or cannot do the precision; or there are not
            as many processes as devices.
    """
    from lightning_fabric import Fabric  # takes two seconds, which only training should

    device = _device(config.device)
    if config.precision == "fp16" and device.type != "cuda":
        raise MarnError("precision 'fp16' needs a CUDA device; take 'bf16' or 'fp32'")
    where = _where(device, config)
    precision = _PRECISIONS[config.precision]
    if config.processes == 1:
        return Fabric(precision=precision, **where)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    needed = (
        f"training on {config.processes} devices takes a process for each: give the command "
        f"python -m marn train … --devices {config.devices}, or start your script by torchrun"
    )
    if hasattr(sys, "ps1"):
        raise MarnError(f"{needed}; a notebook is one process")
    try:
        fabric = Fabric(precision=precision, **where)
        started = where["strategy"].cluster_environment.creates_processes_externally
        missing = [name for name in _NODES if name not in os.environ]
        if config.nodes > 1 and not started and missing:
            raise MarnError(
                f"training on {config.nodes} nodes needs {', '.join(missing)} in the environment "
                "of each (address and free port of the first node, the node's number from 0), or "
                "a start by torchrun or srun"
            )
        if not started and not launch:
            raise MarnError(needed)
        fabric.launch()
    except MarnError:
        raise
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise MarnError(f"the {config.processes} processes did not start ({said})") from error
    return fabric


def _column(task: str, figure: str) -> str:
    """Name the column of a dev score in the history."""
    return f"dev/{task}/{figure}"


def _scores(row: dict[str, float], task: str) -> dict[str, float]:
    """Pick the dev scores of a task out of a row of the history."""
    start = _column(task, "")
    return {name.removeprefix(start): x for name, x in row.items() if name.startswith(start)}


def peak_memory(device: torch.device) -> float:
    """Most memory so far, in MB: of a CUDA device, else of the process (nan on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return float("nan")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _has_many_scores(model: Coder) -> bool:
    return model.max_length * sum(model.tasks.values()) > _MANY_SCORES


def _return_memory() -> None:
    """Let the C library give freed arrays back to the system, for as long as the process lives.

    By default glibc keeps what was freed in pieces that the next array may not fit into. With 8,921
    codes and notes of 4,000 words a step then peaks a quarter higher (`benchmarks.step`); with 50
    codes giving memory back costs a tenth of the time. Whoever sets glibc's own variables
    `MALLOC_…_` keeps that choice.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # not in musl
        for option, size in _MALLOPT.items():
            library.mallopt(option, size)


class _Log:
    """Appends a line to `steps.csv` every so often; a run that is killed keeps its lines.

    Args:
        folder: run directory; None writes nothing.
        epochs: that are done; lines of later ones are of a run that was killed, and are dropped.
    """

    columns = ("epoch", "step", "loss", "learning_rate", "notes_per_second", "peak_memory_mb")

    def __init__(self, folder: Path | None, epochs: int) -> None:
        self.path = None if folder is None else folder / STEPS
        if self.path is not None:
            lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
            done = [
                line
                for line in lines[1:]
                if line.endswith("\n") and int(line.split(",")[0]) <= epochs
            ]
            text = ",".join(self.columns) + "\n" + "".join(done)
            replace_file(self.path, lambda aside: aside.write_text(text))

    def line(self, *values: float) -> None:
        """Append the values of the columns."""
        if self.path is None:
            return
        try:
            with self.path.open("a") as file:
                file.write(",".join(f"{value:.6g}" for value in values) + "\n")
        except OSError as error:
            raise MarnError(
                f"{self.path} could not be written ({error.strerror}); free space and start again"
            ) from error


def batches_of(train: Split, model: Coder, config: TrainConfig, epoch: int) -> Order:
    """Deal the training notes of an epoch, from 1, into batches."""
    return training_order(
        train.lengths.clip(max=model.max_length),
        config.batch_size,
        seed=config.seed,
        epoch=epoch,
        pool=POOL if config.batching == "bucketed" else 1,
    )


def _has_statistics(model: nn.Module) -> bool:
    """Whether a note's output depends on its batch in training."""
    return any(isinstance(x, nn.modules.batchnorm._BatchNorm) for x in model.modules())


def _backward(
    fabric: Fabric, model: Coder, train: Split, notes: np.ndarray, config: TrainConfig, parts: int
) -> Tensor:
    """Add the gradients of a batch's mean loss to those of the weights; return the loss.

    Of several processes each does its notes: every count-th place of the batch, whatever the parts.
    Gradients and losses of all add up to those of the batch.
    """
    total = torch.zeros((), device=fabric.device)
    for part in np.array_split(np.arange(len(notes)), min(parts, len(notes))):
        mine = part[part % parallel.world_size() == parallel.rank()]
        share = len(mine) / len(notes)
        if not share:
            if not _has_statistics(model):
                continue
            mine = part[:1]  # the others wait for this process at each normalisation
        batch = collate(train, notes[mine], model.tasks, model.max_length).to(fabric.device)
        tokens = batch.tokens
        if model.padding == "released":  # as wide as the whole part is: padding takes part
            longest = int(train.lengths[notes[part]].clip(max=model.max_length).max())
            tokens = nn.functional.pad(tokens, (0, longest - tokens.shape[1]))
        with parallel.shadowing(not share):
            with fabric.autocast():
                logits = model(tokens, batch.lengths)
            loss = config.loss_of({t: x.float() for t, x in logits.items()}, batch.targets)
            loss = (loss + model.penalty(batch.targets)) * share
            fabric.backward(loss)
        total += loss.detach()
    return total


class Steps:
    """The steps of a training, one call each; the engine, the optimiser and the way to less memory.

    Where the device runs out of memory the step is done again: first with fewer attention scores
    held at a time, which changes nothing. When that does not help the batch is computed in more
    parts, which a system with batch normalisation would notice: it stops instead. Of several
    processes each helps itself; but with batch normalisation it stops at once, as the others wait
    for it in the middle of the step.

    Args:
        model: is moved to the device.
        train: the notes.
        config: the settings.

    Raises:
        MarnError: the device is unknown or not there, or cannot do the precision; or the model has
            statistics of a batch that several processes do not share.
    """

    def __init__(self, model: Coder, train: Split, config: TrainConfig) -> None:
        self.model, self.train, self.config = model, train, config
        self.parts = config.accumulate
        self.fabric = start(config)
        if config.processes > 1:
            _refuse_own_statistics(model)
        self.fabric.to_device(model)
        if self.fabric.device.type == "cpu" and _has_many_scores(model):
            _return_memory()
        self.optimiser = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self._stepping: Any = self.fabric.setup_optimizers(self.optimiser)

    def __call__(self, notes: np.ndarray, rate: float) -> Tensor:
        """Change the weights by the gradient of a batch.

        Args:
            notes: (B,) places in the split.
            rate: learning rate.

        Returns:
            Scalar: the mean loss of the batch before the step, in nats.

        Raises:
            MarnError: the memory of the device is full, and nothing helps.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self._gradients(notes)
        loss = parallel.add_gradients([p for p in self.model.parameters() if p.requires_grad], loss)
        if self.config.clip_norm is not None:
            self.fabric.clip_gradients(
                self.model,
                self._stepping,
                max_norm=self.config.clip_norm,
                error_if_nonfinite=False,
            )
        self._stepping.step()
        return loss

    def state(self) -> dict[str, Any]:
        """Tell what a checkpoint needs: of weights, optimiser and the scaling of fp16."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])

    def _gradients(self, notes: np.ndarray) -> Tensor:
        longest = int(self.train.lengths[notes].clip(max=self.model.max_length).max())
        while True:
            self._stepping.zero_grad()
            # What the forward pass changes, besides gradients: running statistics and dropout.
            buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            state = _random_state()
            try:
                return _backward(
                    self.fabric, self.model, self.train, notes, self.config, self.parts
                )
            except torch.cuda.OutOfMemoryError as error:
                self._shrink(-(-len(notes) // parallel.world_size()), longest, error)
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])
            _random_state(state)

    def _shrink(self, notes: int, longest: int, error: RuntimeError) -> None:
        head, row = self.model.head, -(-notes // self.parts) * longest
        held = min(head.at_once or 0, row * sum(self.model.tasks.values()))
        statistics = _has_statistics(self.model)
        waited_for = parallel.world_size() > 1 and statistics
        if held > row and not waited_for:
            head.at_once = held // 2
        elif self.parts < notes and not statistics:
            self.parts *= 2
        else:
            raise parallel.RankError(
                f"{self.fabric.device} has no memory for {notes} notes of {longest} tokens; the "
                f"last good checkpoint is kept. Train with a smaller batch_size, or accumulate="
                f"{2 * self.parts}, or a shorter max_length; marn.train.budget tells what fits"
            ) from error


def _refuse_own_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(
            module, (TokenNorm, nn.SyncBatchNorm)
        ):
            raise MarnError(
                f"{name} is a {type(module).__name__}, which sees the share of one device; several "
                "take marn.nn.ram.TokenNorm or torch's SyncBatchNorm"
            )


def _random_state(state: tuple[Tensor, list[Tensor]] | None = None) -> Any:
    """Read the state of torch's generators, of CPU and CUDA; or set it to one that was read."""
    if state is None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return torch.get_rng_state(), cuda
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
    return None


@contextmanager
def _explained(device: torch.device) -> Iterator[None]:
    """Turn the loss of a device into a message."""
    try:
        yield
    except RuntimeError as error:  # torch's own error for it is younger than torch 2.4
        if "CUDA error" not in str(error):
            raise
        raise parallel.RankError(
            f"{device} failed ({str(error).splitlines()[0]}); the last good checkpoint is kept. "
            "Start again by the same command when the device is back"
        ) from error


def _train_epoch(
    step: Steps, corpus: Corpus, history: list[dict[str, float]], log: _Log, tick: Any
) -> float:
    """Train for one epoch and return the mean loss over notes, in nats."""
    model, config, device = step.model, step.config, step.fabric.device
    train = corpus["train"]
    epoch = len(history) + 1
    order = batches_of(train, model, config, epoch)
    monitored = _column(next(iter(model.tasks)), config.monitor)
    watched = [row[monitored] for row in history]
    total = torch.zeros((), dtype=torch.float64, device=device)
    logged = {"loss": 0.0, "notes": 0, "time": time.monotonic()}
    notes = 0
    model.train()
    for number, batch in enumerate(order, start=1):
        rate = config.rate((epoch - 1) * len(order) + number, config.epochs * len(order), watched)
        loss = step(batch, rate)
        total += loss * len(batch)
        notes += len(batch)
        if number % _LOG_STEPS == 0 or number == len(order):
            if not torch.isfinite(total):
                raise MarnError(
                    f"the loss became {float(loss)} in epoch {epoch}, by step {number} of "
                    f"{len(order)}; the last good checkpoint is kept. Try a lower learning_rate or "
                    "a smaller clip_norm"
                )
            now, some = time.monotonic(), notes - logged["notes"]
            log.line(
                epoch,
                number,
                (float(total) - logged["loss"]) / some,
                rate,
                some / (now - logged["time"]),
                peak_memory(device),
            )
            logged = {"loss": float(total), "notes": notes, "time": now}
        tick(f"epoch {epoch}/{config.epochs}, step {number}/{len(order)}")
    return float(total) / len(train)


def _agree(settings: dict[str, Any], epochs: int) -> None:
    """Check that all processes train the same, from the same checkpoint on."""
    mine = {**json.loads(json.dumps(settings)), "epochs done": epochs}
    for rank, theirs in enumerate(parallel.all_gather_object(mine)):
        changed = _differences(mine, theirs)
        if changed:
            raise MarnError(
                f"processes {parallel.rank()} and {rank} differ ({'; '.join(changed[:4])}); start "
                "them by one command, with a run_dir on a disk that all see"
            )


def fit(
    model: Coder,
    corpus: Corpus,
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    quiet: bool = False,
) -> Run:
    """Train a model, watch the dev split, and leave it with its best weights (see `keep`).

    With a run directory every epoch ends in a checkpoint. The same call on the same directory goes
    on from it after an interruption, with the same result as without one, and returns at once where
    the run had ended. The directory then holds `model.safetensors` and `model.json`
    (`marn.load_model`), `scores.json` (dev scores of the epoch kept), `run.json` (settings and
    provenance) and `checkpoint.pt`. `history.csv` gets its row with each epoch, and `steps.csv` one
    every 50 steps: loss (mean over notes since the last row, nats), learning rate, notes per
    second, and the most memory taken so far, in MB (of a CUDA device, else of the process).

    On several devices (`TrainConfig.devices`, `nodes`) each has a process, which calls this with
    the same arguments: `python -m marn train` starts them, or torchrun does. A batch is dealt over
    them; its gradients, the statistics of batch normalisation, the loss and the scores are those of
    the whole. Only the first process writes and speaks; its memory is in `steps.csv`. A run may go
    on with another number of devices. The run directory is on a disk that all nodes see.

    Args:
        model: made by `marn.build`, or of a class of one's own.
        corpus: with the splits train and dev and the model's tasks.
        config: by default `TrainConfig.of(model)`, the recipe of the system's paper.
        run_dir: where to write; nothing is written without it.
        quiet: whether to keep silent. Otherwise an epoch is a line on standard output, with the
            time left.

    Returns:
        The run; `run.model` is `model`.

    Raises:
        MarnError: the corpus does not fit the model, the run directory belongs to another run, the
            loss is not finite, the disk or the memory of the device is full, the device is lost, or
            another process ended. The last checkpoint stays as it was.
        KeyboardInterrupt: as pressed; the last checkpoint is kept.
    """
    config = config or TrainConfig.of(model)
    missing = sorted({"train", "dev"} - {s for s in corpus.splits if len(corpus[s])})
    if missing:
        raise MarnError(f"corpus {corpus.name!r} has no notes in {missing}, which training needs")
    if {task: corpus.tasks.get(task) for task in model.tasks} != model.tasks:
        raise MarnError(f"the model's tasks are {model.tasks}, but the corpus has {corpus.tasks}")
    folder = None if run_dir is None else Path(run_dir)
    step = Steps(model, corpus["train"], config)
    with parallel.collective() if config.processes > 1 else nullcontext():
        return _fit(step, corpus, folder, quiet)


def _fit(step: Steps, corpus: Corpus, folder: Path | None, quiet: bool) -> Run:
    model, config, device = step.model, step.config, step.fabric.device
    settings = _settings(model, corpus, config)
    if folder is not None:
        parallel.on_main_process(partial(_claim, folder, settings, corpus.card["text"]))
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"epoch": 0, "value": float("-inf"), "model": {}}
    if folder is not None and (folder / CHECKPOINT).exists():
        try:
            state = torch.load(folder / CHECKPOINT, map_location=device, weights_only=True)
        except Exception as error:  # torch raises whatever the damaged part raises
            raise MarnError(
                f"{folder / CHECKPOINT} is damaged; delete {folder} and train again"
            ) from error
        step.load(state)
        history, best = state["history"], state["best"]
    _agree(settings, len(history))
    parallel.broadcast_state(model.state_dict())
    monitored = next(iter(model.tasks))
    steps = -(-len(corpus["train"]) // config.batch_size)
    alone = parallel.rank() == 0  # who writes and speaks
    out = standard(quiet or not alone)
    progress = Progress(steps * config.epochs, stream=out, done=steps * len(history))
    if history:
        progress.line(f"{folder}: {len(history)} epochs were done before")
    log = _Log(folder if alone else None, len(history))
    while len(history) < config.epochs and len(history) - best["epoch"] < config.patience:
        epoch = len(history) + 1
        began = time.monotonic()
        with torch.random.fork_rng():
            # Dropout depends on seed, epoch and rank alone: a resumed run is the same run.
            torch.manual_seed(config.seed * 1_000_003 + epoch + (parallel.rank() << 40))
            with _explained(device):
                loss = _train_epoch(step, corpus, history, log, progress.step)
        with _explained(device), step.fabric.autocast():
            scores = evaluate(model, corpus, "dev", batch_size=2 * config.batch_size)
        scores = parallel.all_gather_object(scores)[
            0
        ]  # what stops the training stops all processes
        value = scores[monitored].get(config.monitor)
        if value is None:
            raise MarnError(
                f"monitor {config.monitor!r} is no score of {model.tasks[monitored]} codes; "
                f"one of {sorted(scores[monitored])}"
            )
        row = {"epoch": epoch, "loss": loss, "seconds": time.monotonic() - began}
        row |= {_column(t, name): x for t, figures in scores.items() for name, x in figures.items()}
        history.append(row)
        if value > best["value"] or best["epoch"] == 0:
            weights = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
            best = {"epoch": epoch, "value": value, "model": weights}
        if folder is not None:
            state = step.state() | {"history": history, "best": best}
            # The checkpoint last: what is killed before it is written is done again, all of it.
            table = pd.DataFrame(history)
            parallel.on_main_process(
                partial(replace_file, folder / HISTORY, partial(table.to_csv, index=False))
            )
            parallel.on_main_process(
                partial(replace_file, folder / CHECKPOINT, partial(torch.save, state))
            )
        progress.line(
            f"epoch {epoch:2d}/{config.epochs}  loss {loss:.4f}  "
            f"dev {monitored} {config.monitor} {value:.3f}"
            f"{' *' if best['epoch'] == epoch else '  '}  {duration(row['seconds'])}"
            + (f", at most {duration(progress.left())} left" if epoch < config.epochs else "")
        )
    # The released code tests the last weights where the epochs ran out before the patience did.
    ran_out = len(history) - best["epoch"] < config.patience
    kept = len(history) if config.keep == "last" and ran_out else best["epoch"]
    if kept == best["epoch"]:
        model.load_state_dict(best["model"])
    if folder is not None and (
        progress.done > progress.start or not parallel.on_main_process((folder / SCORES).exists)
    ):
        with step.fabric.autocast():
            thresholds = tune_thresholds(model, corpus, batch_size=2 * config.batch_size)
        parallel.on_main_process(partial(save_model, folder, model, corpus, thresholds))
        found = {
            "best_epoch": best["epoch"],
            "kept_epoch": kept,
            "dev": {task: _scores(history[kept - 1], task) for task in model.tasks},
        }
        parallel.on_main_process(partial(write_json, folder / SCORES, found))
    table = pd.DataFrame(history).astype({"epoch": int})
    return Run(model, table, best["epoch"], kept, replace(config), folder)
