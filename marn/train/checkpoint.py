"""Read and write the folder of a run: settings, checkpoint, logs and final model."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self, TextIO

import pandas as pd
import torch

from marn import parallel
from marn.corpus import Corpus
from marn.corpus.card import CARD as CORPUS_CARD
from marn.errors import MarnError
from marn.models import Coder
from marn.saving import (
    CHECKPOINT,
    FORMAT,
    README,
    WEIGHTS,
    is_intact,
    provenance,
    read_card,
    read_checkpoint,
    save_model,
    write_card,
    write_json,
    write_readme,
)
from marn.saving import replace as replace_file
from marn.settings import read_json_file
from marn.train.config import TrainConfig

SETTINGS, SCORES, LOCK = "run.json", "scores.json", "lock"
HISTORY, STEPS = "history.csv", "steps.csv"

_PLACEMENT = ("device", "devices", "nodes")  # settings that may change within a run
_HEADER = "epoch,step,loss,learning_rate,notes_per_second,peak_memory_mb\n"


class RunFolder:
    """Manage the files of one run; with `path=None` nothing is read or written.

    Enter it to lock the folder for this process. On several devices every rank makes the same
    calls, and only rank 0 locks and writes.

    Args:
        path: the run directory, on a disk that all nodes share.
        model: the model to train.
        corpus: the corpus to train on.
        config: settings of the training.
        start: digest of the weights of another run, if the training starts from them.
    """

    def __init__(
        self,
        path: Path | None,
        model: Coder,
        corpus: Corpus,
        config: TrainConfig,
        start: str | None = None,
    ):
        self.path, self._model, self._corpus, self._lock = path, model, corpus, ExitStack()
        settings = {
            "model": {"name": model.name, "options": model.options, "tasks": model.tasks},
            "corpus": {
                "name": corpus.name,
                "hash": corpus.hash,
                "notes": {split: len(corpus[split]) for split in corpus.splits},
            },
            "training": {k: v for k, v in asdict(config).items() if k not in _PLACEMENT},
        } | ({"init_from": start} if start else {})
        self.settings = json.loads(json.dumps(settings))  # as they are read back

    def __enter__(self) -> Self:
        """Lock the folder, or raise a `MarnError` if it cannot be used."""
        self._do(lambda path: self._lock.enter_context(_locked(path)))
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    @property
    def finished(self) -> bool:
        """Whether the run has ended, and its model and scores are intact."""
        path = self.path
        return path is not None and parallel.on_main_process(
            lambda: is_intact(path) and (path / README).is_file() and _scores_are_its_own(path)
        )

    def load(self) -> dict[str, Any] | None:
        """Claim the folder, read its checkpoint if there is one, and drop later lines of logs.

        A run may be repeated with more epochs or patience. A folder without a checkpoint contains
        nothing worth keeping, so any run may start there.

        Returns:
            The state that `save` wrote last; None without a checkpoint.

        Raises:
            MarnError: the folder contains another run, a file is damaged, or the ranks differ.
        """
        path = self.path
        state = None
        if path is not None and (path / CHECKPOINT).exists():
            state = read_checkpoint(path / CHECKPOINT)
        epochs = len(state["history"]) if state else 0
        mine = {**self.settings, "epochs done": epochs}
        for other, theirs in enumerate(parallel.all_gather_object(mine)):
            if changed := _differences(mine, theirs):
                raise MarnError(
                    f"ranks {parallel.rank()} and {other} differ ({'; '.join(changed[:4])}); start "
                    "them with one command, and a run_dir on a disk that all nodes see"
                )
        self._do(lambda path: self._claim(path, state), lambda path: _cut_log(path / STEPS, epochs))
        if state is not None:
            self._do(partial(_write_history, state["history"]))
        return state

    def begin(self) -> None:
        """Record that training has begun: until `finish`, the best model is in the checkpoint."""
        self._do(
            lambda path: (path / SCORES).unlink(missing_ok=True),
            lambda path: write_card(path, self._model, self._corpus, weights=None),
        )

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the history, and the checkpoint that contains it, after an epoch.

        The checkpoint comes last: an epoch without one is repeated as a whole.
        """
        whole = {"format": FORMAT, "settings": self.settings, **state}
        self._do(
            partial(_write_history, state["history"]),
            lambda path: replace_file(path / CHECKPOINT, lambda file: torch.save(whole, file)),
        )

    def log(self, *values: float) -> None:
        """Append a line to `steps.csv`; a run that is killed keeps its lines."""
        if self.path is None or parallel.rank() != 0:
            return
        path = self.path / STEPS
        try:
            with path.open("a") as file:
                file.write(",".join(f"{value:.6g}" for value in values) + "\n")
        except OSError as error:  # RankError: the other ranks do not write
            raise parallel.RankError(
                f"{path} could not be written ({error.strerror}); free space and repeat the command"
            ) from error

    def finish(self, thresholds: Mapping[str, Any], scores: dict[str, Any]) -> None:
        """Write the model with its thresholds, and the scores of the epoch that was kept."""
        self._do(
            lambda path: save_model(path, self._model, self._corpus, thresholds),
            lambda path: write_readme(path, scores),
            lambda path: write_json(path / SCORES, scores | _digest(path)),
        )

    def _do(self, *steps: Callable[[Path], object]) -> None:
        """Let rank 0 work in the folder, if there is one, while the other ranks wait."""
        if (path := self.path) is not None:
            for step in steps:
                parallel.on_main_process(partial(step, path))

    def _claim(self, folder: Path, state: dict[str, Any] | None) -> None:
        """Refuse another run, or write the settings if the folder lacks them."""
        try:
            known = read_json_file(folder / SETTINGS)["settings"]
        except (OSError, KeyError, TypeError, ValueError):
            known = None  # missing or damaged; the checkpoint has the settings too
        if state is not None:
            old = state.get("settings", known)  # those of version 0.2.0 have none
            if not isinstance(old, dict):
                raise MarnError(
                    f"{folder / SETTINGS} is damaged, so the settings of the run are "
                    "unknown; delete the folder and train again, or choose another run_dir"
                )
            changed = _differences(
                self._lengthened(folder, old, len(state["history"])), self.settings
            )
            if changed:
                raise MarnError(
                    f"run_dir {folder} contains another run ({'; '.join(changed[:4])}); choose "
                    "another run_dir, or delete it"
                )
        elif (folder / WEIGHTS).exists():
            raise MarnError(
                f"run_dir {folder} holds a model, but no {CHECKPOINT} to resume from; use it with "
                "marn.load_model, or choose another run_dir"
            )
        if known != self.settings:
            # `marn.privacy` asks a run whether its corpus is open.
            about = {"text": self._corpus.card["text"], "settings": self.settings}
            write_json(folder / SETTINGS, about | {"provenance": provenance()})

    def _lengthened(self, folder: Path, old: dict[str, Any], done: int) -> dict[str, Any]:
        """Return the settings of the run with this call's epochs and patience, if it may go on."""
        training, mine = dict(old["training"]), self.settings["training"]
        if mine["patience"] > training["patience"]:
            training["patience"] = mine["patience"]
        if mine["epochs"] >= done:
            training["epochs"] = mine["epochs"]
        lengthened = {**old, "training": training}
        planned = old["training"]["epochs"]
        depends = training["schedule"] == "linear" or training["warmup"] > 0
        if lengthened == self.settings and planned != mine["epochs"] and depends:
            raise MarnError(
                f"run_dir {folder} was planned for {planned} epochs, on which its learning rates "
                f"depend (schedule {training['schedule']!r}, warmup {training['warmup']}); train "
                f"{mine['epochs']} epochs in another run_dir; to start them from its weights, give "
                "it as init_from (--init-from)"
            )
        return lengthened


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run directory; it is released however this process ends.

    Raises:
        MarnError: another training has it, or the folder cannot be a run directory.
    """
    if (folder / CORPUS_CARD).exists():
        raise MarnError(f"run_dir {folder} is a corpus; choose another folder")
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not _lock(file := path.open("a+"), path):
            file.close()  # it was removed when its training ended
    except OSError as error:
        raise MarnError(
            f"run_dir {folder} cannot be used ({error.strerror}); choose another folder"
        ) from error
    with file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(file: TextIO, path: Path) -> bool:
    """Lock an open file, and return whether the path still refers to it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "unknown"
        file.close()
        raise MarnError(
            f"run_dir {path.parent} is in use by training process {holder}; wait until it ends, or "
            "choose another run_dir"
        ) from None
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _digest(folder: Path) -> dict[str, Any]:
    """Return the hash of the weights in a card, which tells whether scores belong to them."""
    return {"weights_sha256": read_card(folder)["weights_sha256"]}


def _scores_are_its_own(folder: Path) -> bool:
    try:
        return _digest(folder).items() <= read_json_file(folder / SCORES).items()
    except (OSError, ValueError, AttributeError):
        return False


def _write_history(history: list[dict[str, float]], folder: Path) -> None:
    table = pd.DataFrame(history)
    replace_file(folder / HISTORY, lambda file: table.to_csv(file, index=False))


def _cut_log(path: Path, epochs: int) -> None:
    """Drop lines of later epochs and unfinished lines."""
    try:
        lines = path.read_text(errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise MarnError(f"{path} cannot be read ({error.strerror}); remove it") from error
    numbered = ((line.partition(",")[0], line) for line in lines[1:] if line[-1] == "\n")
    kept = [line for epoch, line in numbered if epoch.isdecimal() and int(epoch) <= epochs]
    replace_file(path, lambda aside: aside.write_text(_HEADER + "".join(kept)))


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List what differs between nested settings, one line per setting."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{path} was {old!r:.80}, now {new!r:.80}"]
