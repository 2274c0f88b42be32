"""Training: one readable loop that stops early, keeps the best weights and can be resumed.

Knows no system by name: a model that was defined in a notebook cell trains like any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
import torch
from torch import Tensor, nn

from marn import metrics
from marn.batches import Batch, collate, training_order
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.evaluation import evaluate
from marn.losses import Reading, bce_loss, focal_loss, multitask_loss
from marn.models import Coder
from marn.progress import Progress, duration, standard
from marn.saving import provenance, save_model, write_json
from marn.saving import replace as replace_file

Loss = Literal["focal", "bce"]

CHECKPOINT, SETTINGS, HISTORY, SCORES = "checkpoint.pt", "run.json", "history.csv", "scores.json"

_PROBE = metrics.score([[0.9, 0.1]], [[1, 0]], ks=(5, 8, 15))
_LOSS_CHECK = 50  # steps between looks at the loss: reading it makes a GPU wait


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training.

    The defaults are MARN's. `TrainConfig.of(model, …)` starts from the recipe of a system.
    """

    epochs: int = 50
    """Passes over the training notes, at most (released code)."""
    batch_size: int = 16
    """Notes a step (MARN Section 4.2, top-50 codes; 64 for the full set)."""
    learning_rate: float = 1e-3
    """Of AdamW (MARN Section 4.2; MT-RAM has 8e-3)."""
    weight_decay: float = 0.0
    """Of AdamW; 0 makes it Adam (released code)."""
    loss: Loss = "focal"
    """`"focal"` (MARN) or `"bce"` (MT-RAM, CAML)."""
    alpha: float = 0.999
    """Weight in the focal loss (MARN Section 4.2)."""
    gamma: float = 2.0
    """Focusing exponent of the focal loss (MARN Section 4.2)."""
    reading: Reading = "released"
    """Which focal loss: the authors' code or Eq. 16; see `marn.focal_loss`."""
    task_weights: Mapping[str, float] = field(default_factory=lambda: {"icd": 0.7, "ccs": 0.3})
    """Weight of each task's loss (Eq. 17; MARN Section 4.2). A single task weighs 1."""
    clip_norm: float | None = 1.0
    """Global norm that gradients are clipped to, None for no clipping (1.0 in released code)."""
    patience: int = 10
    """Epochs without a better dev score before training stops (MARN Section 4.2)."""
    monitor: str = "mean_average_precision"
    """Dev score that chooses the best epoch, of the model's first task: the sound reading, as it
    needs no threshold. MARN prints precision at 5, its code watches `macro_f1_caml`."""
    seed: int = 0
    """Of the order of the notes and of dropout; initial weights are `marn.build`'s."""
    device: str = "auto"
    """`"auto"` takes a CUDA device where there is one, else the CPU; or a torch device name."""

    @classmethod
    def of(cls, model: Coder, **changes: Any) -> Self:
        """Start from the recipe of a system, its paper's settings, and change some.

        Args:
            model: whose `recipe` is taken.
            **changes: fields of this class.

        Raises:
            MarnError: a setting is unknown or out of range.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise MarnError(f"TrainConfig has no setting {unknown[0]!r}; it has {sorted(known)}")
        return cls(**{**model.recipe, **changes})

    def __post_init__(self) -> None:
        """Check every setting, so that a wrong one is met before hours of work."""

        def need(name: str, holds: bool, rule: str) -> None:
            if not holds:
                raise MarnError(f"{name} must be {rule}, but got {getattr(self, name)!r}")

        for name in ("epochs", "batch_size", "patience", "seed"):
            value = getattr(self, name)
            need(name, isinstance(value, int) and not isinstance(value, bool), "a whole number")
            need(
                name,
                value >= (0 if name == "seed" else 1),
                "at least 1" if name != "seed" else "at least 0",
            )
        for name in ("learning_rate", "weight_decay", "alpha", "gamma"):
            value = getattr(self, name)
            need(name, isinstance(value, (int, float)) and not isinstance(value, bool), "a number")
            need(name, value >= 0, "at least 0")
        need("learning_rate", self.learning_rate > 0, "above 0")
        need("loss", self.loss in ("focal", "bce"), "'focal' or 'bce'")
        need("reading", self.reading in ("released", "paper"), "'released' or 'paper'")
        need("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or None")
        need(
            "monitor",
            self.monitor in _PROBE or self.monitor.startswith(("precision_at_", "recall_at_")),
            f"one of {sorted(_PROBE)}",
        )
        object.__setattr__(self, "task_weights", dict(self.task_weights))

    def loss_of(self, logits: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Joint loss of a batch, Eq. 17: {task: (B, C)}, {task: (B, C)} -> scalar."""
        losses = {
            task: bce_loss(logits[task], targets[task])
            if self.loss == "bce"
            else focal_loss(
                logits[task],
                targets[task],
                alpha=self.alpha,
                gamma=self.gamma,
                reading=self.reading,
            )
            for task in logits
        }
        return multitask_loss(losses, self.task_weights if len(losses) > 1 else {})


@dataclass(frozen=True)
class Run:
    """One training that ended: by its last epoch or by patience."""

    model: Coder
    """The model that was given, with its best weights, on the device that it was trained on."""
    history: pd.DataFrame
    """One row an epoch: `epoch` (from 1), `loss` (mean over training notes, nats), `seconds`, and
    every dev score as `dev/<task>/<figure>`."""
    best_epoch: int
    """The epoch, from 1, whose weights were kept."""
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
        "training": {key: value for key, value in asdict(config).items() if key != "device"},
    }


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{path} was {old!r}, now {new!r}"]


def _claim(folder: Path, settings: dict[str, Any]) -> None:
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
    write_json(path, {"settings": settings, "provenance": provenance()})


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


def _train_epoch(
    model: Coder,
    corpus: Corpus,
    config: TrainConfig,
    optimiser: torch.optim.Optimizer,
    epoch: int,
    tick: Any,
) -> float:
    """Train for one epoch and return the mean loss over notes, in nats."""
    train = corpus["train"]
    device = next(model.parameters()).device
    lengths = train.lengths.clip(max=model.max_length)
    order = training_order(lengths, config.batch_size, seed=config.seed, epoch=epoch)
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros((), dtype=torch.float64, device=device)
    model.train()
    for step, notes in enumerate(order, start=1):
        batch: Batch = collate(train, notes, model.tasks, model.max_length).to(device)
        loss = config.loss_of(model(batch.tokens, batch.lengths), batch.targets)
        loss = loss + model.penalty(batch.targets)
        optimiser.zero_grad()
        loss.backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimiser.step()
        total += loss.detach() * len(notes)
        if (step % _LOSS_CHECK == 0 or step == len(order)) and not torch.isfinite(total):
            raise MarnError(
                f"the loss became {float(loss)} in epoch {epoch}, by step {step} of {len(order)}; "
                "the last good checkpoint is kept. Try a lower learning_rate or a smaller clip_norm"
            )
        tick(f"epoch {epoch}/{config.epochs}, step {step}/{len(order)}")
    return float(total) / len(train)


def fit(
    model: Coder,
    corpus: Corpus,
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    quiet: bool = False,
) -> Run:
    """Train a model, watch the dev split, and leave it with its best weights.

    With a run directory every epoch ends in a checkpoint. The same call on the same directory goes
    on from it after an interruption, with the same result as without one, and returns at once where
    the run had ended. The directory then holds `model.safetensors` and `model.json`
    (`marn.load_model`), `history.csv`, `scores.json` (dev scores of the best epoch), `run.json`
    (settings and provenance) and `checkpoint.pt`.

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
            loss is not finite, or the disk is full. The last checkpoint stays as it was.
        KeyboardInterrupt: as pressed; the last checkpoint is kept.
    """
    config = config or TrainConfig.of(model)
    missing = sorted({"train", "dev"} - {s for s in corpus.splits if len(corpus[s])})
    if missing:
        raise MarnError(f"corpus {corpus.name!r} has no notes in {missing}, which training needs")
    if {task: corpus.tasks.get(task) for task in model.tasks} != model.tasks:
        raise MarnError(f"the model's tasks are {model.tasks}, but the corpus has {corpus.tasks}")
    device = _device(config.device)
    settings = _settings(model, corpus, config)
    folder = None if run_dir is None else Path(run_dir)
    if folder is not None:
        _claim(folder, settings)
    model.to(device)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"epoch": 0, "value": float("-inf"), "model": {}, "scores": {}}
    if folder is not None and (folder / CHECKPOINT).exists():
        try:
            state = torch.load(folder / CHECKPOINT, map_location=device, weights_only=True)
        except Exception as error:  # torch raises whatever the damaged part raises
            raise MarnError(
                f"{folder / CHECKPOINT} is damaged; delete {folder} and train again"
            ) from error
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        history, best = state["history"], state["best"]
    monitored = next(iter(model.tasks))
    steps = -(-len(corpus["train"]) // config.batch_size)
    out = standard(quiet)
    progress = Progress(steps * config.epochs, stream=out, done=steps * len(history))
    if history:
        progress.line(f"{folder}: {len(history)} epochs were done before")
    while len(history) < config.epochs and len(history) - best["epoch"] < config.patience:
        epoch = len(history) + 1
        began = time.monotonic()
        with torch.random.fork_rng():
            # Dropout depends on seed and epoch alone, so that a resumed run is the same run.
            torch.manual_seed(config.seed * 1_000_003 + epoch)
            loss = _train_epoch(model, corpus, config, optimiser, epoch, progress.step)
        scores = evaluate(model, corpus, "dev", batch_size=2 * config.batch_size)
        value = scores[monitored].get(config.monitor)
        if value is None:
            raise MarnError(
                f"monitor {config.monitor!r} is no score of {model.tasks[monitored]} codes; "
                f"one of {sorted(scores[monitored])}"
            )
        row = {"epoch": epoch, "loss": loss, "seconds": time.monotonic() - began}
        row |= {
            f"dev/{t}/{name}": x for t, figures in scores.items() for name, x in figures.items()
        }
        history.append(row)
        if value > best["value"] or best["epoch"] == 0:
            weights = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
            best = {"epoch": epoch, "value": value, "model": weights, "scores": scores}
        if folder is not None:
            state = {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "history": history,
                "best": best,
            }
            replace_file(folder / CHECKPOINT, partial(torch.save, state))
        progress.line(
            f"epoch {epoch:2d}/{config.epochs}  loss {loss:.4f}  "
            f"dev {monitored} {config.monitor} {value:.3f}"
            f"{' *' if best['epoch'] == epoch else '  '}  {duration(row['seconds'])}"
            + (f", at most {duration(progress.left())} left" if epoch < config.epochs else "")
        )
    model.load_state_dict(best["model"])
    table = pd.DataFrame(history).astype({"epoch": int})
    if folder is not None and (progress.done > progress.start or not (folder / SCORES).exists()):
        save_model(folder, model, corpus)
        replace_file(folder / HISTORY, lambda aside: table.to_csv(aside, index=False))
        write_json(folder / SCORES, {"best_epoch": best["epoch"], "dev": best["scores"]})
    return Run(model, table, best["epoch"], replace(config), folder)
