"""Benchmarks against a straightforward reference: `make bench`, `python -m benchmarks [NAME …]`.

Every module beside this one that has `BARS` is a benchmark: its docstring says what is compared,
`BARS` what is promised, and `measure(quick)` returns the figures. The reference of a model is
`marn.plain`. Both sides do the same work, in one process, turn by turn; what counts is the CPU time
of the process at one thread, and the memory that a fresh process takes on top of what it had. Times
and memory belong to a machine. Ratios travel, and so do shares of the peak: the pace of a large
product of matrices, measured in the same process.
"""

from __future__ import annotations

import functools
import gc
import importlib
import multiprocessing
import pkgutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from marn.errors import MarnError

REPEATS = 3
"""Turns of each side; the median counts."""

UNITS = {
    "x": "ratio to the reference",
    "apart": "largest difference between the two results",
    "ms": "milliseconds of processor time",
    "MB": "megabytes of memory",
}


@dataclass(frozen=True)
class Bar:
    """One promise on one figure of a benchmark."""

    figure: str
    """Key of what `measure` returns."""
    text: str
    """What is measured."""
    least: float | None = None
    most: float | None = None
    unit: str = "x"
    """`"x"` is a ratio to the reference; see `UNITS`."""

    def met(self, value: float) -> bool:
        """Whether a measured value keeps the promise."""
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def __str__(self) -> str:
        """Write the promise: `>= 2 x`."""
        return (
            f">= {self.least:g} {self.unit}"
            if self.most is None
            else f"<= {self.most:g} {self.unit}"
        )


def available() -> dict[str, ModuleType]:
    """Return the benchmarks by name, in alphabetical order."""
    modules = [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
        if found.name != "__main__"
    ]
    return {
        module.__name__.rpartition(".")[2]: module for module in modules if hasattr(module, "BARS")
    }


def interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, float]:
    """Let the sides do their work in turns.

    Args:
        sides: what each does.
        repeats: turns of each.

    Returns:
        Median seconds of CPU time of this process, for each side.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            gc.collect()
            began = time.process_time()
            work()
            taken[name].append(time.process_time() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


@functools.cache
def peak_pace(size: int = 2048) -> float:
    """Measure fp32 multiplications a second, once per process.

    Matrix products and convolutions are of two libraries (MKL, oneDNN). On an AMD EPYC with
    AVX-512 the convolution is twice as fast, so the faster of the two counts.
    """
    import torch
    from torch.nn.functional import conv1d

    a, b, wide = torch.randn(size, size), torch.randn(size, size), size // 4
    kernel, words = torch.randn(wide, wide, 3), torch.randn(16, wide, 350)
    work = {"product": lambda: a @ b, "convolution": lambda: conv1d(words, kernel, padding=1)}
    for run in work.values():
        run()  # the first one also starts the library
    taken = interleaved(work, repeats=5)
    return max(size**3 / taken["product"], 16 * 350 * 3 * wide**2 / taken["convolution"])


def share_of_peak(multiplications: float, seconds: float) -> float:
    """Return the share of `seconds` that the multiplications alone would take at the peak."""
    return multiplications / peak_pace() / seconds


def agree(name: str, ours: Any, theirs: Any, tolerance: float) -> None:
    """See that both sides do the same work.

    Args:
        name: of what is compared.
        ours: numbers, arrays or tensors without gradients.
        theirs: of the same shape.
        tolerance: largest absolute difference.

    Raises:
        MarnError: they differ by more.
    """
    import numpy as np

    sides = [
        np.asarray(getattr(side, "detach", lambda side=side: side)()) for side in (ours, theirs)
    ]
    apart = float(np.abs(sides[0] - sides[1]).max())
    if not apart <= tolerance:
        raise MarnError(f"the two sides of a benchmark differ by {apart:g} in {name}")


def _status(field: str) -> float:
    """Read a size from Linux's account of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise MarnError("this system does not tell the memory of a process; benchmarks need Linux")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of the resident size


def _watched(
    setup: Callable[..., Callable[[], Any]], arguments: Any, whole: bool, told: Any
) -> None:
    import torch

    torch.set_num_threads(1)
    before = _status("VmRSS")
    work = setup(**arguments)
    gc.collect()
    if not whole:
        before = _status("VmRSS")
    _forget_peak()
    work()
    told.send(_status("VmHWM") - before)


def peak(setup: Callable[..., Callable[[], Any]], *, whole: bool, **arguments: Any) -> float:
    """Measure the memory that some work takes in a fresh process.

    Args:
        setup: a function of a module; makes the inputs and returns the work.
        whole: whether the inputs count, for the peak above import; else only what the work adds.
        **arguments: of `setup`.

    Returns:
        MB.

    Raises:
        MarnError: the process died, or this is not Linux.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise MarnError("this system does not tell the memory of a process; benchmarks need Linux")
    # A server that has imported what is needed, and done nothing else, makes each process.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["torch", "lightning_fabric", "marn.train.loop", setup.__module__]
    )
    here, there = processes.Pipe()
    process = processes.Process(target=_watched, args=(setup, arguments, whole, there))
    process.start()
    there.close()
    try:
        return float(here.recv())
    except EOFError as error:
        process.join()
        raise MarnError(f"{setup.__name__} died with status {process.exitcode}") from error
    finally:
        process.join()


def table(
    name: str, module: ModuleType, figures: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return the bars of a benchmark beside what was measured, one row each.

    Args:
        name: of the benchmark.
        module: of the benchmark.
        figures: what `measure` returned; None where it did not run.
    """
    rows = []
    for bar in module.BARS:
        measured = None if figures is None else figures[bar.figure]
        rows.append(
            {
                "benchmark": name,
                "figure": bar.figure,
                "work": bar.text,
                "bar": str(bar),
                "kind": "at least" if bar.most is None else "at most",
                "bound": bar.least if bar.most is None else bar.most,
                "unit": bar.unit,
                "meaning": UNITS[bar.unit],
                "measured": measured,
                "met": None if measured is None else bar.met(measured),
            }
        )
    return rows


def keep(path: Path, scale: str, made: Mapping[str, Any]) -> None:
    """Write benchmarks into a JSON file; those of others that are there stay.

    The file says all that is needed to read it: `bars` has every bar of every benchmark, with
    `measured` and `met` null for what was not run.

    Raises:
        MarnError: the file is of another scale.
    """
    import json

    from marn.saving import write_json

    there: dict[str, Any] = {"scale": scale}
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
    if there["scale"] != scale:
        raise MarnError(f"{path} holds benchmarks of scale {there['scale']!r}; give another file")
    benchmarks = dict(sorted({**there.get("benchmarks", {}), **made}.items()))
    bars = [
        row
        for name, module in available().items()
        for row in table(name, module, benchmarks.get(name, {}).get("figures"))
    ]
    command = f"python -m benchmarks --json {path.name}"
    write_json(path, {"command": command, "scale": scale, "bars": bars, "benchmarks": benchmarks})
