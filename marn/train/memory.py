"""Measure the memory of training, and save memory when a device runs out of it."""

import os
import resource
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from marn import parallel
from marn.errors import MarnError
from marn.models import Coder


def peak_memory(device: torch.device) -> float:
    """Return the peak memory so far, in MB: of a CUDA device, otherwise of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def capacity(device: torch.device) -> float:
    """Return the memory of a CUDA device, or otherwise of the machine, in MB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e6
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


REHEARSED = ("cuda",)
"""Devices whose memory a step can exhaust without ending the process."""


class MemorySaver:
    """Repeat a step that ran out of device memory in a way that needs less memory.

    First, fewer attention scores are held at a time, which costs time but changes no result. When
    that does not help, the batch is computed in more parts, unless batch normalisation would give
    another result. With several ranks no step can be repeated, because the other ranks wait for its
    gradients; so `rehearse` tries the largest step before the first one.

    Args:
        model: the model that is trained.
        parts: number of parts of a batch to begin with.
    """

    def __init__(self, model: Coder, parts: int) -> None:
        self.model, self.parts = model, parts

    def run(self, work: Callable[[], Tensor], notes: int, tokens: int) -> Tensor:
        """Compute gradients, retrying with less memory until it works.

        Args:
            work: computes gradients and returns the loss; it reads `parts`.
            notes: number of notes in the batch.
            tokens: number of tokens in the longest note.

        Returns:
            The loss.

        Raises:
            RankError: the step does not fit into the memory, however it is computed.
        """
        device = next(self.model.parameters()).device
        while True:
            restore = _state_of(self.model)
            try:
                return work()
            except torch.cuda.OutOfMemoryError as error:
                if not self._use_less(notes, tokens):
                    raise parallel.RankError(
                        f"{device} has no memory for {notes} notes of up to {tokens} tokens; "
                        f"choose a smaller batch_size, accumulate={2 * self.parts} or a shorter "
                        "max_length (the last checkpoint is kept)"
                    ) from error
            restore()

    def rehearse(self, work: Callable[[], Tensor], notes: int, tokens: int) -> None:
        """Try work on each rank alone, and agree on a way that fits into the memory of all.

        The resulting gradients are discarded.

        Args:
            work: as in `run`.
            notes: as in `run`.
            tokens: as in `run`.

        Raises:
            MarnError: a rank does not have enough memory.
        """
        restore, said = _state_of(self.model), ""
        try:
            with parallel.alone():
                self.run(work, notes, tokens)
        except parallel.RankError as error:
            said = str(error)
        restore()
        self.model.zero_grad()
        found = parallel.all_gather_object((said, self.parts, self.model.head.at_once))
        if failed := [said for said, *_ in found if said]:
            raise MarnError(failed[0])
        self.parts = max(parts for _, parts, _ in found)
        self.model.head.at_once = min((held for *_, held in found if held), default=None)

    def _use_less(self, notes: int, tokens: int) -> bool:
        """Choose a way that needs less memory, if there is one."""
        if parallel.world_size() > 1:
            return False
        head, one_code = self.model.head, -(-notes // self.parts) * tokens
        held = min(head.at_once or 0, one_code * sum(self.model.tasks.values()))
        if held > one_code:
            head.at_once = held // 2
            return True
        normalised = any(
            isinstance(x, nn.modules.batchnorm._BatchNorm) for x in self.model.modules()
        )
        if self.parts < notes and not normalised:
            self.parts *= 2
            return True
        return False


def _state_of(model: Coder) -> Callable[[], None]:
    """Copy what a forward pass changes: running statistics and random number generators."""
    device = next(model.parameters()).device
    buffers = [buffer.clone() for buffer in model.buffers()]
    random = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore() -> None:
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        torch.set_rng_state(random)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)

    return restore
