"""The folder of a run: its settings, its checkpoint, its logs and the model that it ends with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from marn import parallel
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.models import Coder
from marn.saving import provenance, save_model, write_json
from marn.saving import replace as replace_file
from marn.train.config import TrainConfig

CHECKPOINT, SETTINGS, SCORES = "checkpoint.pt", "run.json", "scores.json"
HISTORY, STEPS = "history.csv", "steps.csv"
FORMAT = 2

_PLACEMENT = ("device", "devices", "nodes")  # settings that do not make another run
_HEADER = "epoch,step,loss,learning_rate,notes_per_second,peak_memory_mb\n"


class RunFolder:
    """The files of one run; with `path=None` nothing is read or written.

    On several devices every rank makes the same calls, and only rank 0 writes.

    Args:
        path: the run directory, on a disk that all nodes see.
        model: as it was built.
        corpus: to train on.
        config: settings of the training.

    Raises:
        MarnError: the folder holds another run, or cannot be read or written.
    """

    def __init__(self, path: Path | None, model: Coder, corpus: Corpus, config: TrainConfig):
        self.path = path
        settings = {
            "model": {"name": model.name, "options": model.options, "tasks": model.tasks},
            "corpus": {
                "name": corpus.name,
                "hash": corpus.hash,
                "notes": {split: len(corpus[split]) for split in corpus.splits},
            },
            "training": {k: v for k, v in asdict(config).items() if k not in _PLACEMENT},
        }
        self.settings = json.loads(json.dumps(settings))  # as they are read back
        if path is not None:
            parallel.on_main_process(lambda: self._claim(path, corpus.card["text"]))

    @property
    def finished(self) -> bool:
        """Whether the run has ended and its model is there."""
        return self.path is not None and parallel.on_main_process((self.path / SCORES).exists)

    def load(self) -> dict[str, Any] | None:
        """Read the checkpoint, if there is one, and drop what was logged after it.

        Raises:
            MarnError: a file is damaged, or the ranks are not of one run.
        """
        path = self.path
        state = None if path is None else _read(path / CHECKPOINT)
        epochs = len(state["history"]) if state else 0
        mine = {**self.settings, "epochs done": epochs}
        for other, theirs in enumerate(parallel.all_gather_object(mine)):
            if changed := _differences(mine, theirs):
                raise MarnError(
                    f"ranks {parallel.rank()} and {other} differ ({'; '.join(changed[:4])}); start "
                    "them with one command, and a run_dir on a disk that all nodes see"
                )
        if path is not None:
            parallel.on_main_process(lambda: _cut_log(path / STEPS, epochs))
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the history and the checkpoint, which holds it, after an epoch.

        The checkpoint comes last: an epoch without one is repeated as a whole.
        """
        if self.path is None:
            return
        history, checkpoint = self.path / HISTORY, self.path / CHECKPOINT
        table = pd.DataFrame(state["history"])

        def write() -> None:
            replace_file(history, lambda aside: table.to_csv(aside, index=False))
            replace_file(checkpoint, lambda aside: torch.save({"format": FORMAT, **state}, aside))

        parallel.on_main_process(write)

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

    def finish(
        self, model: Coder, corpus: Corpus, thresholds: Mapping[str, Any], scores: dict[str, Any]
    ) -> None:
        """Write the model with its thresholds, and the scores of the epoch that was kept."""
        path = self.path
        if path is not None:
            parallel.on_main_process(lambda: save_model(path, model, corpus, thresholds))
            parallel.on_main_process(lambda: write_json(path / SCORES, scores))

    def _claim(self, folder: Path, text: str) -> None:
        """Make the folder ours, or refuse it."""
        path = folder / SETTINGS
        try:
            old = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except FileNotFoundError:
            # `marn.privacy` asks a run whether its corpus is open.
            about = {"text": text, "settings": self.settings, "provenance": provenance()}
            write_json(path, about)
            return
        except OSError as error:
            raise MarnError(
                f"run_dir {folder} cannot be used ({error.strerror}); choose another folder"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path) from error
        if changed := _differences(old, self.settings):
            raise MarnError(
                f"run_dir {folder} holds another run ({'; '.join(changed[:4])}); choose another "
                "run_dir, or delete it"
            )


def _read(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, if it exists."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']}")
    except Exception as error:  # torch raises whatever the damaged part raises
        raise _damaged(path) from error
    return state


def _cut_log(path: Path, epochs: int) -> None:
    """Drop lines that are of later epochs, or were not finished."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [x for x in lines[1:] if x[-1] == "\n" and int(x.split(",")[0]) <= epochs]
    replace_file(path, lambda aside: aside.write_text(_HEADER + "".join(kept)))


def _damaged(path: Path) -> MarnError:
    return MarnError(
        f"{path} is damaged or of another version; delete {path.parent} and train again"
    )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List what differs between nested settings, one line per setting."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{path} was {old!r}, now {new!r}"]
