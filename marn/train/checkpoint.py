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
_COLUMNS = ("epoch", "step", "loss", "learning_rate", "notes_per_second", "peak_memory_mb")


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
        self.settings = {
            "model": {"name": model.name, "options": model.options, "tasks": model.tasks},
            "corpus": {
                "name": corpus.name,
                "hash": corpus.hash,
                "notes": {split: len(corpus[split]) for split in corpus.splits},
            },
            "training": {k: v for k, v in asdict(config).items() if k not in _PLACEMENT},
        }
        self.settings = json.loads(json.dumps(self.settings))
        self._text = corpus.card["text"]
        if path is not None:
            parallel.on_main_process(self._claim)

    @property
    def finished(self) -> bool:
        """Whether the run has ended and its model is there."""
        return self.path is not None and parallel.on_main_process((self.path / SCORES).exists)

    def load(self) -> dict[str, Any] | None:
        """Read the checkpoint, if there is one, and drop what was logged after it.

        Raises:
            MarnError: a file is damaged, or the ranks are not of one run.
        """
        state = self._read_checkpoint()
        epochs = len(state["history"]) if state else 0
        mine = {**self.settings, "epochs done": epochs}
        for other, theirs in enumerate(parallel.all_gather_object(mine)):
            if changed := _differences(mine, theirs):
                raise MarnError(
                    f"ranks {parallel.rank()} and {other} differ ({'; '.join(changed[:4])}); start "
                    "them with one command, and a run_dir on a disk that all nodes see"
                )
        if self.path is not None:
            parallel.on_main_process(lambda: self._cut_log(epochs))
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the history and the checkpoint, which holds it, after an epoch.

        The checkpoint comes last: an epoch without one is repeated as a whole.
        """
        if self.path is None:
            return
        history, checkpoint = self.path / HISTORY, self.path / CHECKPOINT
        table = pd.DataFrame(state["history"])
        written = {"format": FORMAT, **state}

        def write() -> None:
            replace_file(history, lambda aside: table.to_csv(aside, index=False))
            replace_file(checkpoint, lambda aside: torch.save(written, aside))

        parallel.on_main_process(write)

    def log(self, *values: float) -> None:
        """Append a line to `steps.csv`; a run that is killed keeps its lines."""
        if self.path is None or parallel.rank() != 0:
            return
        try:
            with (self.path / STEPS).open("a") as file:
                file.write(",".join(f"{value:.6g}" for value in values) + "\n")
        except OSError as error:
            raise parallel.RankError(
                f"{self.path / STEPS} could not be written ({error.strerror}); free space and "
                "repeat the command"
            ) from error

    def finish(
        self,
        model: Coder,
        corpus: Corpus,
        thresholds: Mapping[str, Any],
        scores: Mapping[str, Any],
    ) -> None:
        """Write the model with its thresholds, and the scores of the epoch that was kept."""
        path = self.path
        if path is not None:
            parallel.on_main_process(lambda: save_model(path, model, corpus, thresholds))
            parallel.on_main_process(lambda: write_json(path / SCORES, scores))

    def _claim(self) -> None:
        """Make the folder ours, or refuse it."""
        assert self.path is not None
        path = self.path / SETTINGS
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            old = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except FileNotFoundError:
            # `marn.privacy` asks a run whether its corpus is open.
            found = {"text": self._text, "settings": self.settings, "provenance": provenance()}
            write_json(path, found)
            return
        except FileExistsError as error:
            raise MarnError(f"run_dir {self.path} is a file; choose a folder") from error
        except OSError as error:
            raise MarnError(
                f"run_dir {self.path} cannot be used ({error.strerror}); choose another folder"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path) from error
        if changed := _differences(old, self.settings):
            raise MarnError(
                f"run_dir {self.path} holds another run ({'; '.join(changed[:4])}); choose another "
                "run_dir, or delete it"
            )

    def _read_checkpoint(self) -> dict[str, Any] | None:
        if self.path is None or not (self.path / CHECKPOINT).exists():
            return None
        path = self.path / CHECKPOINT
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            found = state.get("format")
        except Exception as error:  # torch raises whatever the damaged part raises
            raise _damaged(path) from error
        if found != FORMAT:
            raise MarnError(
                f"{path} has format {found!r}, but this version reads {FORMAT}; delete "
                f"{self.path} and train again"
            )
        return state

    def _cut_log(self, epochs: int) -> None:
        """Drop lines of `steps.csv` that are of later epochs, or were not finished."""
        assert self.path is not None
        path = self.path / STEPS
        try:
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            kept = [x for x in lines[1:] if x[-1] == "\n" and int(x.split(",")[0]) <= epochs]
        except (OSError, ValueError) as error:
            raise _damaged(path) from error
        text = ",".join(_COLUMNS) + "\n" + "".join(kept)
        replace_file(path, lambda aside: aside.write_text(text))


def _damaged(path: Path) -> MarnError:
    return MarnError(f"{path} is damaged; delete {path.parent} and train again")


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List what differs between nested settings, one line per setting."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{path} was {old!r}, now {new!r}"]
