"""Files of models: weights as safetensors beside a card that people can read.

Nothing in these files is executed when they are read. Every file is written aside and renamed.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from marn import privacy
from marn.corpus import CodeEntry, Corpus
from marn.errors import MarnError
from marn.models import Coder, build
from marn.text import Vocabulary

WEIGHTS, CARD = "model.safetensors", "model.json"


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file aside and rename it, so that it is whole or as it was before.

    Raises:
        MarnError: the disk is full, or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        write(aside)
        os.replace(aside, path)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch says RuntimeError of a full disk
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise MarnError(
            f"{path} could not be written ({reason}); free space or choose another folder"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, aside and then renamed."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    replace(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def provenance() -> dict[str, Any]:
    """Tell what a result was made with: versions, processor, device, commit; no path, no host."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"  # an installed wheel, or a machine without git
    return {
        "marn": version("marn"),
        "commit": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@dataclass(frozen=True)
class SavedModel:
    """A model read from a folder, with what it takes to use it on a note of one's own."""

    model: Coder
    """In evaluation mode, on the CPU."""
    vocabulary: Vocabulary
    codes: dict[str, list[CodeEntry]]
    """The codes of each task, in the order of the logits."""
    thresholds: dict[str, float]
    """{task: the probability above which a code is assigned}."""
    card: dict[str, Any]


def save_model(
    folder: str | Path,
    model: Coder,
    corpus: Corpus,
    thresholds: Mapping[str, float] | None = None,
) -> None:
    """Write a model with its vocabulary, codes, thresholds and provenance into a folder.

    Args:
        folder: made if missing; a model that lies there is replaced.
        model: made by `marn.build`, so that its name and options can be written down.
        corpus: the one that it was trained on.
        thresholds: of each task, as `marn.evaluation.tune_thresholds` finds them; 0.5 otherwise,
            as in the papers.

    Raises:
        MarnError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    replace(folder / WEIGHTS, lambda aside: save_file(weights, aside))
    card = {
        "format": 2,
        "name": model.name,
        "options": model.options,
        "embedding_size": model.embedding_size,
        "corpus": {"name": corpus.name, "hash": corpus.hash, "open": corpus.is_open},
        "provenance": provenance(),
        "thresholds": dict.fromkeys(model.tasks, 0.5) | dict(thresholds or {}),
        "codes": {task: [asdict(code) for code in corpus.codes[task]] for task in model.tasks},
        "vocabulary": list(corpus.vocabulary.words),
    }
    write_json(folder / CARD, card)


def load_model(folder: str | Path) -> SavedModel:
    """Read a model that `save_model` or `marn.fit` wrote.

    Args:
        folder: the run directory.

    Returns:
        The model with its vocabulary, codes and card.

    Raises:
        MarnError: the folder holds no model, a damaged one, or one of another version.
    """
    folder = Path(folder)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise MarnError(
            f"{folder} holds no model ({Path(str(error.filename)).name} is missing); "
            "train one with marn.fit(…, run_dir=…)"
        ) from error
    except (json.JSONDecodeError, SafetensorError) as error:
        raise MarnError(f"the model in {folder} is damaged ({error}); train it again") from error
    if card.get("format") != 2:
        raise MarnError(
            f"the model in {folder} is of format {card.get('format')!r}, this version reads 2; "
            "train it again"
        )
    if not card["corpus"]["open"]:
        privacy.announce(card["corpus"]["name"], card["corpus"]["hash"])
    codes = {
        task: [CodeEntry(**code) for code in entries] for task, entries in card["codes"].items()
    }
    vocabulary = Vocabulary(card["vocabulary"])
    tasks = {task: len(entries) for task, entries in codes.items()}
    options = {"embedding_size": card["embedding_size"]} | card["options"]
    model = build(card["name"], vocabulary_size=len(vocabulary), tasks=tasks, **options)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise MarnError(
            f"the weights in {folder} are not those of {card['name']!r} with these options in this "
            "version of marn; train it again"
        ) from error
    return SavedModel(model.eval(), vocabulary, codes, card["thresholds"], card)
