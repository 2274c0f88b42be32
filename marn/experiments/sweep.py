"""Run one notebook over a grid of parameters and seeds, with papermill and Dask.

`python -m marn sweep EXPERIMENT.yaml` runs every combination that is not finished yet. A run is
identified by its parameters, the hash of its corpus and the version of the code that matters to
it. So a finished run is never repeated, and a failed or killed one resumes from its checkpoint.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO

from marn.errors import MarnError
from marn.experiments.plan import DONE, Planned, plan
from marn.progress import Progress, duration

if TYPE_CHECKING:
    from distributed import Client, Future, WorkerPlugin

NOTEBOOK, RUN = "notebook.ipynb", "run"
_MB = 1 << 20
_RUN_MB = 64  # assumed size of a run's folder, until a finished one can be measured
_FAILURES = 3  # if this many runs fail before any succeeds, the rest is cancelled
_POLL = 2.0  # seconds between two looks at the runs


def finished(out: Path) -> list[dict[str, Any]]:
    """Read `DONE` of each finished run in a folder.

    Raises:
        MarnError: a file is damaged.
    """
    found = []
    for file in sorted(out.glob(f"*/{DONE}")):
        try:
            found.append(json.loads(file.read_text(encoding="utf-8")))
        except ValueError:
            raise MarnError(f"{file} is damaged; delete it, and repeat the command") from None
    return found


def expected(run: Planned, before: Iterable[Mapping[str, Any]]) -> float | None:
    """Estimate the seconds of a run by the median of the finished runs most like it.

    Args:
        run: the run.
        before: finished runs, from `finished`.

    Returns:
        Seconds: of runs that differ in the seed only, or else of the same system, or else of any
        run; None if no run is finished.
    """
    alike: list[list[float]] = [[], [], []]
    for other in before:
        theirs, mine = other["labels"], run.labels
        shared = [theirs.get(key) == value for key, value in mine.items() if key != "seed"]
        same_system = theirs.get("model", theirs.get("system")) == mine.get(
            "model", mine.get("system")
        )
        alike[0 if all(shared) else 1 if same_system else 2].append(other["seconds"])
    return next((median(seconds) for seconds in alike if seconds), None)


def execute(place: str, notebook: str, run: Mapping[str, Any]) -> str:
    """Execute one run on the machine of the worker that calls this.

    Args:
        place: the run's folder, which all workers see.
        notebook: path of its notebook, which all workers see too.
        run: labels, parameters, about and key, to be written to `DONE`.

    Returns:
        "done"; "busy" if another sweep is running it; or else the last line of the error.
    """
    import papermill
    from traitlets.config import Config

    from marn.saving import write_json

    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "busy"
        if (folder / DONE).exists():
            return "done"
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ["TQDM_DISABLE"] = "1"
        began, home = time.monotonic(), Path(notebook).parent
        known = papermill.inspect_notebook(notebook)
        own = {"run_dir": os.path.relpath(folder / RUN, home)} if "run_dir" in known else {}
        try:
            with TemporaryDirectory() as sockets:  # for this kernel, unreadable to other users
                kernel = {"transport": "ipc", "ip": f"{sockets}/kernel"}
                quiet = {"extra_arguments": ["--log-level=CRITICAL"]}  # at Ctrl-C too
                papermill.execute_notebook(
                    notebook,
                    str(folder / NOTEBOOK),
                    parameters={**run["parameters"], **own},
                    cwd=str(home),
                    progress_bar=False,
                    config=Config({"KernelManager": kernel, "NotebookClient": quiet}),
                )
            seconds = round(time.monotonic() - began, 1)
            write_json(folder / DONE, {**run, "seconds": seconds})
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return lines[-1][:300]
    return "done"


def sweep(
    path: str | Path,
    out: str | Path,
    *,
    jobs: int = 1,
    address: str | None = None,
    dry_run: bool = False,
    changes: Mapping[str, Any] | None = None,
    stream: TextIO | None = None,
) -> list[Planned]:
    """Run an experiment until every run is finished or has failed.

    Args:
        path: the experiment's YAML file.
        out: folder for the runs, which every worker sees. Sweeps may share it.
        jobs: runs at a time, each a process of this machine.
        address: address of a Dask scheduler, whose workers are used instead.
        dry_run: list the runs and the time that each will take, and run none. Before any run is
            finished, the time is the mean of those that the book has of this experiment.
        changes: settings that replace those of the file, see `marn.experiments.plan.read`.
        stream: where progress is written; by default standard output.

    Returns:
        The runs of the experiment, in the order of the grid.

    Raises:
        MarnError: see `marn.experiments.plan.plan`; or the disk has no room, no scheduler answers
            at the address, or runs failed (after all others were finished, unless the first few
            failed or the disk filled up).
    """
    path, out, stream = Path(path), Path(out).resolve(), stream or sys.stdout
    runs, before = plan(path, out, changes), finished(out)
    to_do = [run for run in runs if not run.finished]
    usual = None if before else _kept(path)
    seconds = [usual or expected(run, before) for run in to_do]
    if dry_run:
        for run in runs:
            time_of = seconds[to_do.index(run)] if run in to_do else None
            said = "finished" if run.finished else duration(time_of) if time_of else "time unknown"
            stream.write(f"{run.name}: {said}\n")
    total = duration(sum(s or 0 for s in seconds) / jobs)
    total += " of one worker" if address else ""
    rest = f"; the rest will take about {total}" if to_do and all(seconds) else ""
    stream.write(f"{len(runs)} runs, {len(runs) - len(to_do)} of them finished{rest}\n")
    if dry_run or not to_do:
        return runs
    _check_room(out, len(to_do))
    progress = Progress(len(runs), stream=stream, done=len(runs) - len(to_do), unit="run")
    with _client(jobs, address) as client:
        if find_spec("bokeh"):  # without it Dask shows no dashboard
            stream.write(f"Dask's dashboard: {client.dashboard_link}\n")
        failed = _Queue(client, to_do, progress).run()
    if failed:
        raise MarnError(
            f"{len(failed)} of {len(runs)} runs failed ({failed[0]}); repeat the command to redo "
            "them"
        )
    return runs


def _kept(path: Path) -> float | None:
    """Read the mean seconds of a run from the result that the book keeps of an experiment."""
    kept = path.parent.parent / "results" / f"{path.stem}.json"
    try:
        ran = json.loads(kept.read_text(encoding="utf-8"))["runs"]
        return 3600 * float(ran["hours"]) / int(ran["count"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _check_room(out: Path, runs: int) -> None:
    """Refuse to begin runs that the disk has no room for."""
    sizes = [
        sum(file.stat().st_size for file in done.parent.rglob("*") if file.is_file())
        for done in out.glob(f"*/{DONE}")
    ]
    need = max(sizes, default=_RUN_MB * _MB) * runs
    try:
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise MarnError(f"{out} cannot be made ({error.strerror}); choose another folder") from None
    if free < need:
        raise MarnError(
            f"{runs} runs need about {need // _MB} MB in {out}, but the disk has "
            f"{free // _MB} MB free; free space or choose another folder"
        )


def _client(jobs: int, address: str | None) -> Client:
    """Connect to a scheduler, or start workers on this machine."""
    import dask
    import torch
    from distributed import Client, LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    if address is None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # while it closes, too
        # A worker of this machine that dies closes its connection; one that is slow has not died.
        # Scheduler and worker mostly wait: their own ticks and samples took 8 % of a core.
        dask.config.set(
            {
                "distributed.scheduler.worker-ttl": None,
                "distributed.worker.profile.enabled": False,
                "distributed.admin.system-monitor.interval": "10s",
                "distributed.admin.tick.interval": "1s",
            }
        )
        cluster = LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster)
        if gpus := torch.cuda.device_count():
            shown = os.environ.get("CUDA_VISIBLE_DEVICES")
            client.register_plugin(
                _own_gpu(shown.split(",") if shown else [*map(str, range(gpus))])
            )
        return client
    try:
        return Client(address, timeout=10)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MarnError(
            f"no Dask scheduler answers at {address} ({reason:.100}); start one with: "
            "dask scheduler"
        ) from None


def _own_gpu(gpus: Sequence[str]) -> WorkerPlugin:
    """Assign the GPUs to the workers of this machine in turn; a worker's kernels see only its own.

    Args:
        gpus: ids as `CUDA_VISIBLE_DEVICES` has them.
    """
    from distributed import WorkerPlugin

    class OwnGpu(WorkerPlugin):
        name = "own-gpu"

        def setup(self, worker: Any) -> None:  # called again when a dead worker is restarted
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker.name) % len(gpus)]

    return OwnGpu()


class _Queue:
    """The unfinished runs of a sweep, submitted to the workers of a client."""

    def __init__(self, client: Client, runs: Sequence[Planned], progress: Progress) -> None:
        self.client, self.progress = client, progress
        self.numbers = itertools.count()
        self.died: set[str] = set()  # keys of runs whose worker died once
        self.done, self.failed = 0, list[str]()
        self.futures: dict[Future, Planned] = {}
        for run in runs:
            self._submit(run)

    def _submit(self, run: Planned) -> None:
        said = {
            "labels": run.labels,
            "parameters": run.parameters,
            "about": run.about,
            "key": run.key,
        }
        number = next(self.numbers)  # a run may be submitted again: its task needs another name
        future = self.client.submit(
            execute,
            str(run.folder),
            str(run.notebook),
            said,
            key=f"{run.key}-{os.getpid()}-{number}",
            priority=-number,  # in the order of the grid
            pure=False,
        )
        self.futures[future] = run

    def run(self) -> list[str]:
        """Wait for all runs and report their progress; return one line per failed run."""
        from distributed import wait

        alone = False
        while self.futures:
            try:
                ended = wait(list(self.futures), timeout=_POLL, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                workers = self.client.scheduler_info()[
                    "n_workers"
                ]  # the list may be empty by a race
                if not workers and not alone:
                    self.progress.line("all workers have stopped; waiting for one")
                alone = not workers
                continue
            for future in ended:
                self._ended(future, self.futures.pop(future))
        return self.failed

    def _ended(self, future: Future, run: Planned) -> None:
        """Record how a run ended; submit it again if it was busy, or if its worker died once."""
        error = future.exception()
        said = future.result() if error is None else str(error).splitlines()[0]
        if said == "busy":  # another sweep is running it: queue it behind all other runs
            time.sleep(_POLL)
            self._submit(run)
        elif said == "done":
            self.done += 1
            self.progress.step("")
            left = self.progress.left()
            more = f", about {duration(left)} left" if self.futures else ""
            took = json.loads((run.folder / DONE).read_text(encoding="utf-8"))["seconds"]
            self.progress.line(
                f"{self.progress.done}/{self.progress.total} {run.name}: {duration(took)}{more}"
            )
        elif type(error).__name__ == "KilledWorker" and run.key not in self.died:
            self.died.add(run.key)
            self.progress.line(f"{run.name}: its worker died; trying again")
            self._submit(run)
        else:
            self.failed.append(f"{run.name}: {said}")
            self.progress.line(f"failed: {run.name}: {said}")
            hopeless = len(self.failed) == _FAILURES and not self.done
            if hopeless or "No space left" in said or "could not be written" in said:
                self.client.cancel(list(self.futures))
                self.futures.clear()
