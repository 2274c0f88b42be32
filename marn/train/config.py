"""Settings of a training, each with its source, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from torch import Tensor

from marn import metrics
from marn.errors import MarnError
from marn.losses import Reading, bce_loss, focal_loss, multitask_loss, smooth
from marn.models import Coder

Loss = Literal["focal", "bce"]
Reduction = Literal["mean", "sum_codes"]
Schedule = Literal["constant", "linear", "plateau"]
Keep = Literal["best", "last"]
Batching = Literal["bucketed", "random"]
Precision = Literal["fp32", "bf16", "fp16"]

_PROBE = metrics.score([[0.9, 0.1]], [[1, 0]], ks=(5, 8, 15))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training.

    The defaults are MARN's. `TrainConfig.of(model, …)` starts from the recipe of a system.
    """

    epochs: int = 50
    """Passes over the training notes, at most (released code)."""
    batch_size: int = 16
    """Notes a step, over all devices (MARN Section 4.2, top-50 codes; 64 for the full set)."""
    batching: Batching = "bucketed"
    """`"bucketed"`: notes of like length share a batch (fidelity row 19, sound); `"random"`: any
    notes do (released code). See `marn.corpus.batches.training_order`."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, their gradients added up. Memory
    shrinks with the parts, the step stays the same to rounding; but batch normalisation then sees
    a part at a time, and dropout draws anew."""
    learning_rate: float = 1e-3
    """Of AdamW (MARN Section 4.2; MT-RAM has 8e-3)."""
    schedule: Schedule = "constant"
    """What becomes of the learning rate: `"constant"` (the released code of MARN, MT-RAM and
    CAML), `"linear"` decay to 0 behind the last of all `epochs` (the habit of pre-trained encoders,
    PLM-ICD), `"plateau"`: multiplied by `plateau_factor` after more than `plateau_patience` epochs
    without a better dev score (LAAT)."""
    warmup: float = 0.0
    """Share of all steps in which the learning rate first rises from 0, in a straight line; in
    [0, 1). None of the systems of 2018 to 2022 has it, PLM-ICD does."""
    plateau_factor: float = 0.9
    """See `schedule` (LAAT's released code; its floor of 1e-4 is out of reach in 50 epochs)."""
    plateau_patience: int = 5
    """See `schedule` (LAAT's released code)."""
    weight_decay: float = 0.0
    """Of AdamW; 0 makes it Adam (released code)."""
    loss: Loss = "focal"
    """`"focal"` (MARN) or `"bce"` (MT-RAM, CAML)."""
    label_smoothing: float = 0.0
    """Share s that softens targets y to y (1 - s) + s / C, with C codes (DCAN, 0.1); in [0, 1),
    with the loss `"bce"` alone."""
    alpha: float = 0.999
    """Weight in the focal loss (MARN Section 4.2)."""
    gamma: float = 2.0
    """Focusing exponent of the focal loss (MARN Section 4.2)."""
    reading: Reading = "released"
    """Which focal loss: the authors' code or Eq. 16; see `marn.focal_loss`."""
    reduction: Reduction | None = None
    """What makes one number of a batch's losses (fidelity row 2): `"mean"` over notes and codes
    (the released code of all systems), `"sum_codes"`: the sum over codes, the mean over notes
    (MARN Eq. 16, MT-RAM Eqs. 12-13). None is that of `reading` with the focal loss, the mean with
    `"bce"`. Adam does not see the difference, but for its epsilon; `clip_norm` does."""
    task_weights: Mapping[str, float] = field(default_factory=lambda: {"icd": 0.7, "ccs": 0.3})
    """Weight of each task's loss (Eq. 17; MARN Section 4.2). A single task weighs 1."""
    clip_norm: float | None = 1.0
    """Global norm that gradients are clipped to, None for no clipping (1.0 in released code)."""
    patience: int = 10
    """Epochs without a better dev score before training stops (MARN Section 4.2)."""
    monitor: str = "mean_average_precision"
    """Dev score that chooses the best epoch, of the model's first task: the sound reading, as it
    needs no threshold. MARN prints precision at 5, its code watches `macro_f1_caml`."""
    keep: Keep = "best"
    """Weights that the model is left with (fidelity row 5): those of the `"best"` epoch, or, as in
    the released code, of the `"last"` one where the epochs run out before the patience does."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass: `"fp32"`, or `"bf16"` and `"fp16"` where that is safe (the
    autocast of torch; weights, optimiser and loss stay fp32). `"fp16"` needs CUDA."""
    seed: int = 0
    """Of the order of the notes and of dropout; initial weights are `marn.build`'s."""
    device: str = "auto"
    """`"auto"` takes a CUDA device where there is one, else the CPU; or a torch device name."""
    devices: int = 1
    """Devices of a node, each with a process of its own and its share of each batch (one in all the
    papers). GPUs, or as many processes on a CPU. The training is the same to rounding, but for
    dropout, which draws anew with another number of devices. See `marn.fit`."""
    nodes: int = 1
    """Machines, each with `devices` (one in all the papers)."""

    @classmethod
    def of(cls, model: Coder, **changes: Any) -> Self:
        """Start from the recipe of a system, its paper's settings, and change some.

        Args:
            model: whose `training_defaults` is taken.
            **changes: fields of this class.

        Raises:
            MarnError: a setting is unknown or out of range.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise MarnError(f"TrainConfig has no setting {unknown[0]!r}; it has {sorted(known)}")
        return cls(**{**model.training_defaults, **changes})

    def __post_init__(self) -> None:
        """Check every setting, so that a wrong one is met before hours of work."""

        def need(name: str, holds: bool, rule: str) -> None:
            if not holds:
                raise MarnError(f"{name} must be {rule}, but got {getattr(self, name)!r}")

        whole = {"epochs": 1, "batch_size": 1, "accumulate": 1, "patience": 1, "seed": 0}
        whole |= {"plateau_patience": 0, "devices": 1, "nodes": 1}
        for name, least in whole.items():
            value = getattr(self, name)
            need(name, isinstance(value, int) and not isinstance(value, bool), "a whole number")
            need(name, value >= least, f"at least {least}")
        need("batch_size", self.batch_size >= self.processes, "at least a note for each device")
        shares = ("warmup", "label_smoothing")
        for name in ("learning_rate", "weight_decay", "alpha", "gamma", "plateau_factor", *shares):
            value = getattr(self, name)
            need(name, isinstance(value, (int, float)) and not isinstance(value, bool), "a number")
            need(name, value >= 0, "at least 0")
        for name in shares:
            need(name, getattr(self, name) < 1, "below 1")
        need("learning_rate", self.learning_rate > 0, "above 0")
        need("plateau_factor", 0 < self.plateau_factor < 1, "between 0 and 1")
        for name, choices in (
            ("loss", Loss),
            ("reading", Reading),
            ("schedule", Schedule),
            ("keep", Keep),
            ("batching", Batching),
            ("precision", Precision),
        ):
            allowed = " or ".join(map(repr, get_args(choices)))
            need(name, getattr(self, name) in get_args(choices), allowed)
        sums = " or ".join(map(repr, get_args(Reduction)))
        need("reduction", self.reduction in (None, *get_args(Reduction)), f"{sums}, or None")
        if self.label_smoothing and self.loss != "bce":
            raise MarnError("label_smoothing is defined for loss='bce' alone; set it to 0")
        clipped = self.clip_norm is None or isinstance(self.clip_norm, (int, float))
        need("clip_norm", clipped, "a number, or None")
        need("task_weights", isinstance(self.task_weights, Mapping), "a weight for each task")
        need("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or None")
        need(
            "monitor",
            self.monitor in _PROBE or self.monitor.startswith(("precision_at_", "recall_at_")),
            f"one of {sorted(_PROBE)}",
        )
        object.__setattr__(self, "task_weights", dict(self.task_weights))

    @property
    def processes(self) -> int:
        """Processes that train together, one for each device of each node."""
        return self.devices * self.nodes

    def loss_of(self, logits: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Joint loss of a batch, Eq. 17: {task: (B, C)}, {task: (B, C)} -> scalar."""
        losses = {
            task: bce_loss(
                logits[task],
                smooth(targets[task], self.label_smoothing),
                reduction=self.reduction or "mean",
            )
            if self.loss == "bce"
            else focal_loss(
                logits[task],
                targets[task],
                alpha=self.alpha,
                gamma=self.gamma,
                reading=self.reading,
                reduction=self.reduction,
            )
            for task in logits
        }
        return multitask_loss(losses, self.task_weights if len(losses) > 1 else {})

    def rate(self, step: int, steps: int, watched: Sequence[float] = ()) -> float:
        """Learning rate of a step.

        Args:
            step: from 1.
            steps: of all epochs, `epochs` times those of one.
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
