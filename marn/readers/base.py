"""Define what systems share that read text instead of word ids.

They are fitted in one step and saved as arrays. `marn.build`, `fit`, `predict`, `evaluate`,
`save_model` and `load_model` take them as well as a `Coder`. They need no vocabulary, epochs, GPU
or padding.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marn.corpus import Corpus
from marn.errors import MarnError
from marn.settings import read_json, unknown

Logits = dict[str, NDArray[np.float32]]
"""{task: (N, C)}; a sigmoid turns them into probabilities."""


class TextSystem:
    """Score texts for every code of every task.

    Subclasses define `name`, `fit` and `logits`; `fit` stores what it learns in `arrays`.

    Args:
        tasks: number of codes of each task, such as `{"icd": 50, "ccs": 38}`.
        seed: seed of all random choices.

    Raises:
        MarnError: there is no task, or a task has no codes.
    """

    name: ClassVar[str]
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    has_attention: ClassVar[bool] = False
    registry: ClassVar[dict[str, "type[TextSystem]"]] = {}
    fingerprint: dict[str, str] | None = None
    """Hashes of the words and codes that the system was trained with; see `marn.evaluation`."""
    options: dict[str, Any]
    """Options given to `build`, written into the card of a saved model."""
    stream: TextIO | None = None
    """Where `fit` shows its progress if it takes long; None for nowhere."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if "name" in cls.__dict__:
            TextSystem.registry[cls.name] = cls

    def __init__(self, *, tasks: Mapping[str, int], seed: int = 0) -> None:
        if not tasks or any(codes < 1 for codes in tasks.values()):
            raise MarnError(f"tasks must give each task at least one code, but got {dict(tasks)}")
        self.tasks, self.seed, self.options = dict(tasks), seed, {}
        self.arrays: dict[str, NDArray[Any]] = {}
        """Everything that was learnt."""

    @classmethod
    def options_from_corpus(cls, corpus: Corpus) -> dict[str, Any]:
        """Take options from a corpus; none unless overridden."""
        return {}

    def fit(self, corpus: Corpus, notes: NDArray[np.int64] | None = None) -> Self:
        """Learn from training notes.

        Args:
            corpus: a corpus with the system's tasks.
            notes: (n,) indices of notes in the split "train"; all by default.

        Returns:
            The system itself.

        Raises:
            MarnError: the corpus lacks what the system learns from.
        """
        raise NotImplementedError

    def logits(self, texts: Sequence[str]) -> Logits:
        """Score N texts: {task: (N, C) float32}."""
        raise NotImplementedError

    def count_parameters(self, *, embeddings: bool = True) -> int:
        """Count the numbers that were learnt; `embeddings` only matters for networks."""
        return sum(x.numel() for x in self.state_dict().values() if x.is_floating_point())

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was learnt as tensors, as a network does; empty before `fit`."""
        return {key: torch.from_numpy(np.ascontiguousarray(x)) for key, x in self.arrays.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned, and score a text with it to detect damaged arrays.

        Raises:
            ValueError: the arrays are not those of this system.
        """
        self.take(state)
        for task, scores in self.logits(["trial"]).items():
            if scores.shape != (1, self.tasks[task]) or not np.isfinite(scores).all():
                raise ValueError(f"the arrays of {self.name} do not give scores of task {task!r}")

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned, without checking it."""
        self.arrays = {key: value.numpy() for key, value in state.items()}

    def eval(self) -> Self:
        """Return the system itself, which has no training mode."""
        return self


class Ensemble(TextSystem):
    """A system made of others; the names of a member's arrays begin with its number."""

    members: Sequence[Any]

    @staticmethod
    def named(members: Sequence[str | Mapping[str, Any]], known: Collection[str]) -> list[Any]:
        """Return members as dictionaries; each is given by its name, or as a dictionary with it."""
        specs = [{"name": one} if isinstance(one, str) else dict(one) for one in members]
        for spec in specs:
            if spec.get("name") not in known:
                raise unknown("members cannot hold", str(spec.get("name")), known)
        return specs

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the system and its members have learnt."""
        own = super().state_dict()
        for number, member in enumerate(self.members):
            own |= {f"{number}.{key}": value for key, value in member.state_dict().items()}
        return own


def of_member(state: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return a member's part of what `Ensemble.state_dict` returned."""
    start = f"{number}."
    return {key.removeprefix(start): x for key, x in state.items() if key.startswith(start)}


def as_bytes(value: Any) -> NDArray[np.uint8]:
    """Encode a list or dictionary as the bytes of its JSON, to save it with arrays."""
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), np.uint8).copy()


def from_bytes(array: NDArray[np.uint8]) -> Any:
    """Decode what `as_bytes` returned."""
    return read_json(array.tobytes().decode())


def training_notes(corpus: Corpus, notes: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the indices of the training notes to learn from, all by default.

    Raises:
        MarnError: there are none.
    """
    places = np.arange(len(corpus["train"])) if notes is None else np.asarray(notes)
    if not len(places):
        raise MarnError(f"corpus {corpus.name!r} has no training notes; there is nothing to learn")
    return places


def log_odds(count: NDArray[Any], total: int) -> NDArray[np.float64]:
    """Turn counts out of a total into log odds, which are finite even for none and for all."""
    return np.log((count + 0.5) / (total - count + 0.5))
