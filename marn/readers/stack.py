"""Stack systems that read text, with weights fitted to notes that they did not learn from."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from marn.corpus import Corpus
from marn.errors import MarnError
from marn.progress import Progress, counted
from marn.readers import linear, phrases  # noqa: F401  their systems are members
from marn.readers.base import Ensemble, Logits, TextSystem, log_odds, of_member, training_notes

_CLIP = 12.0
_PAIRS = 2_000_000
"""Maximum number of pairs of note and code that the weights are fitted to; more are sampled."""


class Stack(Ensemble):
    """Combine the logits of several systems by a logistic regression, one for each task.

    All codes of a task share the regression. It is fitted out of fold: the training notes are split
    into `folds` parts, and each part is scored by members that learnt from the others. Its inputs
    for a pair of note and code are the members' logits and the code's log odds in the notes that
    they learnt from. The members then learn from all notes.

    Args:
        members: systems by name, or `{"name": …, option: …}`. `build` adds the dictionary to the
            default if the corpus marks phrases.
        folds: number of parts, at least 2.
        **shared: see `TextSystem`; `seed` also decides the split into parts.

    Raises:
        MarnError: there are no members, one is unknown, or `folds` is below 2.

    References:
        Wolpert 1992 (stacked generalisation).
    """

    name = "stack"

    def __init__(
        self,
        *,
        members: Sequence[str | Mapping[str, Any]] = ("words", "characters", "titles"),
        folds: int = 5,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if folds < 2:
            raise MarnError(f"folds must be at least 2, but got {folds}")
        self.folds = folds
        known = sorted(set(self.registry) - {self.name})
        self.specs = self.named(members, known)
        if not self.specs:
            raise MarnError(f"members must name at least one system; choose among {known}")
        self.members = self._built()

    def _built(self) -> list[TextSystem]:
        shared: dict[str, Any] = {"tasks": self.tasks, "seed": self.seed}
        specs = [dict(spec) for spec in self.specs]
        return [self.registry[spec.pop("name")](**shared | spec) for spec in specs]

    @classmethod
    def options_from_corpus(cls, corpus: Corpus) -> dict[str, Any]:
        """Choose the members; the dictionary only if the corpus marks phrases."""
        members: list[Any] = ["words", "characters", "titles"]
        train = corpus["train"]
        if any(train.evidence(note) for note in range(min(len(train), 100))):
            members.append("dictionary")
        return {"members": members}

    def fit(self, corpus: Corpus, notes: NDArray[np.int64] | None = None) -> Self:
        """Fit the weights out of fold, then all members; see `TextSystem.fit`."""
        places, train = training_notes(corpus, notes), corpus["train"]
        rng = np.random.default_rng(self.seed)
        folds = np.array_split(rng.permutation(places), min(self.folds, len(places)))
        seen: dict[str, list[NDArray[np.float32]]] = {task: [] for task in self.tasks}
        fits = (len(folds) * (len(places) > 1) + 1) * len(self.members)
        progress = Progress(fits, stream=self.stream, unit="fit")
        for fold in folds if len(places) > 1 else ():
            rest = np.setdiff1d(places, fold)
            texts = [train.text(int(i)) for i in fold]
            said = []
            for member in self._built():
                said.append(member.fit(corpus, rest).logits(texts))
                progress.step(f"{member.name} has learnt from {counted(len(rest), 'note')}")
            for task in self.tasks:
                odds = log_odds(train.targets(task)[rest].sum(axis=0), len(rest))
                seen[task].append(self._pairs([each[task] for each in said], odds))
        truth = np.concatenate(folds)
        for task in self.tasks:
            y = train.targets(task)
            self._weigh(task, seen[task], y[truth].ravel(), rng)
            self.arrays[f"{task}.odds"] = log_odds(y[places].sum(axis=0), len(places))
        for member in self.members:
            member.fit(corpus, places)
            progress.step(f"{member.name} has learnt from {counted(len(places), 'note')}")
        progress.close()
        return self

    def _pairs(self, said: Sequence[NDArray[np.float32]], odds: NDArray[Any]) -> Any:
        """Describe each pair of note and code: members' (N, C), odds (C,) -> (N C, members + 1)."""
        shown = [*said, np.broadcast_to(odds, said[0].shape)]
        return np.stack([np.clip(x, -_CLIP, _CLIP).ravel() for x in shown], axis=1)

    def _weigh(self, task: str, seen: Sequence[Any], truth: Any, rng: np.random.Generator) -> None:
        """Fit the weights of a task, members + 1 and a bias; equal ones if all pairs are alike."""
        weights = np.append(np.full(len(self.members), 1 / len(self.members)), [0.0, 0.0])
        if seen and 0 < truth.sum() < len(truth):
            pairs = np.concatenate(seen)
            if len(pairs) > _PAIRS:
                some = rng.choice(len(pairs), _PAIRS, replace=False)
                pairs, truth = pairs[some], truth[some]
            model = LogisticRegression(C=1.0, max_iter=300).fit(pairs, truth)
            weights = np.append(model.coef_[0], model.intercept_)
        self.arrays[f"{task}.weights"] = weights

    def logits(self, texts: Sequence[str]) -> Logits:
        """Score texts, see `TextSystem.logits`."""
        said = [member.logits(texts) for member in self.members]
        logits = {}
        for task, codes in self.tasks.items():
            *weights, bias = self.arrays[f"{task}.weights"]
            pairs = self._pairs([each[task] for each in said], self.arrays[f"{task}.odds"])
            scores = pairs @ np.array(weights) + bias
            logits[task] = scores.reshape(len(texts), codes).astype(np.float32)
        return logits

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned, without checking it."""
        super().take({k: x for k, x in state.items() if not k.partition(".")[0].isdigit()})
        for number, member in enumerate(self.members):
            member.take(of_member(state, number))
