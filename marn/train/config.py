"""Define the settings of training, each with its source, checked before any work is done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, field_validator

from marn import metrics
from marn.errors import MarnError
from marn.settings import Count, Seed, Share, settings

if TYPE_CHECKING:
    from torch import Tensor

    from marn.models import Coder

_DEVICE = re.compile(r"auto|cpu|(cuda|mps)(:\d+)?")
_AT_K = re.compile(r"(precision|recall)_at_[1-9]\d*")
_FEW_STEPS, _WANTED_STEPS = 250, 1000  # per epoch; per training with few notes
_SCORES = [*metrics.score([[0.9, 0.1]], [[1, 0]], ks=()), "precision_at_K", "recall_at_K"]


def of_steps(
    steps: int, notes: int, batch_size: int, rate: float, *, least: int = 1, most: int | None = None
) -> dict[str, Any]:
    """Return settings of `TrainConfig` that train for a number of steps, in whole epochs.

    The learning rate warms up over 5 % of the steps and then decays linearly to 0.

    Args:
        steps: minimum number of steps, unless `most` limits the epochs.
        notes: number of training notes.
        batch_size: number of notes per step.
        rate: the highest learning rate.
        least: minimum number of epochs.
        most: maximum number of epochs; None for no limit.
    """
    epochs = max(-(-steps // max(1, -(-notes // batch_size))), least)
    epochs = epochs if most is None else min(epochs, most)
    return {
        "epochs": epochs,
        "patience": epochs,
        "batch_size": batch_size,
        "learning_rate": rate,
        "schedule": "linear",
        "warmup": 0.05,
        "clip_norm": 1.0,
    }


@settings
class TrainConfig:
    """Set up one training.

    The defaults are MARN's. `TrainConfig.of(model, …)` starts from the settings of a system's
    paper. An invalid setting raises a `MarnError`:

        >>> TrainConfig(batch_size=0)
        Traceback (most recent call last):
        marn.errors.MarnError: batch_size must be at least 1, but got 0; the default is 16
    """

    epochs: Count = 50
    """Maximum number of passes over the training notes (released code)."""
    batch_size: Count = 16
    """Notes per step, over all devices (MARN Section 4.2 for the top 50 codes; 64 for all)."""
    batching: Literal["bucketed", "random"] = "bucketed"
    """Which notes share a batch: "bucketed", notes of similar length (the sound choice), or
    "random", any notes (released code). See `marn.corpus.batches.training_order`."""
    accumulate: Count = 1
    """Number of parts that a batch is split into; their gradients are summed. More parts need less
    memory, and the step is the same up to rounding; but batch normalisation sees one part at a
    time, and dropout draws different masks."""
    learning_rate: PositiveFloat = 1e-3
    """AdamW learning rate (MARN Section 4.2; MT-RAM uses 8e-3)."""
    schedule: Literal["constant", "linear", "plateau"] = "constant"
    """How the learning rate changes: "constant" (released code of MARN, MT-RAM and CAML); "linear"
    decay to 0 at the end of all `epochs` (usual for pre-trained encoders, PLM-ICD); "plateau",
    multiplied by `plateau_factor` after more than `plateau_patience` epochs without a better dev
    score (LAAT)."""
    warmup: Share = 0.0
    """Fraction of all steps over which the learning rate first rises linearly from 0; in [0, 1).
    PLM-ICD uses it; the other systems of 2018 to 2022 do not."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Factor of `schedule` "plateau" (LAAT's released code, whose floor of 1e-4 cannot be reached
    in 50 epochs)."""
    plateau_patience: NonNegativeInt = 5
    """Patience of `schedule` "plateau", in epochs (LAAT's released code)."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW weight decay; 0 makes it Adam (released code)."""
    loss: Literal["focal", "bce"] = "focal"
    """Loss of a task: "focal" (MARN) or "bce", binary cross-entropy (MT-RAM, CAML)."""
    label_smoothing: Share = 0.0
    """Label smoothing s, in [0, 1): targets y become y (1 - s) + s / C for C codes (0.1 in DCAN).
    Only with `loss` "bce"."""
    alpha: NonNegativeFloat = 0.999
    """Weight α of the focal loss (MARN Section 4.2)."""
    gamma: NonNegativeFloat = 2.0
    """Focusing exponent γ of the focal loss (MARN Section 4.2)."""
    reading: Literal["released", "paper"] = "released"
    """Which focal loss: the authors' code ("released") or Eq. 16 ("paper"). See
    `marn.focal_loss`."""
    reduction: Literal["mean", "sum_codes"] | None = None
    """How the losses of a batch become one number: "mean" over notes and codes
    (released code of all systems), or "sum_codes", the sum over codes and mean over notes (MARN
    Eq. 16, MT-RAM Eqs. 12-13). None follows `reading` for the focal loss, and is the mean for
    "bce". The difference affects `clip_norm`, but not Adam, apart from its epsilon."""
    task_weights: Mapping[str, NonNegativeFloat] = Field({"icd": 0.7, "ccs": 0.3})
    """Weight of each task's loss (Eq. 17; MARN Section 4.2). A task that is not named, or a
    single task, has weight 1."""
    clip_norm: PositiveFloat | None = 1.0
    """Maximum norm of all gradients together (1.0 in the released code); None disables clipping."""
    patience: Count = 10
    """Number of epochs without a better dev score after which training stops (MARN Section 4.2)."""
    monitor: str = "mean_average_precision"
    """Dev score of the first task that chooses the best epoch. The default needs no threshold
    (sound reading); MARN's paper uses precision_at_5, its code macro_f1_caml."""
    keep: Literal["best", "last"] = "best"
    """Which weights to keep: those of the "best" epoch, or the "last" ones if all epochs were
    trained, even if patience ran out in the last epoch (released code)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward pass: "fp32", or torch's autocast to "bf16" or "fp16". Weights,
    optimiser and loss stay in fp32. "fp16" needs CUDA."""
    seed: Seed = 0
    """Seed of the order of the notes and of dropout. `marn.build` has another for the weights."""
    device: str = "auto"
    """Torch device, such as "cpu" or "cuda:0"; "auto" uses CUDA if available."""
    devices: Count = 1
    """Number of devices per node: GPUs, or processes on a CPU. Each has a process and a share of
    every batch (1 in all the papers). Training is the same up to rounding, except that dropout
    draws different masks. See `marn.fit`."""
    nodes: Count = 1
    """Number of machines, each with `devices` (1 in all the papers)."""

    @classmethod
    def of(cls, model: Coder | type[Coder], **changes: Any) -> Self:
        """Start from the settings of a system's paper, and change some.

        Args:
            model: a system or its class, which has `training_defaults`.
            **changes: fields of this class.

        Raises:
            MarnError: a setting is unknown or out of range.
        """
        return cls(**{**model.training_defaults, **changes})

    @classmethod
    def suited(cls, model: Coder | type[Coder], notes: int, **changes: Any) -> Self:
        """Start from the settings of a system's paper, adapted to the number of notes.

        An epoch in the papers has 500 steps or more. With a few hundred notes it has far fewer, in
        which a learning rate of 1e-4 (CAML) changes hardly anything. So if an epoch has fewer than
        250 steps, training takes as many epochs as make 1,000 steps (10 to 50), and a learning rate
        of at least 8e-3 (MT-RAM Section 4.3), which warms up over 5 % of the steps and then decays
        linearly to 0. A rate below 1e-4 belongs to a pre-trained transformer and is kept.

        Args:
            model: as for `of`.
            notes: number of training notes.
            **changes: fields of this class, which have priority.

        Raises:
            MarnError: a setting is unknown or out of range.

        Example:
            >>> from marn.registry import system
            >>> few = TrainConfig.suited(system("caml"), notes=700)
            >>> few.epochs, few.learning_rate, TrainConfig.of(system("caml")).learning_rate
            (23, 0.008, 0.0001)
        """
        paper = cls.of(model, **changes)
        if -(-notes // paper.batch_size) >= _FEW_STEPS:
            return paper
        rate = paper.learning_rate if paper.learning_rate < 1e-4 else max(8e-3, paper.learning_rate)
        few = of_steps(_WANTED_STEPS, notes, paper.batch_size, rate, least=10, most=50)
        return cls.of(model, **few | changes)

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise ValueError("'auto', 'cpu', 'cuda', 'mps' or a numbered one such as 'cuda:0'")
        return device

    @field_validator("monitor")
    @classmethod
    def _is_a_score(cls, monitor: str) -> str:
        if monitor not in _SCORES[:-2] and not _AT_K.fullmatch(monitor):
            raise ValueError(f"one of {', '.join(_SCORES)}")
        return monitor

    def __post_init__(self) -> None:
        if self.batch_size < self.processes:
            raise MarnError(
                f"batch_size must be at least the number of processes, {self.processes}, but got "
                f"{self.batch_size}; each process needs a note"
            )
        if self.label_smoothing and self.loss != "bce":
            raise MarnError("label_smoothing needs loss='bce'; set it to 0 or change the loss")
        if self.task_weights and not any(self.task_weights.values()):
            raise MarnError("task_weights must not all be 0; give one task a weight above 0")

    @property
    def processes(self) -> int:
        """Number of processes that train together, one per device."""
        return self.devices * self.nodes

    def loss_of(self, logits: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Compute the joint loss of a batch, Eq. 17: {task: (B, C)}, {task: (B, C)} -> scalar."""
        # Imported here so that the command line's help does not wait for torch.
        from marn.losses import bce_loss, focal_loss, multitask_loss, smooth

        if self.loss == "bce":
            loss = partial(bce_loss, reduction=self.reduction or "mean")
            targets = {task: smooth(y, self.label_smoothing) for task, y in targets.items()}
        else:
            loss = partial(
                focal_loss,
                alpha=self.alpha,
                gamma=self.gamma,
                reading=self.reading,
                reduction=self.reduction,
            )
        losses = {task: loss(logits[task], targets[task]) for task in logits}
        return multitask_loss(losses, self.task_weights if len(losses) > 1 else {})

    def rate(self, step: int, steps: int, watched: Sequence[float] = ()) -> float:
        """Return the learning rate of a step.

        Args:
            step: number of the step, counted from 1 over all epochs.
            steps: number of steps in all `epochs`.
            watched: the monitored dev score of each epoch so far.
        """
        warm = round(self.warmup * steps)
        if step <= warm:
            return self.learning_rate * step / warm
        if self.schedule == "linear":
            return self.learning_rate * (steps - step + 1) / (steps - warm)
        if self.schedule == "plateau":
            cuts = _plateaus(watched, self.plateau_patience)
            return self.learning_rate * self.plateau_factor**cuts
        return self.learning_rate


def _plateaus(watched: Sequence[float], patience: int) -> int:
    """Count the stretches of more than `patience` epochs without a better score."""
    best, waited, found = float("-inf"), 0, 0
    for value in watched:
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited > patience:
            waited, found = 0, found + 1
    return found
