"""Take one training step: forward, loss, backward, clip, update; on one device or several."""

from __future__ import annotations

from collections.abc import Mapping
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
from marn.train import memory
from marn.train.config import TrainConfig
from marn.train.launch import start
from marn.train.memory import MemorySaver

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def epoch_batches(train: Split, model: Coder, config: TrainConfig, epoch: int) -> Order:
    """Return the batches of an epoch, counted from 1, as indices of notes in the split."""
    return training_order(
        train.lengths.clip(max=model.max_length),
        config.batch_size,
        seed=config.seed,
        epoch=epoch,
        pool=POOL if config.batching == "bucketed" else 1,
    )


class TrainingStep:
    """Update the weights of a model, one batch at each call.

    Args:
        model: the model to train, which is moved to the device.
        train: the training notes.
        config: settings of the training.
        fabric: from `marn.train.launch.start`; by default one for these settings.

    Raises:
        MarnError: the device is missing or does not support the precision; or the model has batch
            statistics that several devices cannot share.
    """

    def __init__(
        self, model: Coder, train: Split, config: TrainConfig, fabric: Fabric | None = None
    ) -> None:
        self.model, self.train, self.config = model, train, config
        self.fabric = start(config) if fabric is None else fabric
        for name, module in model.named_modules() if config.processes > 1 else ():
            torchs = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if torchs and not isinstance(module, TokenNorm):
                raise MarnError(
                    f"{name} is a {type(module).__name__}, whose statistics would be those of one "
                    "device; choose marn.nn.ram.TokenNorm"
                )
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self._memory = MemorySaver(model, config.accumulate)
        model.to(self.fabric.device)
        if parallel.world_size() > 1 and self.fabric.device.type in memory.REHEARSED:
            longest = np.argsort(-train.lengths, kind="stable")[: config.batch_size]
            mine = longest[parallel.rank() :: parallel.world_size()]
            self._memory.rehearse(lambda: self._alone(mine), len(mine), self._longest(longest))
        self._forward: Any
        self._forward, self._optimizer = self.fabric.setup(model, self.optimizer)

    def __call__(self, notes: np.ndarray, learning_rate: float) -> Tensor:
        """Update the weights with the gradient of a batch.

        Args:
            notes: (B,) int, indices of notes in the split.
            learning_rate: learning rate of this step.

        Returns:
            Scalar: mean loss of the batch before the step, in nats; on several devices this rank's
            share of it.

        Raises:
            RankError: the step does not fit into the memory, however it is computed.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        mine = -(-len(notes) // parallel.world_size())
        loss = self._memory.run(lambda: self._gradients(notes), mine, self._longest(notes))
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

        DDP averages the gradients of the ranks in the last part. A rank's loss is therefore
        weighted by its share of the notes times the number of ranks, so that the average is the
        gradient of the whole batch.
        """
        self.optimizer.zero_grad()
        world_size, total = parallel.world_size(), torch.zeros((), device=self.fabric.device)
        parts = np.array_split(np.arange(len(notes)), min(self._memory.parts, len(notes)))
        for part in parts:
            mine = part[part % world_size == parallel.rank()]
            share = len(mine) / len(notes)
            batch = self._batch(notes[mine if share else part[:1]], notes[part])
            with (
                self.fabric.no_backward_sync(self._forward, enabled=part is not parts[-1]),
                parallel.shadowing(not share),
            ):
                logits = self._forward(batch.tokens, batch.lengths)
                loss = self._loss(logits, batch) * share
                self.fabric.backward(loss * world_size)
            total += loss.detach()
        return total

    def _alone(self, notes: np.ndarray) -> Tensor:
        """Compute the gradients of notes part by part, without the other ranks."""
        self.model.train()
        loss = torch.zeros(())
        for part in np.array_split(notes, min(self._memory.parts, len(notes))):
            batch = self._batch(part, part)
            with self.fabric.autocast():
                logits = self.model(batch.tokens, batch.lengths)
            loss = self._loss(logits, batch)
            loss.backward()
        return loss

    def _loss(self, logits: Mapping[str, Tensor], batch: Batch) -> Tensor:
        loss = self.config.loss_of({t: x.float() for t, x in logits.items()}, batch.targets)
        return loss + self.model.penalty(batch.targets)

    def _batch(self, notes: np.ndarray, part: np.ndarray) -> Batch:
        """Collate notes, padded like the whole part if padding takes part."""
        batch = collate(self.train, notes, self.model.tasks, self.model.max_length)
        if self.model.padding == "released":
            missing = self._longest(part) - batch.tokens.shape[1]
            batch = replace(batch, tokens=nn.functional.pad(batch.tokens, (0, missing)))
        return batch.to(self.fabric.device)

    def _longest(self, notes: np.ndarray) -> int:
        return int(self.train.lengths[notes].clip(max=self.model.max_length).max())

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
