"""Measure how hard the teaching hospital is, by a fixed linear baseline on seeds, and by ceilings.

    python book/experiments/difficulty.py --out book/results/hospital_difficulty.json

Each seed is another hospital of preset `teaching`, split by patient with that seed, all codes kept.
Neither the hospital nor the baseline was chosen by these scores.

* Baseline: TF-IDF of the words (words in 3 training notes, logarithm of the counts, rows of length
  one); for each code a logistic regression (liblinear, dual, C = 10, no class weights). A code is
  predicted above 0.5, and never if it has fewer than 5 training notes. Nothing is tuned, so the dev
  notes are not used.
* CCS: the same baseline, learning the categories.
* Wrong under the right category: the share of false positives whose category the note has by
  another code. Chance: the share expected if each false positive were on a random test note that
  lacks the code.
* Shuffled labels: the codes of each training note are given to another training note; scores are
  of the 50 most frequent codes.
* Ceilings, against the codes that the coder gave: `documented` predicts what any mention asserts
  (role evidence). `explicit` knows only phrases: a mention counts for the code that this phrase
  most often asserts in the training notes, and not at all if they lack the phrase.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from data_prep.__main__ import main as prepare
from marn import MarnError, metrics
from marn.corpus import Corpus, text
from marn.saving import provenance, write_json

C: Final = 10.0
LEAST: Final = 5
FIGURES: Final = (
    "micro_f1",
    "macro_f1_caml",
    "macro_f1_all",
    "macro_f1_present",
    "micro_auc",
    "precision_at_8",
)

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def vectorised(corpus: Corpus) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Return the TF-IDF rows of the training and the test notes."""
    maker = TfidfVectorizer(analyzer=text.tokenize, min_df=3, sublinear_tf=True)
    notes = {
        name: [corpus[name].text(note) for note in range(len(corpus[name]))]
        for name in ("train", "test")
    }
    return maker.fit_transform(notes["train"]), maker.transform(notes["test"])


def fitted(train: sparse.csr_matrix, targets: Bools, test: sparse.csr_matrix) -> Floats:
    """Return the baseline's probabilities.

    Args:
        train: (N, V) rows of the training notes.
        targets: (N, C) their codes.
        test: (M, V) rows of the test notes.

    Returns:
        (M, C) float.
    """
    scores = np.zeros((test.shape[0], targets.shape[1]))
    for code in range(targets.shape[1]):
        if targets[:, code].sum() >= LEAST:
            model = LogisticRegression(C=C, solver="liblinear", dual=True, random_state=0)
            scores[:, code] = model.fit(train, targets[:, code]).predict_proba(test)[:, 1]
    return scores


def figures(scores: Floats, truth: Bools) -> dict[str, float]:
    """Return those scores of `marn.metrics.score` that are kept."""
    found = metrics.score(scores, truth, ks=(8,))
    return {name: found[name] for name in FIGURES}


def f1s(guess: Bools, truth: Bools) -> dict[str, float]:
    """Return the F1 scores of predictions that come without probabilities."""
    return {name: value for name, value in figures(guess * 1.0, truth).items() if "f1" in name}


def under_the_right_category(
    scores: Floats, truth: Bools, categories: Bools, parent: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the share of false positives whose category is right, and the share by chance.

    Args:
        scores: (M, C) probabilities.
        truth: (M, C) codes of the notes.
        categories: (M, K) categories of these codes.
        parent: (C,) category of each code, -1 for none.
    """
    wrong = (scores > 0.5) & ~truth
    has = categories[:, parent] & (parent >= 0)  # (M, C): the note has the category of the code
    lacking = ~truth
    expected = (has & lacking).sum(0) / np.maximum(lacking.sum(0), 1)  # (C,)
    return float(has[wrong].mean()), float(expected[np.nonzero(wrong)[1]].mean())


def ceilings(corpus: Corpus) -> dict[str, Bools]:
    """Return what two readers of the marked mentions predict for the test notes, (M, C) each."""
    meant: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def mentions(split: str, note: int) -> list[tuple[int, str]]:
        words = corpus[split].text(note)
        return [
            (row.code, " ".join(words[row.begin : row.end].lower().split()))
            for row in corpus[split].evidence(note)
            if row.role == "evidence"
        ]

    for note in range(len(corpus["train"])):
        for code, phrase in mentions("train", note):
            meant[phrase][code] += 1
    dictionary = {phrase: codes.most_common(1)[0][0] for phrase, codes in meant.items()}
    shape = len(corpus["test"]), corpus.tasks["icd"]
    documented, explicit = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for note in range(shape[0]):
        for code, phrase in mentions("test", note):
            documented[note, code] = True
            if phrase in dictionary:
                explicit[note, dictionary[phrase]] = True
    return {"documented": documented, "explicit": explicit}


def study(corpus: Corpus, seed: int) -> dict[str, Any]:
    """Return all scores of one hospital.

    Args:
        corpus: corpus of the hospital.
        seed: seed of the shuffled labels.
    """
    train, test = vectorised(corpus)
    learnt, truth = corpus["train"].targets("icd"), corpus["test"].targets("icd")
    categories = corpus["test"].targets("ccs")
    frequency = np.asarray(corpus.frequency("icd", "train"))
    scores = fitted(train, learnt, test)
    top = np.sort(np.argsort(-frequency, kind="stable")[:50])
    ccs = fitted(train, corpus["train"].targets("ccs"), test)
    right, chance = under_the_right_category(scores, truth, categories, corpus.parent)
    shuffled = np.random.default_rng(seed).permutation(len(learnt))
    control = fitted(train, learnt[shuffled][:, top], test)
    made: dict[str, Any] = {
        "notes": {name: len(corpus[name]) for name in corpus.splits},
        "codes": dict(corpus.tasks),
        "codes_below_10": float((frequency < 10).mean()),
        "vocabulary": train.shape[1],
        "icd": figures(scores, truth),
        "icd_top_50": figures(scores[:, top], truth[:, top]),
        "ccs": figures(ccs, categories),
        "buckets": metrics.by_frequency(scores, truth, frequency),
        "false_positives_under_right_ccs": {"measured": right, "chance": chance},
        "shuffled_top_50": figures(control, truth[:, top]),
    }
    for name, guess in ceilings(corpus).items():
        made[f"ceiling_{name}"] = f1s(guess, truth)
        made[f"ceiling_{name}_top_50"] = f1s(guess[:, top], truth[:, top])
    return made


def flat(value: Any, name: str = "") -> dict[str, float]:
    """Return all numbers in nested dictionaries: {path, with dots: number}."""
    if isinstance(value, dict):
        parts = (flat(part, f"{name}.{key}" if name else key) for key, part in value.items())
        return {key: number for part in parts for key, number in part.items()}
    return {name: float(value)}


def summarised(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation and 95 % interval of every score over the seeds.

    With one seed, deviation and width of the interval are 0.
    """
    numbers = [flat(row["figures"]) for row in rows]
    names = [name for name in numbers[0] if all(name in row for row in numbers)]
    made = {}
    for name in names:
        values = [row[name] for row in numbers]
        mean, several = float(np.mean(values)), len(values) > 1
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if several else 0.0
        made[name] = {
            "mean": mean,
            "sd": float(np.std(values, ddof=1)) if several else 0.0,
            "low": mean - float(half),
            "high": mean + float(half),
        }
    return made


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--preset", default="teaching", help="of the hospitals (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args(arguments)
    seeds = " ".join(map(str, args.seeds))
    result: dict[str, Any] = {
        "command": f"python book/experiments/difficulty.py --preset {args.preset} --seeds {seeds}"
        f" --out book/results/{args.out.name}",
        "baseline": {
            "C": C,
            "solver": "liblinear, dual",
            "min_df": 3,
            "threshold": 0.5,
            "least": LEAST,
        },
        "processors": os.cpu_count(),
        "made_with": provenance(),
        "seeds": [],
    }
    for seed in args.seeds:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "hospital"
            line = ["teaching", "--preset", args.preset, "--seed", str(seed), "--codes", "full"]
            if prepare([*line, "--vectors", "none", "--out", str(out)]):
                raise SystemExit(f"No corpus of seed {seed}.")
            found = study(Corpus.load(out), seed)
        result["seeds"].append(
            {"seed": seed, "seconds": round(time.perf_counter() - begin, 1), "figures": found}
        )
        sys.stderr.write(f"seed {seed}: micro-F1 {found['icd']['micro_f1']:.3f}\n")
    result["summary"] = summarised(result["seeds"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, result)


if __name__ == "__main__":
    try:
        main()
    except MarnError as error:
        sys.exit(str(error))
