"""Linear models on words or characters: the first thing to run on a few hundred notes."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from marn import metrics
from marn.corpus import Corpus
from marn.corpus.text import tokenize
from marn.errors import MarnError
from marn.readers.base import Logits, TextSystem, as_bytes, from_bytes, training_notes

Classifier = Literal["ridge", "svm", "lr"]
_STEEP = 4.0
"""Logits per unit of margin: a margin of 1 is a probability of 0.98."""
_AT_ONCE = 5000
"""Largest number of training notes for which ridge regression is solved exactly."""


class LinearReader(TextSystem):
    """Fit one linear classifier per code on TF-IDF features; subclasses choose the features.

    The features of a note have length 1.

    Args:
        classifier: `"ridge"`: least squares on targets 0 and 1, solved for all codes at once (also
            called a least-squares SVM); `"svm"`: squared hinge loss; `"lr"`: logistic regression.
            A code that all training notes have, or none, gets the same logit in every note.
        strength: C, the inverse of the strength of regularisation; by default 10 for ridge, 1 for
            the SVM and 10,000 for logistic regression.
        strengths: values of C to choose among, by the mean average precision of the first task on
            the dev notes; by default `strength` is used.
        least: minimum number of training notes that a feature must occur in.
        most: maximum number of features; the most frequent ones are kept.
        **shared: see `TextSystem`.

    Raises:
        MarnError: a value in `strengths` is not above 0.

    References:
        Spärck Jones 1972 (IDF); scikit-learn's `TfidfVectorizer`, `Ridge`, `LinearSVC` and
        `LogisticRegression`.
    """

    features: ClassVar[dict[str, Any]]

    def __init__(
        self,
        *,
        classifier: Classifier = "ridge",
        strength: float | None = None,
        strengths: Sequence[float] = (),
        least: int = 2,
        most: int = 20_000,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.classifier = classifier
        usual = {"ridge": 10.0, "svm": 1.0, "lr": 10_000.0}
        self.strength = usual[classifier] if strength is None else strength
        self.strengths = list(strengths)
        if not all(isinstance(c, int | float) and c > 0 for c in self.strengths):
            raise MarnError(f"strengths must be above 0, but got {self.strengths}; try 1, 10, 100")
        self.least, self.most = least, most

    def _vectoriser(self, **fitted: Any) -> TfidfVectorizer:
        return TfidfVectorizer(sublinear_tf=True, **self.features, **fitted)

    def fit(self, corpus: Corpus, notes: NDArray[np.int64] | None = None) -> Self:
        """Learn features and classifiers, see `TextSystem.fit`."""
        places, train = training_notes(corpus, notes), corpus["train"]
        least = min(self.least, len(places))
        vectoriser = self._vectoriser(min_df=least, max_features=self.most)
        x = vectoriser.fit_transform([train.text(int(i)) for i in places])
        words = {word: int(place) for word, place in vectoriser.vocabulary_.items()}
        self.arrays = {
            "words": as_bytes(sorted(words, key=words.__getitem__)),
            "idf": vectoriser.idf_,
        }
        strength = self.strength
        if self.strengths:
            strength = self._chosen(corpus, vectoriser, x, places)
        self.arrays["strength"] = np.array(strength, np.float64)
        for task in self.tasks:
            weight, bias = self._solve(x, train.targets(task)[places], strength)
            self.arrays[f"{task}.weight"] = weight.astype(np.float32)
            self.arrays[f"{task}.bias"] = bias.astype(np.float32)
        return self

    def _chosen(self, corpus: Corpus, vectoriser: Any, x: Any, places: Any) -> float:
        """Choose C by the mean average precision on the dev notes."""
        task, dev = next(iter(self.tasks)), corpus["dev"]
        y, truth = corpus["train"].targets(task)[places], dev.targets(task)
        read = vectoriser.transform([dev.text(note) for note in range(len(dev))])
        found = {}
        for strength in self.strengths:
            weight, bias = self._solve(x, y, strength)
            scores = metrics.score(expit(read @ weight.T + bias), truth)
            found[strength] = scores["mean_average_precision"]
        return max(found, key=found.__getitem__)

    def _solve(self, x: Any, y: NDArray[np.bool_], strength: float) -> tuple[Any, Any]:
        """Fit the classifiers of all codes: (N, F), (N, C) -> weights (C, F), biases (C,)."""
        if self.classifier != "ridge":
            return self._each(x, y, strength)
        share = y.mean(axis=0)
        solver = "cholesky" if x.shape[0] <= min(_AT_ONCE, x.shape[1]) else "sparse_cg"
        model = Ridge(alpha=1 / strength, fit_intercept=False, solver=solver, tol=1e-6)
        weight = np.atleast_2d(model.fit(x, y - share).coef_)
        return 2 * _STEEP * weight, 2 * _STEEP * (share - 0.5)

    def _each(self, x: Any, y: NDArray[np.bool_], strength: float) -> tuple[Any, Any]:
        """Fit one classifier after another: (N, F), (N, C) -> weights (C, F), biases (C,)."""
        weight = np.zeros((y.shape[1], x.shape[1]))
        bias = np.where(y.all(axis=0), _STEEP, -_STEEP)
        steep = 1.0 if self.classifier == "lr" else _STEEP
        for code in np.flatnonzero(y.any(axis=0) & ~y.all(axis=0)):
            if self.classifier == "lr":
                model: Any = LogisticRegression(C=strength, solver="liblinear")
            else:
                model = LinearSVC(C=strength, random_state=self.seed)
            model.fit(x, y[:, code])
            weight[code], bias[code] = steep * model.coef_[0], steep * model.intercept_[0]
        return weight, bias

    def logits(self, texts: Sequence[str]) -> Logits:
        """Score texts, see `TextSystem.logits`."""
        vectoriser = self._vectoriser(vocabulary=from_bytes(self.arrays["words"]))
        vectoriser.idf_ = self.arrays["idf"]
        x = vectoriser.transform(texts)
        return {
            task: np.asarray(
                x @ self.arrays[f"{task}.weight"].T + self.arrays[f"{task}.bias"], np.float32
            )
            for task in self.tasks
        }


class Words(LinearReader):
    """Linear model on the words of a note (`marn.corpus.text.tokenize`), the usual baseline.

    Args:
        **shared: see `LinearReader`.
    """

    name = "words"
    features: ClassVar[dict[str, Any]] = {"analyzer": tokenize}


class Characters(LinearReader):
    """Linear model on sequences of two to five characters within words.

    Unlike whole words, these are shared by plurals, compounds and misspellings.

    Args:
        **shared: see `LinearReader`.

    References:
        scikit-learn's analyser `"char_wb"`.
    """

    name = "characters"
    features: ClassVar[dict[str, Any]] = {"analyzer": "char_wb", "ngram_range": (2, 5)}
