"""Collective operations of the processes that train one model, in torch.distributed's words.

Outside `collective` every function acts as if there were one process, so code that calls them
needs no process group.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from marn.errors import MarnError

T = TypeVar("T")


class RankError(MarnError):
    """Raised on one rank only; the other ranks just see it exit."""


@dataclass
class _State:
    world_size: int = 1
    rank: int = 0
    shadow: bool = False


_state = _State()


def world_size() -> int:
    """Return the number of processes; 1 outside `collective`."""
    return _state.world_size


def rank() -> int:
    """Return the rank of this process, from 0."""
    return _state.rank


def is_shadow() -> bool:
    """Tell whether this rank only shadows the others; see `shadowing`."""
    return _state.shadow


@contextmanager
def collective() -> Iterator[None]:
    """Make the functions of this module collective: every process must make the same calls."""
    _state.world_size, _state.rank = distributed.get_world_size(), distributed.get_rank()
    try:
        yield
    finally:
        _state.world_size, _state.rank = 1, 0


@contextmanager
def shadowing(enabled: bool) -> Iterator[None]:
    """Take part in collective operations without contributing to batch statistics.

    A rank without a note of the batch does so, because the other ranks wait for its calls.
    """
    _state.shadow = enabled
    try:
        yield
    finally:
        _state.shadow = False


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # Without the engine's place in its source, and without its advice.
        said = re.sub(r"^\[[^\]]*\] *", "", str(error).strip()).partition("\n")[0]
        said = said.partition(". ")[0]
        raise RankError(
            f"process {rank()} of {world_size()}: another process of this training has ended, or "
            f"does not answer ({said}); the last good checkpoint is kept. Start again by the same "
            "command"
        ) from error


def all_reduce(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over the processes, which is the same to the bit on each."""
    if world_size() > 1:
        with _answered():
            distributed.all_reduce(tensor)
    return tensor


def all_gather(tensor: Tensor) -> Tensor:
    """Stack the tensors of all processes: (…) -> (P, …)."""
    found = [torch.empty_like(tensor) for _ in range(world_size())]
    with _answered():
        distributed.all_gather(found, tensor.contiguous())
    return torch.stack(found)


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Give the tensor that the process `source` has; those of the others lend it the shape."""
    if world_size() == 1:
        return tensor
    tensor = tensor.contiguous()
    with _answered():
        distributed.broadcast(tensor, src=source)
    return tensor


def broadcast_state(state: Mapping[str, Tensor]) -> None:
    """Set tensors, such as a model's state, to those of the first process."""
    if world_size() > 1:
        for tensor in state.values():
            tensor.copy_(broadcast(tensor.detach().clone()))


def all_gather_object(value: T) -> list[T]:
    """Gather a small value of each process, such as a text; by rank."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    with _answered():
        distributed.all_gather_object(found, value)
    return found


def on_main_process(action: Callable[[], T]) -> T:
    """Let the first process do something, such as to write a file, while the others wait.

    Args:
        action: what to do; its result is small and can be pickled.

    Returns:
        The result, in all of the processes.

    Raises:
        MarnError: the action raised it; in all of them.
    """
    if world_size() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = action()
        except MarnError as error:
            outcome[1] = str(error)
    with _answered():
        distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise MarnError(outcome[1])
    return outcome[0]


def add_gradients(parameters: list[Tensor], loss: Tensor) -> Tensor:
    """Add the gradients of all processes up, all at once.

    A parameter keeps `None` where no process has a gradient, so that the optimiser passes it by as
    it does in one process.

    Args:
        parameters: the same ones in every process.
        loss: scalar, this process's part of the loss of the batch.

    Returns:
        Scalar, the loss of the batch.
    """
    if world_size() == 1:
        return loss
    gradients = [x.grad for x in parameters]
    flat = torch.cat(
        [
            loss.reshape(1),
            loss.new_tensor([x is not None for x in gradients]),
            *(
                torch.zeros_like(x).flatten() if gradient is None else gradient.flatten()
                for x, gradient in zip(parameters, gradients, strict=True)
            ),
        ]
    )
    all_reduce(flat)
    start = 1 + len(parameters)
    for x, having in zip(parameters, flat[1:start].tolist(), strict=True):
        if having:
            x.grad = flat[start : start + x.numel()].view_as(x).to(x.dtype)
        start += x.numel()
    return flat[0].clone()
