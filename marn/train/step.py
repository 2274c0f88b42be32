"""One step of a training: forward, loss, backward, clip, update; on one device or on several."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from marn import parallel
from marn.corpus import Split
from marn.corpus.batches import POOL, Batch, Order, collate, training_order
from marn.errors import MarnError
from marn.models import Coder
from marn.nn.ram import TokenNorm
from marn.train.config import TrainConfig
from marn.train.memory import MemorySaver, return_freed_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def start(config: TrainConfig, *, launch: bool = False) -> Fabric:
    """Start Lightning Fabric for these settings; see `marn.parallel.start`."""
    return parallel.start(
        config.device, config.devices, config.nodes, config.precision, launch=launch
    )


def epoch_batches(train: Split, model: Coder, config: TrainConfig, epoch: int) -> Order:
    """Return the batches of an epoch, from 1, as places of notes in the split."""
    return training_order(
        train.lengths.clip(max=model.max_length),
        config.batch_size,
        seed=config.seed,
        epoch=epoch,
        pool=POOL if config.batching == "bucketed" else 1,
    )


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
