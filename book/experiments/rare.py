"""Score codes with few training notes: a network, the dictionary of marked phrases, and both.

    python book/experiments/rare.py runs/rare --out book/results/rare.json

The networks are the runs of rare.yaml. Rare codes have fewer than ten training notes, and their F1
is micro-F1 over them. An average is what `marn.average` makes of a network and the dictionary. For
each pool, one share of the network is chosen on dev for all seeds, by the sum of the micro-F1 of
all codes and that of rare codes. Thresholds are tuned on dev.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import marn
from marn import metrics
from marn.evaluation import predict, sigmoid
from marn.saving import provenance, write_json

SHARES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
SPLITS = ("dev", "test")
Logits = dict[str, NDArray[np.floating]]
"""{split: (N, C)}."""


def logits(model: Any, corpus: marn.Corpus) -> Logits:
    """Return the logits of the notes of dev and test."""
    return {split: predict(model, corpus, split).logits["icd"].astype(float) for split in SPLITS}


def average(network: Logits, dictionary: Logits, share: float, pool: str) -> Logits:
    """Average logits as `marn.average` does, with this share of the network."""
    both = {split: (network[split], dictionary[split]) for split in SPLITS}
    if pool == "logits":
        return {split: share * one + (1 - share) * other for split, (one, other) in both.items()}
    mean = {
        s: share * sigmoid(one) + (1 - share) * sigmoid(other) for s, (one, other) in both.items()
    }
    return {split: np.log(p / (1 - p)) for split, p in mean.items()}


def scored(found: Logits, corpus: marn.Corpus) -> dict[str, dict[str, float]]:
    """Score both splits with the threshold of dev: {split: {score: value}}."""
    truth = {split: corpus[split].targets("icd") for split in SPLITS}
    said = {split: sigmoid(found[split]) for split in SPLITS}
    cut, rows = metrics.best_threshold(said["dev"], truth["dev"]), {}
    for split in SPLITS:
        whole = metrics.score(said[split], truth[split], threshold=cut)
        groups = metrics.by_frequency(said[split], truth[split], corpus.frequency("icd"), cut)
        rows[split] = {
            "micro_f1": whole["micro_f1"],
            "mean_average_precision": whole["mean_average_precision"],
            "rare_f1": groups["0-9"]["micro_f1"],
        }
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, help="folder of the sweep rare.yaml")
    parser.add_argument("--corpus", type=Path, default=Path("data/teaching_full"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    corpus = marn.Corpus.load(args.corpus)
    dictionary = logits(marn.build("dictionary", corpus).fit(corpus), corpus)
    networks, runs = {}, {}
    for file in sorted(args.runs.glob("*/run/results.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        seed = run["options"]["seed"]
        runs[seed], networks[seed] = run, logits(marn.load_model(file.parent).model, corpus)
        sys.stderr.write(f"seed {seed}\n")
    if not runs:
        raise SystemExit(f"no finished run is in {args.runs}; run the sweep rare.yaml first")
    systems = {"dictionary": {0: dictionary}, "network": networks}
    shares = {}
    for pool in ("probabilities", "logits"):
        tried = {
            share: {s: average(x, dictionary, share, pool) for s, x in networks.items()}
            for share in SHARES
        }
        worth = {
            share: sum(
                scored(x, corpus)["dev"][figure]
                for x in found.values()
                for figure in ("micro_f1", "rare_f1")
            )
            for share, found in tried.items()
        }
        shares[pool] = max(worth, key=lambda share: worth[share])
        systems[f"average of {pool}"] = tried[shares[pool]]
    result = {
        "command": f"python book/experiments/rare.py runs/rare --out book/results/{args.out.name}",
        "sweep": "python -m marn sweep book/experiments/rare.yaml",
        "made_with": provenance(),
        "trained_with": sorted({run["provenance"]["commit"] for run in runs.values()}),
        "corpus": next(iter(runs.values()))["corpus"],
        "train_seconds": [run["train_seconds"] for run in runs.values()],
        "rare codes": int((corpus.frequency("icd") < 10).sum()),
        "share of the network": shares,
        "rows": [
            {"system": name, "seed": seed, "split": split}
            | {figure: round(value, 4) for figure, value in figures.items()}
            for name, found in systems.items()
            for seed, x in found.items()
            for split, figures in scored(x, corpus).items()
        ],
    }
    write_json(args.out, result)


if __name__ == "__main__":
    try:
        main()
    except marn.MarnError as error:
        sys.exit(str(error))
