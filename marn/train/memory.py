"""Memory of a training: how much it takes, and what to do when a device runs out of it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from marn import parallel
from marn.models import Coder

_MANY_SCORES = 1 << 24  # attention scores of a note; 4,000 words by 88 codes are a fiftieth
_MALLOPT = {-3: 4 << 20, -1: 64 << 20}  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, in bytes


def peak_memory(device: torch.device) -> float:
    """Return the most memory taken so far, in MB: of a CUDA device, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def capacity(device: torch.device) -> float:
    """Return the memory that a device has, in MB: of a CUDA device, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e6
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def return_freed_memory(model: Coder) -> None:
    """Make glibc return freed arrays to the system, if attention has many scores.

    glibc keeps freed memory in pieces that the next array may not fit into. With 8,921 codes and
    notes of 4,000 words that raises the peak of a step by a quarter (`benchmarks.step`); with 50
    codes, returning memory costs a tenth of the time. Does nothing on other systems, or where one
    of glibc's own variables `MALLOC_…_` is set.
    """
    if model.max_length * sum(model.tasks.values()) <= _MANY_SCORES or sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and not any(name.startswith("MALLOC_") for name in os.environ):
        for option, size in _MALLOPT.items():  # musl has no mallopt
            library.mallopt(option, size)


def has_batch_statistics(model: nn.Module) -> bool:
    """Tell whether the output for a note depends on its batch in training."""
    return any(isinstance(x, nn.modules.batchnorm._BatchNorm) for x in model.modules())


class MemorySaver:
    """Repeats work that ran out of device memory in a way that needs less of it.

    First fewer attention scores are held at a time, which changes nothing but the time. When that
    does not help, the batch is computed in more parts, unless batch normalisation would notice.

    Args:
        model: the model that works.
        parts: parts of a batch to begin with.
    """

    def __init__(self, model: Coder, parts: int) -> None:
        self.model, self.parts = model, parts

    def run(self, work: Callable[[], Tensor], notes: int, tokens: int) -> Tensor:
        """Do some work, as often as it takes.

        Args:
            work: computes gradients and returns the loss; it reads `parts`.
            notes: number of notes in its batch, on this device.
            tokens: length of the longest.

        Raises:
            RankError: nothing helps.
        """
        while True:
            undo = _snapshot(self.model)
            try:
                return work()
            except torch.cuda.OutOfMemoryError as error:
                if not self._save(notes, tokens):
                    raise parallel.RankError(
                        f"{next(self.model.parameters()).device} has no memory for {notes} notes "
                        f"of {tokens} tokens; choose a smaller batch_size, or accumulate="
                        f"{2 * self.parts}, or a shorter max_length (marn.train.budget tells what "
                        "fits); the last checkpoint is kept"
                    ) from error
            undo()

    def rehearse(self, work: Callable[[], Tensor], notes: int, tokens: int) -> None:
        """Settle before a training on several devices how each does its largest batch.

        In the training itself no rank can repeat a step, because the others wait for its gradients.
        """
        undo = _snapshot(self.model)
        with parallel.collective(enabled=False):
            self.run(work, notes, tokens)
        self.model.zero_grad()
        undo()

    def _save(self, notes: int, tokens: int) -> bool:
        """Choose a way that needs less memory, if there is one."""
        if parallel.world_size() > 1:
            return False
        head, row = self.model.head, -(-notes // self.parts) * tokens
        held = min(head.at_once or 0, row * sum(self.model.tasks.values()))
        if held > row:
            head.at_once = held // 2
            return True
        if self.parts < notes and not has_batch_statistics(self.model):
            self.parts *= 2
            return True
        return False


def _snapshot(model: nn.Module) -> Callable[[], None]:
    """Return what undoes a forward pass: running statistics and random numbers."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    random = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def undo() -> None:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        torch.set_rng_state(random)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)

    return undo
