"""Run collective operations of the processes that train one model, named as in torch.distributed.

Outside `collective` they act as if there were one process, so callers need no process group.
`marn.train.launch` starts the processes.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, distributed

from marn.errors import MarnError

T = TypeVar("T")

_collective = _shadow = False


class RankError(MarnError):
    """Raised on one rank only; the other ranks just see it exit."""


def world_size() -> int:
    """Return the number of processes; 1 outside `collective`."""
    return distributed.get_world_size() if _collective else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if _collective else 0


def is_shadow() -> bool:
    """Return whether this rank only shadows the others; see `shadowing`."""
    return _shadow


@contextmanager
def collective() -> Iterator[None]:
    """Make the functions of this module collective: every process must make the same calls.

    A lost process or device becomes a `RankError`. Without a process group this process acts alone.
    """
    global _collective
    _collective = distributed.is_available() and distributed.is_initialized()
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().partition("\n")[0]
        lost = "gloo|nccl|connection|broken pipe|time(d )?out"
        if "CUDA error" in said:
            what = f"the device of rank {rank()} failed ({said})"
        elif world_size() > 1 and re.search(lost, str(error), re.IGNORECASE):
            what = f"rank {rank()} of {world_size()} lost another process"
        else:
            raise
        raise RankError(
            f"{what}; the last checkpoint is kept, so repeat the command to resume"
        ) from error
    finally:
        _collective = False


@contextmanager
def alone() -> Iterator[None]:
    """Act as if there were one process, within `collective`."""
    global _collective
    before, _collective = _collective, False
    try:
        yield
    finally:
        _collective = before


@contextmanager
def shadowing(enabled: bool) -> Iterator[None]:
    """Take part in collective operations without contributing to batch statistics.

    A rank without notes of the batch does this, because the other ranks wait for its calls.
    """
    global _shadow
    _shadow = enabled
    try:
        yield
    finally:
        _shadow = False


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over the ranks, in place; the result is bit-identical on all of them."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def all_gather_object(value: T) -> list[T]:
    """Collect a small value, such as a text, from every rank, in the order of the ranks."""
    found: list[Any] = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(found, value)
    return found


def on_main_process(action: Callable[[], T]) -> T:
    """Run something on rank 0 only, such as writing a file, while the other ranks wait.

    Args:
        action: takes nothing; its result must be small and picklable.

    Returns:
        The result, on every rank.

    Raises:
        MarnError: the action raised it on rank 0; raised on every rank.
    """
    if world_size() == 1:
        return action()
    outcome: list[Any] = [None]
    if rank() == 0:
        try:
            outcome = [action()]
        except MarnError as error:
            outcome = [MarnError(str(error))]
    distributed.broadcast_object_list(outcome)
    if isinstance(outcome[0], MarnError):
        raise outcome[0]
    return outcome[0]
