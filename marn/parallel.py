"""Several processes that train one model: Lightning Fabric starts them, and they talk in here.

The collective operations are named as in torch.distributed. Outside `collective` they act as if
there were one process, so code that calls them needs no process group.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed

from marn.errors import MarnError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")

_NODE_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")  # what Fabric reads on each node
_TIMEOUT = timedelta(minutes=10)  # that a rank waits for another one; NCCL's own default
_PRECISIONS: Any = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}  # Fabric's names


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
def collective(enabled: bool = True) -> Iterator[None]:
    """Make the functions of this module collective: every process must make the same calls.

    A lost process or device becomes a `RankError`. Without a process group, or not `enabled`, this
    process acts alone.
    """
    global _state
    before = _state
    if enabled and distributed.is_available() and distributed.is_initialized():
        _state = _State(distributed.get_world_size(), distributed.get_rank())
    else:
        _state = _State()
    try:
        yield
    except RuntimeError as error:
        if (explained := _explain(error)) is None:
            raise
        raise explained from error
    finally:
        _state = before


def _explain(error: RuntimeError) -> MarnError | None:
    """Name what happened to a device or to another process; None if it was something else."""
    said = re.sub(r"^(\[[^\]]*\] *)+", "", str(error).strip()).partition("\n")[0]
    if "CUDA error" in said:
        what = f"the device of rank {rank()} failed ({said})"
    elif world_size() == 1:
        return None
    elif "finished reduction in the prior iteration" in said:
        return MarnError(
            "a weight had no part in the loss of a batch, which training on several devices does "
            "not allow; freeze it with requires_grad_(False)"
        )
    elif re.search("gloo|nccl|connection|broken pipe|time(d )?out", str(error), re.IGNORECASE):
        what = f"rank {rank()} of {world_size()} lost another process ({said.partition('. ')[0]})"
    else:
        return None
    return RankError(f"{what}; the last checkpoint is kept, so repeat the command to resume")


@contextmanager
def shadowing(enabled: bool) -> Iterator[None]:
    """Take part in collective operations without contributing to batch statistics.

    A rank without a note of the batch does so, because the other ranks wait for its calls.
    """
    global _state
    before, _state = _state, replace(_state, shadow=enabled)
    try:
        yield
    finally:
        _state = before


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over the ranks, in place; the result is the same to the bit on each."""
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
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = action()
        except MarnError as error:
            outcome[1] = str(error)
    distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise MarnError(outcome[1])
    return outcome[0]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MarnError(f"device {name!r} needs CUDA, but torch finds no CUDA device; use 'auto'")
    return device


def start(
    device: str, devices: int = 1, nodes: int = 1, precision: str = "fp32", *, launch: bool = False
) -> Fabric:
    """Start Lightning Fabric, and with several devices the process group.

    Args:
        device: `"auto"`, or the name of a torch device.
        devices: processes on each node.
        nodes: number of machines.
        precision: `"fp32"`, `"bf16"` or `"fp16"`.
        launch: whether to start the other processes of this node, each of which runs the command
            line of this one from its beginning. Otherwise torchrun, srun or the like has started
            them.

    Raises:
        MarnError: a device is unknown or missing, or cannot do the precision, or the number of
            processes is not the number of devices.
    """
    from lightning_fabric import Fabric  # takes two seconds, which only training should wait for

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    found, processes = _device(device), devices * nodes
    if precision == "fp16" and found.type != "cuda":
        raise MarnError("precision 'fp16' needs a CUDA device; choose 'bf16' or 'fp32'")
    if processes == 1:
        started = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
        if started > 1:
            raise MarnError(
                f"{started} processes were started for a training on one device; set devices and "
                "nodes to what was started"
            )
        own = [found.index or 0] if found.type == "cuda" else 1
        return Fabric(accelerator=found.type, devices=own, precision=_PRECISIONS[precision])
    if found.index is not None or found.type not in ("cpu", "cuda"):
        raise MarnError(
            f"device {device!r} is one device, but {processes} are to train; choose 'auto', "
            "'cuda' or 'cpu'"
        )
    if found.type == "cuda" and torch.cuda.device_count() < devices:
        raise MarnError(
            f"devices={devices} is more than the {torch.cuda.device_count()} CUDA devices of this "
            "machine; choose fewer, or device='cpu'"
        )
    return _process_group(found.type, devices, nodes, precision, launch)


def _process_group(kind: str, devices: int, nodes: int, precision: str, launch: bool) -> Fabric:
    """Start the processes, or join those that were started."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    needed = (
        f"training on {devices * nodes} devices needs one process per device; run python -m marn "
        f"train … --devices {devices}, or start the script with torchrun"
    )
    if hasattr(sys, "ps1"):
        raise MarnError(f"{needed} (a notebook is a single process)")
    strategy = DDPStrategy(timeout=_TIMEOUT, gradient_as_bucket_view=True)
    try:
        fabric = Fabric(
            accelerator=kind,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=_PRECISIONS[precision],
        )
        environment = strategy.cluster_environment
        if environment is None or not environment.creates_processes_externally:
            if nodes > 1 and not {*_NODE_VARIABLES} <= {*os.environ}:
                raise MarnError(
                    f"training on {nodes} nodes needs {', '.join(_NODE_VARIABLES)} in the "
                    "environment of each node (address and free port of the first node, number of "
                    "the node from 0); set them, or start with torchrun or srun"
                )
            if not launch:
                raise MarnError(needed)
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        if isinstance(error, MarnError):
            raise
        said = str(error).strip().partition("\n")[0]
        raise MarnError(f"the {devices * nodes} processes did not start ({said})") from error
    return fabric
