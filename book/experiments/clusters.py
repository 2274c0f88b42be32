"""Count significant CCS categories (Eq. 18) of trained models, over seeds and beside controls.

    python book/experiments/clusters.py "runs/ablation=+RAM+MTL+FL" --out book/results/clusters.json

FOLDER=LABEL names the runs of a sweep that have a label on some axis, one for each seed; without a
label, all of its runs. The vector of a code is its mean view over all test notes, as in chapter 6.
The significant categories are counted for both values of tau that the papers print, separately for
categories of one code and of several. The controls are

* untrained: the same network with its initial weights;
* shuffled: the ICD codes assigned to the categories at random, 200 times;
* possible: the categories that pass if their circle holds exactly their own codes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import marn
from marn import analysis
from marn.evaluation import mean_code_features
from marn.saving import provenance, write_json

TAUS = (0.1, 0.01)


def runs(place: str) -> dict[int, Path]:
    """Find the finished runs of FOLDER=LABEL: {seed: run directory}."""
    folder, _, label = place.partition("=")
    found = {}
    for file in sorted(Path(folder).glob("*/done.json")):
        labels = json.loads(file.read_text(encoding="utf-8"))["labels"]
        if not label or label in map(str, labels.values()):
            found[labels["seed"]] = file.parent / "run"
    if not found:
        raise SystemExit(f"no finished run in {folder} has the label {label!r}")
    return found


def counts(vectors: dict[str, Any], parent: Any) -> dict[str, dict[str, float]]:
    """Count the significant categories of one model.

    Args:
        vectors: {task: (C, D)} vectors of the ICD and CCS codes.
        parent: (C_icd,) category of each ICD code, -1 for none.

    Returns:
        {tau: counts of categories of a single and of several codes, mean and 95 % quantile of the
        counts after shuffling, and the share of variance in the plane}.
    """
    plane = analysis.joint_pca(vectors["icd"], vectors["ccs"])
    rows = {}
    for tau in TAUS:
        found = analysis.significant_ccs(plane.icd, plane.ccs, parent, tau)
        single = found["relevant"] == 1
        null = analysis.permutation_null(plane.icd, plane.ccs, parent, tau)
        rows[str(tau)] = {
            "single": int(found["significant"][single].sum()),
            "several": int(found["significant"][~single].sum()),
            "shuffled": float(null.mean()),
            "shuffled, 95 %": float(np.quantile(null, 0.95)),
            "variance shown": round(float(plane.explained.sum()), 4),
        }
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", metavar="FOLDER=LABEL", help="with both tasks")
    parser.add_argument("--corpus", type=Path, default=Path("data/teaching"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    corpus = marn.Corpus.load(args.corpus)
    size = np.bincount(corpus.parent[corpus.parent >= 0], minlength=corpus.tasks["ccs"])
    best = (size[size > 0] / corpus.tasks["icd"]) ** size[size > 0]
    of_several = size[size > 0] > 1
    possible = {
        str(tau): {
            "single": int(((best < tau) & ~of_several).sum()),
            "several": int(((best < tau) & of_several).sum()),
        }
        for tau in TAUS
    }
    rows = []
    for seed, place in runs(args.runs).items():
        model = marn.load_model(place).model
        fresh = marn.build(model.name, corpus, **model.options)
        vectors = {
            "trained": mean_code_features(model, corpus),
            "untrained": mean_code_features(fresh, corpus),
        }
        for name, found in vectors.items():
            for tau, row in counts(found, corpus.parent).items():
                rows.append({"seed": seed, "vectors": name, "tau": float(tau), **row})
        sys.stderr.write(f"seed {seed}\n")
    first = json.loads((place / "results.json").read_text(encoding="utf-8"))
    result = {
        "command": f'python book/experiments/clusters.py "{args.runs}"'
        f" --out book/results/{args.out.name}",
        "made_with": provenance(),
        "model": {"system": first["system"], "trained_with": first["provenance"]["commit"]},
        "possible": possible,
        "codes": dict(corpus.tasks),
        "rows": rows,
    }
    write_json(args.out, result)


if __name__ == "__main__":
    try:
        main()
    except marn.MarnError as error:
        sys.exit(str(error))
