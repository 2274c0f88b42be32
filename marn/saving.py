"""Save and load models: weights as safetensors, with a human-readable card.

Reading these files never executes anything in them. Every file is complete or absent.
"""

import hashlib
import json
import math
import os
import platform
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import BaseModel, Strict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from marn import privacy
from marn.corpus import CodeEntry, Corpus
from marn.corpus.card import sha256
from marn.corpus.text import Vocabulary
from marn.errors import DamagedError, MarnError
from marn.evaluation import check_corpus, fingerprint
from marn.models import Coder
from marn.prediction import SavedModel
from marn.registry import build
from marn.settings import read_json_file

WEIGHTS, CARD, CHECKPOINT = "model.safetensors", "model.json", "checkpoint.pt"
README = "README.md"
FORMAT = 2

_SHOWN: Final = ("micro_f1", "macro_f1_all", "mean_average_precision")
_SPARE: Final = 1 << 26  # bytes that building a model may take beyond twice its weights


class _Written(BaseModel, strict=True):
    marn: str


class _About(BaseModel, strict=True):
    name: str
    hash: str
    open: bool


class _Code(BaseModel, strict=True, extra="forbid"):
    code: str
    kind: str
    title: str


class _Card(BaseModel, strict=True):
    """Fields that are read from the card of a model."""

    name: str
    options: dict[str, Any]
    embedding_size: int | None
    corpus: _About
    provenance: _Written
    thresholds: dict[str, float | list[float]]
    codes: dict[str, list[_Code]]
    categories: list[Annotated[tuple[str, str], Strict(False)] | None] = []
    vocabulary: list[str]


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under another name and rename it, so that it is complete or unchanged.

    Its folder is created if missing. Permissions follow the umask, whatever library writes it. A
    symbolic link is kept, and the file that it points to is replaced.

    Args:
        path: the file.
        write: writes the contents into the path that it is called with.

    Raises:
        MarnError: the disk is full, or the folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    aside = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        aside.touch()
        mode = aside.stat().st_mode
        write(aside)
        aside.chmod(mode)
        os.replace(aside, target)
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
    """Return what made a result: versions, processor, device and commit, but no path or host."""
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
        "processor": processor(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor() -> str:
    """Return the name of the processor, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


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
        corpus: the corpus that it was trained on.
        thresholds: {task: one threshold, or one per code}, as returned by
            `marn.evaluation.tune_thresholds`; by default 0.5, as in the papers.

    Raises:
        MarnError: the folder cannot be written.
    """
    folder = Path(folder)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    replace(folder / WEIGHTS, lambda aside: save_file(weights, aside))
    write_card(folder, model, corpus, thresholds, weights=sha256(folder / WEIGHTS))
    write_readme(folder)


def write_card(
    folder: Path,
    model: Coder,
    corpus: Corpus,
    thresholds: Mapping[str, float | ArrayLike] | None = None,
    *,
    weights: str | None,
) -> None:
    """Write the card of a model: all that `load_model` needs besides the weights.

    The other arguments are those of `save_model`.

    Args:
        folder: see `save_model`.
        model: see `save_model`.
        corpus: see `save_model`.
        thresholds: see `save_model`.
        weights: SHA-256 of the file of weights, or None while training has them in its checkpoint.

    Raises:
        MarnError: the folder cannot be written.
    """
    card = {
        "format": FORMAT,
        "name": model.name,
        "options": model.options,
        "embedding_size": getattr(model, "embedding_size", None),  # readers of text have none
        "weights_sha256": weights,
        "corpus": {
            "name": corpus.name,
            "hash": corpus.hash,
            "open": corpus.is_open,
            "source": corpus.card["source"],
            "language": corpus.card["language"],
            "notes": {name: len(corpus[name]) for name in corpus.splits},
        },
        "provenance": provenance(),
        "thresholds": {
            task: np.asarray((thresholds or {}).get(task, 0.5), np.float64).tolist()
            for task in model.tasks
        },
        "codes": {task: [asdict(code) for code in corpus.codes[task]] for task in model.tasks},
        "categories": [above and [above.code, above.title] for above in corpus.categories],
        "vocabulary": list(corpus.vocabulary.words),
    }
    write_json(folder / CARD, card | {"card_sha256": _digest(card)})


def _digest(card: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a card, excluding its field for that hash."""
    kept = json.loads(json.dumps({k: v for k, v in card.items() if k != "card_sha256"}))
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _is_whole(card: Mapping[str, Any]) -> bool:
    """Return whether a card is unchanged, or has no hash, as version 0.2.0 wrote it."""
    return "card_sha256" not in card or card["card_sha256"] == _digest(card)


def write_readme(folder: Path, scores: Mapping[str, Any] | None = None) -> None:
    """Write the README of a model from its card and, if known, its `scores.json`."""
    card = read_card(folder)
    about = card["corpus"]
    notes = ", ".join(f"{count:,} {name}" for name, count in about["notes"].items())
    lines = [
        f"# {card['name']}, trained on {about['name']}",
        "\n## Intended use\n",
        "It proposes codes for notes like those that it was trained on, for study and to help a",
        "person who codes. It is not a medical device: do not use it for coding, billing or",
        "treatment without that person.\n",
        "```bash\nmarn predict FOLDER notes.csv --out runs/codes.csv\n```",
        "\n## Data\n",
        f"{about['source']}. Language: {about['language']}. Notes: {notes}.",
        "The text is open." if about["open"] else privacy.mark(about["name"], about["hash"]) + ".",
        "\n## Scores\n",
    ]
    for task, codes in card["codes"].items():
        threshold = card["thresholds"][task]
        shown = f"{threshold:.3f}" if isinstance(threshold, float) else "one per code"
        lines.append(f"Task {task}: {len(codes):,} codes, threshold {shown}.")
        found = (scores or {}).get("dev", {}).get(task, {})
        for name in _SHOWN:
            if name in found:
                at = " at 0.5" if "_f1" in name else ""  # a ranking has no threshold
                lines.append(f"Dev {name}{at}: {found[name]:.3f}.")
        if groups := (scores or {}).get("dev_by_frequency", {}).get(task):
            lines += ["\n| training notes of a code | codes | dev micro_f1 at the threshold |"]
            lines += ["| --- | ---: | ---: |"]
            lines += [
                f"| {k} | {of['codes']:,} | {of['micro_f1']:.3f} |" for k, of in groups.items()
            ]
            lines += [""]
    lines += [
        "\n## Limits\n",
        "It knows no code, word or habit of coding that its training notes lack, and the fewer",
        "notes a code had, the less it can be trusted. The words that it shows are those that it",
        "used, which does not prove that the code is right.\n",
    ]
    replace(folder / README, lambda aside: aside.write_text("\n".join(lines), encoding="utf-8"))


def is_intact(folder: Path) -> bool:
    """Return whether a folder contains a model as `save_model` wrote it."""
    try:
        card = read_card(folder)
        return sha256(folder / WEIGHTS) == card.get("weights_sha256") and _is_whole(card)
    except (OSError, MarnError):
        return False


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the checkpoint of a training run; nothing in it is executed.

    Raises:
        MarnError: the checkpoint is missing, damaged (each part of the file has a checksum) or of
            another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [part for part in archive.infolist() if part.compress_type]
            if packed or archive.testzip() is not None:
                raise ValueError("a checksum is wrong")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']}")
    except Exception as error:  # torch raises whatever the damaged part raises
        raise MarnError(
            f"{path} is damaged or of another version; delete {path.parent} and train again"
        ) from error
    return state


def load_model(folder: str | Path, corpus: Corpus | None = None) -> SavedModel:
    """Read a model that `save_model` or `marn.fit` wrote.

    If training is still running or was interrupted, the best epoch so far is loaded, with
    thresholds of 0.5. Untrusted files are safe: nothing in them is executed, no other file or
    network is accessed, and no more memory is used than the weights justify.

    Args:
        folder: the run directory.
        corpus: a corpus that the model will be used on; its words and codes must be the model's.

    Returns:
        The model with its vocabulary, codes and card.

    Raises:
        MarnError: the folder holds no model, or its model is damaged, of another version, or has
            other words or codes than the corpus.
    """
    folder = Path(folder)
    if folder.is_file():
        is_run = (folder.parent / CARD).exists()
        where = f"its folder, {folder.parent}" if is_run else "the folder of a run"
        raise MarnError(f"{folder} is a file; pass {where}")
    for path in (folder / CARD, folder / WEIGHTS, folder / CHECKPOINT):
        if path.exists() and not path.is_file():  # a device or a pipe may have no end
            raise MarnError(f"{path} is not a file; copy the model anew, or train it again")
    try:
        card = read_card(folder)
        weights = _read_weights(folder, card)
        if not card["corpus"]["open"]:
            privacy.announce(card["corpus"]["name"], card["corpus"]["hash"])
        saved = _filled(folder, card, weights)
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        if missing == CHECKPOINT:
            raise MarnError(f"{folder} has no finished epoch yet; repeat its training") from error
        raise MarnError(
            f"{folder} contains no model ({missing} is missing); pass the folder of a run, which "
            "marn train … or marn.fit(…) writes"
        ) from error
    except OSError as error:
        raise MarnError(
            f"{error.filename} cannot be read ({error.strerror}); allow it, or copy the model anew"
        ) from error
    except DamagedError as error:
        remedy = "train it again, or copy it anew"
        if (folder / CHECKPOINT).exists():
            remedy = "repeat its marn train … or marn.fit(…), which restores it from the checkpoint"
        raise MarnError(f"the model in {folder} is damaged ({error}); {remedy}") from error
    if corpus is not None:
        check_corpus(saved.model, corpus)
    return saved


load = load_model
"""Short name of `load_model`: `marn.load`."""


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card of a model.

    Raises:
        FileNotFoundError: there is no card.
        DamagedError: the file is not a card.
        MarnError: the card is of another version.
    """
    path = folder / CARD
    try:
        card = read_json_file(path)
    except MarnError as error:
        what = str(error).partition(";")[0]
        raise DamagedError(f"{CARD}: {what}") from None
    except ValueError:
        raise DamagedError(f"{CARD} is not JSON") from None
    if not isinstance(card, dict):
        raise DamagedError(f"{CARD} is not a card")
    if card.get("format", FORMAT) != FORMAT:
        raise MarnError(
            f"{path} has format {card['format']!r:.20}, but this version of marn reads {FORMAT}; "
            "train the model again"
        )
    try:
        _Card.model_validate(card)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"][:3]))
        raise DamagedError(f"{CARD}: {place} is missing or invalid") from None
    return card


def not_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first weight that contains nan or infinity, None if there is none."""
    for name, weight in weights.items():
        bounds = weight.aminmax() if weight.is_floating_point() and weight.numel() else ()
        if not all(bound.isfinite() for bound in bounds):
            return name
    return None


def _read_weights(folder: Path, card: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Read the weights of a card from its file, or from the best epoch so far of a training."""
    digest = card.get("weights_sha256", "")  # version 0.2.0 wrote none
    if digest is None:
        (folder / CHECKPOINT).stat()
        weights: dict[str, torch.Tensor] = read_checkpoint(folder / CHECKPOINT)["best"]["model"]
        return weights
    if digest and sha256(folder / WEIGHTS) != digest:
        raise DamagedError(f"{WEIGHTS} is not the file that was written")
    try:
        return load_file(folder / WEIGHTS)
    except SafetensorError:
        raise DamagedError(f"{WEIGHTS} is not a safetensors file, or is cut off") from None


class _Allowance(TorchDispatchMode):
    """Refuse to create more or larger tensors than the weights justify, while this is active."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.bytes = 2 * sum(x.nbytes for x in weights.values()) + _SPARE
        self.tensors = 4 * len(weights) + 64  # our systems make at most two for each weight

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func.overloadpacket.__name__.startswith("new_")
        if made or not any(isinstance(x, torch.Tensor) for x in args):
            self.tensors -= 1
            for size in args:
                if isinstance(size, list | tuple) and all(isinstance(n, int) for n in size):
                    self.bytes -= 4 * math.prod(size)
            if min(self.bytes, self.tensors) < 0:
                raise DamagedError("its options ask for more memory than its weights justify")
        return func(*args, **kwargs or {})


def _filled(folder: Path, card: dict[str, Any], weights: dict[str, torch.Tensor]) -> SavedModel:
    """Build the model of a card, with its weights."""
    try:
        if name := not_finite(weights):
            raise DamagedError(f"its weight {name!r} is nan or infinite")
        with _Allowance(weights):
            saved = _rebuilt(card)
            mine = saved.model.state_dict()
            for name in mine.keys() & weights.keys():  # torch would convert them silently
                if mine[name].is_floating_point() != weights[name].is_floating_point():
                    raise DamagedError(f"its weight {name!r} is of type {weights[name].dtype}")
            saved.model.load_state_dict(weights)  # an average builds its members here
    except DamagedError:
        raise
    except MarnError as error:
        written = f"written by marn {card['provenance']['marn']}, this is {version('marn')}"
        raise MarnError(f"{folder / CARD} ({written}): {error}") from error
    except Exception as error:  # torch and the systems raise many types
        what = f"{WEIGHTS} does not hold the weights of what {CARD} describes"
        raise DamagedError(what) from error
    return saved


def _rebuilt(card: dict[str, Any]) -> SavedModel:
    """Build the model of a card, without its weights."""
    codes = {
        task: [CodeEntry(**code) for code in entries] for task, entries in card["codes"].items()
    }
    tasks = {task: len(entries) for task, entries in codes.items()}
    size = card["embedding_size"]
    options = ({} if size is None else {"embedding_size": size}) | card["options"]
    starts = ("bias_start", "code_start")  # these need a corpus, and only set initial weights
    start = {key: options.pop(key) for key in starts if key in options}
    for option in {"pretrained", "vectors"} & {*options}:  # `saved_options` leaves none
        raise MarnError(f"a card must not name other files, but has the option {option!r}")
    vocabulary = Vocabulary(card["vocabulary"], is_open=card["corpus"]["open"])
    model = build(card["name"], vocabulary_size=len(vocabulary), tasks=tasks, **options)
    model.options |= start
    thresholds: dict[str, Any] = {task: card["thresholds"].get(task, math.nan) for task in tasks}
    for task, threshold in thresholds.items():
        if isinstance(threshold, list):
            thresholds[task] = np.array(threshold, np.float64)
        if np.shape(thresholds[task]) not in ((), (tasks[task],)) or not np.min(threshold) >= 0:
            raise DamagedError(f"the thresholds of task {task!r} are not a number or one per code")
    if len(card.get("categories", ())) not in (0, tasks.get("icd", 0)) and "icd" in tasks:
        raise DamagedError(f"{CARD} does not have one category per code")
    model.fingerprint = fingerprint(vocabulary, codes)
    if not _is_whole(card):
        raise DamagedError(f"{CARD} is not the file that was written")
    return SavedModel(model.eval(), vocabulary, codes, thresholds, card)
