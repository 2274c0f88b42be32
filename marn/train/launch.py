"""Start Lightning Fabric for training: device, precision, and a process for each device."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from marn import lifeline
from marn.errors import MarnError
from marn.train.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

log = logging.getLogger(__name__)

_OBSERVER = logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script")
_NODE_VARIABLES = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}  # what Fabric reads on each node
_TIMEOUT = timedelta(minutes=10)  # how long a rank waits for another; NCCL's own default
_PRECISIONS: Any = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}  # Fabric's names


def start(config: TrainConfig, *, launch: bool = False) -> Fabric:
    """Start Lightning Fabric, and with several devices the process group.

    Args:
        config: settings of the training.
        launch: whether to start the other processes of this node, each of which runs the command
            line of this one from its beginning. Otherwise torchrun, srun or the like has started
            them.

    Returns:
        The launched Fabric.

    Raises:
        MarnError: a device is missing or does not support the precision, or the number of processes
            is not the number of devices.
    """
    from lightning_fabric import Fabric  # takes two seconds, which only training should wait for
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    kind, _, index = config.device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if config.precision == "fp16" and kind != "cuda":
        raise MarnError("precision 'fp16' needs a CUDA device; choose 'bf16' or 'fp32'")
    several = config.processes > 1
    if not several and "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise MarnError(
            f"{os.environ['WORLD_SIZE']} processes were started for a training on one device; set "
            "devices and nodes to what was started"
        )
    if several and index:
        raise MarnError(
            f"device {config.device!r} is one device, but {config.processes} are to train; choose "
            f"{kind!r}"
        )
    _check_devices(config, kind, index)
    try:
        strategy = DDPStrategy(timeout=_TIMEOUT, gradient_as_bucket_view=True)
        fabric = Fabric(
            accelerator=kind,
            devices=config.devices if several or kind == "cpu" else [int(index or 0)],
            num_nodes=config.nodes,
            strategy=strategy if several else "auto",
            precision=_PRECISIONS[config.precision],
        )
        if several:
            _check_launch(config, strategy, launch)
            if os.environ.get("LOCAL_RANK", "0") == "0":
                os.environ[lifeline.PARENT] = str(os.getpid())
            _OBSERVER.setLevel(logging.INFO)
            _OBSERVER.addFilter(_plainly)
            fabric.launch()
    except MarnError:
        raise
    except Exception as error:  # Fabric's errors have no common class
        said = " ".join(str(error).split())
        raise MarnError(
            f"training cannot start with device={config.device!r}, devices={config.devices} "
            f"({said}); choose others"
        ) from error
    return fabric


def _plainly(record: logging.LogRecord) -> bool:
    """Reword Fabric's announcement that it kills this process because another has ended."""
    record.msg = (
        "another process of this training was killed or failed; the last checkpoint is kept, so "
        "repeat the command to resume"
    )
    return True


def _check_devices(config: TrainConfig, kind: str, index: str) -> None:
    """Refuse devices that this machine lacks, and warn of processes that share a core."""
    if kind == "cpu":
        shares = hasattr(os, "sched_getaffinity")  # not on macOS
        cores = len(os.sched_getaffinity(0)) if shares else os.cpu_count() or 1
        first = os.environ.get("LOCAL_RANK", "0") == "0" and not distributed.is_initialized()
        if config.devices > cores and first:
            log.warning(
                "%d processes share %d processor cores, which is slower than devices=%d",
                *(config.devices, cores, cores),
            )
        return
    there = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if not there or (kind == "cuda" and not torch.cuda.is_available()):
        raise MarnError(
            f"device {config.device!r} needs a GPU that torch can use, and there is none; choose "
            "'cpu' or 'auto'"
        )
    if int(index or 0) >= there or config.devices > there:
        raise MarnError(
            f"device {config.device!r} with devices={config.devices} needs more GPUs than the "
            f"{there} of this machine; choose fewer devices, or a number below {there}"
        )


def _check_launch(config: TrainConfig, strategy: DDPStrategy, launch: bool) -> None:
    """Refuse to wait for processes that nothing starts."""
    environment = strategy.cluster_environment
    if environment is not None and environment.creates_processes_externally:
        return
    if not launch or (config.nodes > 1 and not {*os.environ} >= _NODE_VARIABLES):
        raise MarnError(
            f"training on {config.processes} devices needs a process for each; run python -m marn "
            f"train … --devices {config.devices} (on each of several nodes, with MASTER_ADDR, "
            "MASTER_PORT and NODE_RANK set), or start the script with torchrun or srun"
        )
