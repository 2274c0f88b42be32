"""Predict the codes of a split's notes, and score the predictions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from marn import metrics, parallel
from marn.corpus import CodeEntry, Corpus, Split, as_corpus
from marn.corpus.text import Vocabulary
from marn.errors import MarnError
from marn.models import Coder
from marn.models.reading import batches
from marn.readers.base import TextSystem
from marn.settings import Count, check

Thresholds = float | Mapping[str, float | ArrayLike] | Literal["dev", "dev_codes"]
Codes = Literal["all", "seen", "unseen"]


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turn logits into probabilities, elementwise, in the dtype given."""
    return torch.from_numpy(logits).sigmoid().numpy()


@dataclass(frozen=True)
class Predictions:
    """Logits and targets of the notes of a split, in the split's order."""

    logits: dict[str, NDArray[np.float32]]
    """{task: (N, C)}, unbounded."""
    targets: dict[str, NDArray[np.bool_]]
    """{task: (N, C)}."""
    ids: NDArray[np.str_]
    """(N,): the admission of each note."""

    def probabilities(self, task: str) -> NDArray[np.floating]:
        """Return the probabilities of a task's codes, (N, C) in [0, 1]."""
        return sigmoid(self.logits[task])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients, then restore its former mode."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


class HoldsCoder(Protocol):
    """A `SavedModel` or a `Run`."""

    @property
    def model(self) -> Coder:
        """The model."""


def as_coder(model: Coder | TextSystem | HoldsCoder) -> Coder:
    """Return a model as it is, or the one that a `SavedModel` or a `Run` holds.

    Raises:
        MarnError: the argument is none of these.
    """
    for found in (model, getattr(model, "model", None)):
        if isinstance(found, Coder | TextSystem):
            return cast(Coder, found)  # a `TextSystem` has all attributes that are used here
    raise MarnError(
        f"model must be a system, but got a {type(model).__name__}; pass what marn.build or "
        "marn.load_model returns"
    )


def _split(corpus: Corpus, split: str) -> Split:
    if len(notes := corpus[split]) == 0:
        raise MarnError(f"split {split!r} of corpus {corpus.name!r} has no notes; choose another")
    return notes


def _words(notes: Split) -> list[NDArray[np.integer]]:
    return [notes.note_tokens(note) for note in range(len(notes))]


def fingerprint(vocabulary: Vocabulary, codes: Mapping[str, Sequence[CodeEntry]]) -> dict[str, str]:
    """Identify the words, and the codes of each task, by hashes: {"words" or task: hash}."""
    lists = {"words": list(vocabulary.words)}
    lists |= {task: [f"{c.kind} {c.code}" for c in entries] for task, entries in codes.items()}
    return {
        name: hashlib.sha256("\n".join(lines).encode()).hexdigest() for name, lines in lists.items()
    }


def check_corpus(model: Coder, corpus: Corpus) -> None:
    """Refuse a corpus whose tasks, or for a trained model words and codes, are not the model's.

    Raises:
        MarnError: naming what differs.
    """
    if {task: corpus.tasks.get(task) for task in model.tasks} != model.tasks:
        raise MarnError(
            f"the model's tasks are {model.tasks}, but corpus {corpus.name!r} has {corpus.tasks}; "
            "build the model for this corpus, or match codes by name: marn predict, then marn score"
        )
    if model.fingerprint is not None:
        found = fingerprint(corpus.vocabulary, corpus.codes)
        if isinstance(model, TextSystem):
            found["words"] = model.fingerprint["words"]  # it reads any words
        other = [key for key, value in model.fingerprint.items() if found[key] != value]
        if other:
            what = "words" if other[0] == "words" else f"codes of task {other[0]!r}"
            raise MarnError(
                f"the model was trained with other {what} than corpus {corpus.name!r} has; use "
                "the corpus that it was trained on, train it on this one, or match codes by name: "
                "marn predict, then marn score"
            )


def predict(
    model: Coder | HoldsCoder,
    corpus: Corpus | str | Path,
    split: str = "test",
    *,
    batch_size: int = 32,
) -> Predictions:
    """Compute the logits of every note of a split, in its order, with the targets.

    In a training on several devices (`marn.parallel.collective`) the ranks share the batches, and
    each gets all logits.

    Args:
        model: from `marn.build` or `marn.load_model`; it runs on its own device, and its mode is
            restored.
        corpus: a corpus with the model's tasks, or its folder.
        split: `"train"`, `"dev"` or `"test"`.
        batch_size: notes at a time; affects only speed and memory. A model with
            `padding="released"` always reads one note at a time, as the authors' evaluation does.

    Raises:
        MarnError: the corpus lacks the split or a task of the model, the split is empty, or a
            trained model has other words or codes.
    """
    model, corpus = as_coder(model), as_corpus(corpus)
    batch_size = check("batch_size", Count, batch_size)
    notes = _split(corpus, split)
    check_corpus(model, corpus)
    targets = {task: notes.targets(task) for task in model.tasks}
    if isinstance(model, TextSystem):
        if not model.arrays:
            raise MarnError(f"{model.name} has learnt nothing yet; train it with marn.fit")
        read = model.logits([notes.text(note) for note in range(len(notes))])
        return Predictions(read, targets, notes.ids)
    device = next(model.parameters()).device
    logits = {task: np.zeros((len(notes), c), np.float32) for task, c in model.tasks.items()}
    with evaluating(model):
        for places, tokens, lengths in batches(model, _words(notes), batch_size):
            for task, values in model(tokens, lengths).items():
                logits[task][places] = values.float().cpu().numpy()
    if parallel.world_size() > 1:  # each note was read on one rank, and is zero on the others
        for task, mine in logits.items():
            logits[task] = parallel.all_reduce(torch.from_numpy(mine).to(device)).cpu().numpy()
    return Predictions(logits, targets, notes.ids)


def tune_thresholds(
    model: Coder, corpus: Corpus, *, per_code: bool = False, batch_size: int = 32
) -> dict[str, float | NDArray[np.floating]]:
    """Find the best thresholds on the dev split.

    With `per_code`, choose one threshold per code by its F1 (`marn.metrics.best_thresholds`);
    otherwise one per task by the micro-F1 of its codes. The other arguments are those of `predict`.

    Returns:
        {task: a number, or (C,) float64}, to be used with `>`.
    """
    dev = predict(model, corpus, "dev", batch_size=batch_size)
    best = metrics.best_thresholds if per_code else metrics.best_threshold
    return {task: best(dev.probabilities(task), dev.targets[task]) for task in model.tasks}


def _thresholds(
    model: Coder, corpus: Corpus, threshold: Thresholds, batch_size: int
) -> Mapping[str, float | ArrayLike]:
    """Find or check the thresholds of each task: one number, or one for each code."""
    if isinstance(threshold, str):
        if threshold not in ("dev", "dev_codes"):
            raise MarnError(
                f"threshold must be a number, 'dev' or 'dev_codes', but got {threshold!r}"
            )
        each = threshold == "dev_codes"
        return tune_thresholds(model, corpus, per_code=each, batch_size=batch_size)
    if not isinstance(threshold, Mapping):
        return dict.fromkeys(model.tasks, threshold)
    for task, codes in model.tasks.items():
        if task not in threshold or np.shape(threshold[task]) not in ((), (codes,)):
            raise MarnError(
                f"threshold must have for task {task!r} a number, or one for each of its {codes} "
                f"codes, but got {threshold.get(task)!r}"
            )
    return {task: threshold[task] for task in model.tasks}


def evaluate(
    model: Coder | HoldsCoder,
    corpus: Corpus | str | Path,
    split: str = "test",
    *,
    ks: Sequence[int] = (5, 8, 15),
    threshold: Thresholds = 0.5,
    codes: Codes = "all",
    rule: metrics.Rule = "sound",
    batch_size: int = 32,
) -> dict[str, dict[str, float]]:
    """Compute every score of `marn.metrics.score` for a model on a split.

    Args:
        model: see `predict`.
        corpus: see `predict`.
        split: see `predict`.
        ks: cut-offs of precision and recall at k.
        threshold: one number for all tasks (0.5 in the papers); {task: a number, or one for each
            code}; `"dev"`, for each task the number with the highest micro-F1 on the dev split; or
            `"dev_codes"`, for each code the number with its highest F1 there.
        codes: `"all"`; `"seen"`, codes that occur in training notes of the corpus; or `"unseen"`,
            the others.
        rule: see `marn.metrics.score`; "caml" for comparison with published scores.
        batch_size: see `predict`.

    Returns:
        {task: {score: fraction in [0, 1]}}; a task without such codes is left out.

    Raises:
        MarnError: see `predict`; or `threshold` or `codes` is invalid.
    """
    model, corpus = as_coder(model), as_corpus(corpus)
    if codes not in get_args(Codes):
        raise MarnError(f"codes must be one of {get_args(Codes)}, but got {codes!r}")
    _split(corpus, split)
    thresholds = _thresholds(model, corpus, threshold, batch_size)
    found = predict(model, corpus, split, batch_size=batch_size)
    scores = {}
    for task, above in thresholds.items():
        probabilities, targets = found.probabilities(task), found.targets[task]
        if codes != "all":
            some = (corpus.frequency(task) > 0) == (codes == "seen")
            probabilities, targets = probabilities[:, some], targets[:, some]
            above = np.broadcast_to(above, some.shape)[some]
        if targets.size:
            scores[task] = metrics.score(probabilities, targets, ks=ks, threshold=above, rule=rule)
    return scores


def mean_code_features(
    model: Coder, corpus: Corpus, split: str = "test", *, batch_size: int = 16
) -> dict[str, NDArray[np.float64]]:
    """Average the label representations of each code, V of Eq. 13, over the notes of a split.

    The papers' Figs. 9 and 10 show these vectors: the text speaks of document features, but the
    points are codes, so a code's vector is taken to be its mean over the test notes. Both tasks
    share one space. The arguments are those of `predict`.

    Returns:
        {task: (C, D) float64}.

    Raises:
        MarnError: the corpus lacks the split, or the split is empty.
    """
    notes = _split(corpus, split)
    sums: dict[str, NDArray[np.float64]] = {}
    with evaluating(model):
        for _, tokens, lengths in batches(model, _words(notes), batch_size):
            for task, views in model.code_features(tokens, lengths).items():
                total = views.double().sum(dim=0).cpu().numpy()
                sums[task] = sums[task] + total if task in sums else total
    return {task: total / len(notes) for task, total in sums.items()}
