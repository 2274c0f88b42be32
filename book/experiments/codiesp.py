"""Real text: MARN and CAML beside linear baselines on CodiEsp, in English, over several seeds.

    python -m data_prep codiesp --raw CODIESP --out data/codiesp_en5 --language en --min-train 5
    python book/experiments/codiesp.py --corpus data/codiesp_en5 --out book/results/codiesp_en.json

What may be seen when: systems learn from all training notes. The dev notes are dealt in turn into
two halves, by their order in the corpus (sorted by case, so that neighbours, which often come from
one journal, fall into different halves). The first half chooses: the epoch whose weights are kept,
the threshold, and the baselines' regularisation, by mean average precision or, for the threshold,
by micro-F1. The second half is scored, once, and every figure in the result is of it. No figure is
given for all of dev, since half of it has chosen something. A test split, where there is one, is
not looked at.

Systems, at sizes that a core of a laptop can train:

* `frequency`: each code's share of the training notes, the same for every note;
* `lr`: TF-IDF of the words (training notes alone, words in at least 3 of them, logarithm of the
  counts, rows of length one) and a logistic regression for each code;
* `lr_balanced`: the same with both classes of a code weighing alike;
* `caml`: at its paper's size, but for both tasks, as `marn`;
* `marn`: narrower than in the paper.

Both networks read the first words of a note and share every setting of the training that is not
the loss, which is each paper's own. The learning rates that CAML and MARN print, 1e-4 and 1e-3, are
for 25,000 steps and more; here an epoch has 31. So both take 8e-3, which MT-RAM names for all its
systems (Section 4.3), and CAML, whose epochs are cheaper, gets more of them. The patience is longer
than the papers' 10, since CAML spends its first 20 epochs on little more than the codes' shares
(seen with a seed that is not among the results, on the training notes and the first half). The
epoch is chosen by the ICD codes.

Two intervals, which answer different questions. `summary` has Student's t over seeds: would
another start of the same training on the same notes score the same? `differences` resamples the
scored notes: would other notes give the same order of systems?

Interrupted, it goes on from the last epoch when it is started again with the same options.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import marn
from marn import metrics
from marn.corpus import Corpus, Split, text
from marn.progress import duration
from marn.saving import provenance, write_json

FIGURES: Final = (
    "micro_f1",
    "micro_precision",
    "micro_recall",
    "macro_f1_caml",
    "macro_f1_all",
    "macro_f1_present",
    "mean_average_precision",
    "micro_auc",
    "macro_auc",
    "precision_at_5",
)
C_GRID: Final = (1.0, 10.0, 100.0, 1000.0, 10000.0)
REFERENCE: Final = "lr"
RESAMPLES: Final = 2000
LEARNING_RATE: Final = 8e-3

Floats = NDArray[np.floating]
Report = Callable[[str], None]


class Part:
    """Some notes of a split, by their places: what training and evaluation ask of a `Split`."""

    def __init__(self, split: Split, places: NDArray[np.int64]) -> None:
        self._split, self._places = split, places
        self.ids = split.ids[places]
        self.lengths = split.lengths[places]

    def __len__(self) -> int:
        return len(self._places)

    def note_tokens(self, note: int) -> NDArray[np.int32]:
        """Return the words of one note."""
        return self._split.note_tokens(int(self._places[note]))

    def text(self, note: int) -> str:
        """Return the text of one note."""
        return self._split.text(int(self._places[note]))

    def code_indices(self, task: str, note: int) -> NDArray[np.int32]:
        """Return the columns of the codes of one note."""
        return self._split.code_indices(task, int(self._places[note]))

    def targets(self, task: str) -> NDArray[np.bool_]:
        """Return the codes of all notes, (N, C)."""
        return self._split.targets(task)[self._places]


class Halves(Corpus):
    """A corpus whose dev notes are dealt in turn: the first half is `dev`, the second `test`."""

    def __init__(self, corpus: Corpus) -> None:
        super().__init__(corpus.path, corpus.card, list(corpus.tasks), {})
        places = np.arange(len(corpus["dev"]))
        self._splits: dict[str, Any] = {
            "train": corpus["train"],
            "dev": Part(corpus["dev"], places[::2]),
            "test": Part(corpus["dev"], places[1::2]),
        }

    @property
    def hash(self) -> str:
        """Says of a run directory that dev was halved."""
        return super().hash + "+halves"


@dataclass(frozen=True)
class Said:
    """What a system says of both halves, for one task."""

    system: str
    seed: int | None
    task: str
    chosen: Floats
    """(N_A, C) probabilities for the half that chooses."""
    scored: Floats
    """(N_B, C) probabilities for the half that is scored."""


def baselines(corpus: Corpus, report: Report) -> tuple[list[Said], list[dict[str, Any]]]:
    """Fit what needs no network: code frequencies, and logistic regression with two weightings."""
    vectoriser = TfidfVectorizer(analyzer=text.tokenize, min_df=3, sublinear_tf=True, norm="l2")
    texts = {name: [split.text(i) for i in range(len(split))] for name, split in parts(corpus)}
    x = {"train": vectoriser.fit_transform(texts["train"])}
    x |= {name: vectoriser.transform(texts[name]) for name in ("dev", "test")}
    said, fits = [], []
    for task in corpus.tasks:
        y = corpus["train"].targets(task)
        share = y.mean(axis=0)
        flat = [np.tile(share, (len(corpus[name]), 1)) for name in ("dev", "test")]
        said.append(Said("frequency", None, task, *flat))
        for system, weight in (("lr", None), ("lr_balanced", "balanced")):
            began = time.monotonic()
            best: tuple[float, float, Floats, Floats] | None = None
            for c in C_GRID:
                chosen, scored = logistic(x, y, c, weight)
                truth = corpus["dev"].targets(task)
                value = metrics.score(chosen, truth)["mean_average_precision"]
                report(f"{system} {task} C={c:g}: mean average precision {value:.3f}")
                if best is None or value > best[0]:
                    best = value, c, chosen, scored
            assert best is not None
            said.append(Said(system, None, task, *best[2:]))
            fits.append(
                {
                    "system": system,
                    "seed": None,
                    "task": task,
                    "C": best[1],
                    "parameters": len(share) * (x["train"].shape[1] + 1),
                    "seconds": round(time.monotonic() - began, 1),
                }
            )
    return said, fits


def parts(corpus: Corpus) -> list[tuple[str, Split]]:
    """List the three parts by name."""
    return [(name, corpus[name]) for name in ("train", "dev", "test")]


def logistic(
    x: dict[str, sparse.csr_matrix], y: NDArray[np.bool_], c: float, weight: str | None
) -> tuple[Floats, Floats]:
    """Fit one regression a code; a code of all or no training notes keeps its share."""
    found = [np.tile(y.mean(axis=0), (x[name].shape[0], 1)) for name in ("dev", "test")]
    for code in np.flatnonzero(y.any(axis=0) & ~y.all(axis=0)):
        # liblinear draws nothing here: its dual solver alone is random
        model = LogisticRegression(C=c, class_weight=weight, solver="liblinear", dual=False)
        model.fit(x["train"], y[:, code])
        for probabilities, name in zip(found, ("dev", "test"), strict=True):
            probabilities[:, code] = model.predict_proba(x[name])[:, 1]
    return found[0], found[1]


def networks(args: argparse.Namespace, corpus: Corpus, report: Report) -> Any:
    """Train every network for every seed; returns what they say and how long they took."""
    plans = [
        ("caml", {"max_length": args.length}, args.caml_epochs),
        ("marn", {"hidden_size": args.width, "max_length": args.length}, args.epochs),
    ]
    said, fits, began = [], [], time.monotonic()
    for count, seed in enumerate(args.seeds):
        for name, options, epochs in plans:
            model = marn.build(name, corpus, seed=seed, **options)
            config = marn.TrainConfig.of(
                model,
                seed=seed,
                epochs=epochs,
                batch_size=args.batch_size,
                learning_rate=LEARNING_RATE,
                patience=args.patience,
                device="cpu",
            )
            folder = args.runs / f"{name}_seed{seed}"
            report(f"{name}, seed {seed}")
            run = marn.fit(model, corpus, config, run_dir=folder)
            dev, test = (marn.predict(model, corpus, half) for half in ("dev", "test"))
            said += [
                Said(name, seed, task, dev.probabilities(task), test.probabilities(task))
                for task in corpus.tasks
            ]
            fits.append(
                {
                    "system": name,
                    "seed": seed,
                    "task": " + ".join(corpus.tasks),
                    "options": options,
                    "epochs": len(run.history),
                    "best_epoch": run.best_epoch,
                    "parameters": model.count_parameters(embeddings=False),
                    "embedding_parameters": model.embedding.table.weight.numel(),
                    "seconds": round(float(run.history["seconds"].sum()), 1),
                    "training": {
                        key: value for key, value in vars(config).items() if key != "seed"
                    },
                }
            )
        done = count + 1
        left = (time.monotonic() - began) / done * (len(args.seeds) - done)
        report(f"seed {seed} done; about {duration(left)} left")
    return said, fits


def rows_of(said: Sequence[Said], corpus: Corpus) -> list[dict[str, Any]]:
    """Score the second half, at 0.5 and at the threshold with the best micro-F1 on the first."""
    rows = []
    for one in said:
        tuned = round(metrics.best_threshold(one.chosen, corpus["dev"].targets(one.task)), 6)
        for rule, threshold in (("0.5", 0.5), ("tuned", tuned)):
            found = metrics.score(one.scored, corpus["test"].targets(one.task), threshold=threshold)
            rows.append(
                {
                    "system": one.system,
                    "seed": one.seed,
                    "task": one.task,
                    "rule": rule,
                    "threshold": threshold,
                }
                | {figure: rounded(found[figure]) for figure in FIGURES if figure in found}
            )
    return rows


def rounded(value: float) -> float | None:
    """Five digits after the point; nothing for what is undefined."""
    return round(float(value), 5) if np.isfinite(value) else None


def summary_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, standard deviation and 95 % t interval over seeds of every figure."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["system"], row["task"], row["rule"]), []).append(row)
    summary = []
    for (system, task, rule), mine in groups.items():
        for figure in (figure for figure in FIGURES if mine[0].get(figure) is not None):
            values = [row[figure] for row in mine]
            mean, several = float(np.mean(values)), len(values) > 1
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if several else np.nan
            summary.append(
                {
                    "system": system,
                    "task": task,
                    "rule": rule,
                    "figure": figure,
                    "mean": rounded(mean),
                    "sd": rounded(np.std(values, ddof=1)) if several else None,
                    "low": rounded(mean - half),
                    "high": rounded(mean + half),
                    "seeds": len(values),
                }
            )
    return summary


def differences_of(
    said: Sequence[Said],
    rows: Sequence[dict[str, Any]],
    corpus: Corpus,
    reference: str = REFERENCE,
) -> list[dict[str, Any]]:
    """Compare every system with one of them, their seeds' means, over resamples of the notes."""
    thresholds = {
        (row["system"], row["seed"], row["task"]): row["threshold"]
        for row in rows
        if row["rule"] == "tuned"
    }
    notes = len(corpus["test"])
    drawn = np.random.default_rng(0).integers(0, notes, (RESAMPLES, notes))
    everything = np.arange(notes)[None]
    differences = []
    for task in corpus.tasks:
        truth = corpus["test"].targets(task)
        scores: dict[str, dict[str, list[Floats]]] = {}
        for one in (one for one in said if one.task == task):
            claimed = one.scored > thresholds[one.system, one.seed, task]
            hits, either = (claimed & truth).sum(1), claimed.sum(1) + truth.sum(1)
            average = np.array(
                [
                    metrics.score(one.scored[[i]], truth[[i]])["mean_average_precision"]
                    for i in range(notes)
                ]
            )
            mine = scores.setdefault(one.system, {"micro_f1": [], "mean_average_precision": []})
            for places in (everything, drawn):
                f1 = 2 * hits[places].sum(1) / np.maximum(either[places].sum(1), 1)
                mine["micro_f1"].append(f1)
                mine["mean_average_precision"].append(np.nanmean(average[places], axis=1))
        for system, mine in scores.items():
            if system == reference:
                continue
            for figure, values in mine.items():
                other = scores[reference][figure]
                point = np.mean(values[::2]) - other[0][0]
                spread = np.mean(values[1::2], axis=0) - other[1]
                low, high = np.quantile(spread, [0.025, 0.975])
                differences.append(
                    {
                        "system": system,
                        "minus": reference,
                        "task": task,
                        "rule": "tuned",
                        "figure": figure,
                        "difference": rounded(point),
                        "low": rounded(low),
                        "high": rounded(high),
                    }
                )
    return differences


def describe(args: argparse.Namespace, corpus: Corpus) -> dict[str, Any]:
    """Say what was measured and how, without a path of this machine."""
    card = corpus.card
    options = {"--corpus": f"data/{corpus.name}", "--out": f"book/results/{args.out.name}"}
    options |= {
        f"--{key.replace('_', '-')}": str(getattr(args, key))
        for key in ("width", "length", "epochs", "caml_epochs", "batch_size", "patience")
    }
    seeds = ["--seeds", *map(str, args.seeds)]
    words = [
        "python",
        "book/experiments/codiesp.py",
        *(part for pair in options.items() for part in pair),
        *seeds,
    ]
    return {
        "command": shlex.join(words),
        "seeds": args.seeds,
        "corpus": {
            "name": corpus.name,
            "source": card["source"],
            "hash": card["hash"],
            "command": card["created"]["command"],
            "licence": card["settings"].get("licence"),
            "citation": card["settings"].get("citation"),
            "notes": {
                "train": len(corpus["train"]),
                "dev, to choose": len(corpus["dev"]),
                "dev, scored": len(corpus["test"]),
            },
            "codes": dict(corpus.tasks),
            "codes in the scored notes": {
                task: int(corpus["test"].targets(task).any(axis=0).sum()) for task in corpus.tasks
            },
            "dropped": card["dropped"],
            "codes a training note": {
                task: rounded(corpus["train"].targets(task).sum() / len(corpus["train"]))
                for task in corpus.tasks
            },
            "longer than the networks read": rounded(
                float((corpus["train"].lengths > args.length).mean())
            ),
        },
        "baseline": {
            "vectoriser": "TF-IDF, marn.corpus.text.tokenize, min_df=3, sublinear_tf, l2",
            "solver": "liblinear, primal, l2, one regression a code",
            "C": list(C_GRID),
            "chosen by": "mean average precision on the first half of dev",
        },
        "provenance": provenance()
        | {
            name: version(package)
            for name, package in (("numpy", "numpy"), ("sklearn", "scikit-learn"))
        },
    }


def arguments() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description="MARN, CAML and linear baselines on CodiEsp.")
    parser.add_argument("--corpus", type=Path, required=True, help="made by data_prep codiesp")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--runs", type=Path, default=Path("runs/codiesp"), help="run directories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=64, help="MARN's hidden_size (paper: 300)")
    parser.add_argument("--length", type=int, default=300, help="words of a note that are read")
    parser.add_argument("--epochs", type=int, default=30, help="of MARN, at most")
    parser.add_argument("--caml-epochs", type=int, default=80, help="of CAML, at most")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--patience", type=int, default=20)
    return parser


def main(line: Sequence[str] | None = None) -> int:
    """Run the experiment; a wrong option or corpus is a line, not a traceback."""
    args = arguments().parse_args(line)

    def report(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    try:
        corpus = Halves(Corpus.load(args.corpus))
        said, fits = baselines(corpus, report)
        learned, trained = networks(args, corpus, report)
        said, fits = said + learned, fits + trained
        rows = rows_of(said, corpus)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        result = describe(args, corpus) | {
            "fits": fits,
            "seconds": round(sum(fit["seconds"] for fit in fits), 1),
            "rows": rows,
            "summary": summary_of(rows),
            "differences": differences_of(said, rows, corpus),
        }
        write_json(args.out, result)
    except marn.MarnError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    report(f"{args.out.name} written: {len(rows)} rows, {duration(result['seconds'])} of fitting")
    return 0


if __name__ == "__main__":
    sys.exit(main())
