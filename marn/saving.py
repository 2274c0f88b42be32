"""Files of models: weights as safetensors beside a card that people can read.

Nothing in these files is executed when they are read. Every file is complete or absent.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from marn import privacy
from marn.corpus import CodeEntry, Corpus
from marn.corpus.text import Vocabulary
from marn.errors import MarnError
from marn.evaluation import check_corpus, fingerprint
from marn.models import Coder
from marn.registry import build

WEIGHTS, CARD = "model.safetensors", "model.json"
FORMAT = 2


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under another name and rename it, so that it is complete or unchanged.

    Its folder is created if missing. The umask decides who may read it, whatever library writes it.

    Raises:
        MarnError: the disk is full, or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        aside.touch()
        mode = aside.stat().st_mode
        write(aside)
        aside.chmod(mode)
        os.replace(aside, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: torch, disk full
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise MarnError(
            f"{path} could not be written ({reason}); free space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            aside.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; see `replace`."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    replace(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def provenance() -> dict[str, Any]:
    """Describe what made a result: versions, processor, device, commit; no path, no host."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.check_output(
            [*command, "--abbrev=12"], stderr=subprocess.DEVNULL, text=True, timeout=10
        ).strip()
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
    """A model read from a folder, with what is needed to use it on your own notes."""

    model: Coder
    """In evaluation mode, on the CPU."""
    vocabulary: Vocabulary
    codes: dict[str, list[CodeEntry]]
    """The codes of each task, in the order of the logits."""
    thresholds: dict[str, float | NDArray[np.float64]]
    """{task: probability above which a code is assigned}: a number, or (C,) with one per code."""
    card: dict[str, Any]


def save_model(
    folder: str | Path,
    model: Coder,
    corpus: Corpus,
    thresholds: Mapping[str, float | ArrayLike] | None = None,
) -> None:
    """Write a model with its vocabulary, codes, thresholds and provenance into a folder.

    Args:
        folder: created if missing; a model in it is replaced.
        model: from `marn.build`, which records its name and options.
        corpus: the one that it was trained on.
        thresholds: of each task, as `marn.evaluation.tune_thresholds` finds them, one for all its
            codes or one per code; 0.5 otherwise, as in the papers.

    Raises:
        MarnError: the folder cannot be written.
    """
    folder = Path(folder)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    replace(folder / WEIGHTS, lambda aside: save_file(weights, aside))
    card = {
        "format": FORMAT,
        "name": model.name,
        "options": model.options,
        "embedding_size": model.embedding_size,
        "corpus": {"name": corpus.name, "hash": corpus.hash, "open": corpus.is_open},
        "provenance": provenance(),
        "thresholds": {
            task: np.asarray((thresholds or {}).get(task, 0.5), np.float64).tolist()
            for task in model.tasks
        },
        "codes": {task: [asdict(code) for code in corpus.codes[task]] for task in model.tasks},
        "vocabulary": list(corpus.vocabulary.words),
    }
    write_json(folder / CARD, card)


def load_model(folder: str | Path, corpus: Corpus | None = None) -> SavedModel:
    """Read a model that `save_model` or `marn.fit` wrote.

    Args:
        folder: the run directory.
        corpus: to use the model on; its words and codes must be those of the model.

    Returns:
        The model with its vocabulary, codes and card.

    Raises:
        MarnError: the folder holds no model, a damaged one, one of another version, or one with
            other words or codes than the corpus.
    """
    folder = Path(folder)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
        written = f"written by marn {card['provenance']['marn']}, this is {version('marn')}"
        if card["format"] != FORMAT:
            raise MarnError(f"format {card['format']!r} is not {FORMAT}; train the model again")
        if not card["corpus"]["open"]:
            privacy.announce(card["corpus"]["name"], card["corpus"]["hash"])
        saved = _rebuilt(card)
        saved.model.load_state_dict(weights)
    except FileNotFoundError as error:
        raise MarnError(
            f"{folder} holds no model ({Path(str(error.filename)).name} is missing); "
            "train one with marn.fit(…, run_dir=…)"
        ) from error
    except MarnError as error:
        raise MarnError(f"{folder / CARD} ({written}): {error}") from error
    except (
        AttributeError,
        KeyError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise MarnError(f"the model in {folder} is damaged ({said}); train it again") from error
    if corpus is not None:
        check_corpus(saved.model, corpus)
    return saved


def _rebuilt(card: dict[str, Any]) -> SavedModel:
    """Build the model of a card, without its weights."""
    if "pretrained" in card["options"]:  # `Coder.saved_options` never leaves it there
        raise MarnError(
            "the option 'pretrained' is not allowed, because a card reads no other files"
        )
    codes = {
        task: [CodeEntry(**code) for code in entries] for task, entries in card["codes"].items()
    }
    vocabulary = Vocabulary(card["vocabulary"])
    tasks = {task: len(entries) for task, entries in codes.items()}
    options = {"embedding_size": card["embedding_size"]} | card["options"]
    starts = ("bias_start", "code_start")  # need a corpus, and are over
    start = {key: options.pop(key) for key in starts if key in options}
    model = build(card["name"], vocabulary_size=len(vocabulary), tasks=tasks, **options)
    model.options |= start
    thresholds = {task: card["thresholds"][task] for task in tasks}
    several = {task: np.array(t) for task, t in thresholds.items() if isinstance(t, list)}
    model.fingerprint = fingerprint(vocabulary, codes)
    return SavedModel(model.eval(), vocabulary, codes, thresholds | several, card)
