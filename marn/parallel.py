"""Several processes, one for each device, that train one model: what they tell each other.

`marn.train.loop` starts them through Lightning Fabric. Outside `together` a process is alone,
whatever was started: nothing here then waits for anybody, and nothing is computed otherwise.
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


class OwnError(MarnError):
    """An error of this process alone; the others see only that it ends."""


@dataclass
class _State:
    count: int = 1
    rank: int = 0
    counts: bool = True


_state = _State()


def count() -> int:
    """Number of processes that work together; 1 outside `together`."""
    return _state.count


def rank() -> int:
    """Place of this process among them, from 0."""
    return _state.rank


def counts() -> bool:
    """Whether what this process computes counts; see `standing_in`."""
    return _state.counts


@contextmanager
def together() -> Iterator[None]:
    """Let the processes that were started work together: each has to do the same in here."""
    _state.count, _state.rank = distributed.get_world_size(), distributed.get_rank()
    try:
        yield
    finally:
        _state.count, _state.rank = 1, 0


@contextmanager
def standing_in(really: bool) -> Iterator[None]:
    """Take part in what all compute together without adding to it, if `really`.

    A process that was dealt no note of a batch does so, because the others wait for it.
    """
    _state.counts = not really
    try:
        yield
    finally:
        _state.counts = True


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # Without the engine's place in its source, and without its advice.
        said = re.sub(r"^\[[^\]]*\] *", "", str(error).strip()).partition("\n")[0]
        said = said.partition(". ")[0]
        raise OwnError(
            f"process {rank()} of {count()}: another process of this training has ended, or does "
            f"not answer ({said}); the last good checkpoint is kept. Start again by the same "
            "command"
        ) from error


def add_up(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over the processes, which is the same to the bit on each."""
    if count() > 1:
        with _answered():
            distributed.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """Stack the tensors of all processes: (…) -> (P, …)."""
    found = [torch.empty_like(tensor) for _ in range(count())]
    with _answered():
        distributed.all_gather(found, tensor.contiguous())
    return torch.stack(found)


def spread(tensor: Tensor, source: int = 0) -> Tensor:
    """Give the tensor that the process `source` has; those of the others lend it the shape."""
    if count() == 1:
        return tensor
    tensor = tensor.contiguous()
    with _answered():
        distributed.broadcast(tensor, src=source)
    return tensor


def align(state: Mapping[str, Tensor]) -> None:
    """Set tensors, such as a model's state, to those of the first process."""
    if count() > 1:
        for tensor in state.values():
            tensor.copy_(spread(tensor.detach().clone()))


def told(value: T) -> list[T]:
    """Gather a small value of each process, such as a text; by rank."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    with _answered():
        distributed.all_gather_object(found, value)
    return found


def first(action: Callable[[], T]) -> T:
    """Let the first process do something, such as to write a file, while the others wait.

    Args:
        action: what to do; its result is small and can be pickled.

    Returns:
        The result, in all of the processes.

    Raises:
        MarnError: the action raised it; in all of them.
    """
    if count() == 1:
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
    if count() == 1:
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
    add_up(flat)
    start = 1 + len(parameters)
    for x, having in zip(parameters, flat[1:start].tolist(), strict=True):
        if having:
            x.grad = flat[start : start + x.numel()].view_as(x).to(x.dtype)
        start += x.numel()
    return flat[0].clone()
