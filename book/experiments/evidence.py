"""What a sweep found, as the aggregate that the book keeps.

    python book/experiments/evidence.py runs/ablation --by blocks --pairs "+FL - base" …
        --out book/results/ablation.json

The runs are averaged over their seeds, and each pair of rows is compared on the same seeds and test
notes: the difference of the micro-F1s at the threshold tuned on dev (interval and test of
`marn.experiments.results.compare`, p corrected by Holm's method for all the pairs together), and
that of the macro-F1s, with Student's interval over the seeds. `wrong order` is the share of single
seeds, one for each system, in which the row that is behind on average was ahead. `dev` is the best
epoch's mean average precision of the ICD codes on the dev notes, by which settings are chosen.
With `--lengths CORPUS` each pair is also compared on the shortest, the middle and the longest third
of the test notes, with `--rare CORPUS` on the codes with fewer than 30 training notes, divided by
how many training notes have a code of their category.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from marn import Corpus, MarnError, metrics
from marn.experiments import recording, results, tables
from marn.resampling import holm
from marn.saving import provenance, write_json
from marn.settings import unknown

FIGURES = ["micro_f1", "micro_precision", "micro_recall", "macro_f1_caml", "macro_f1_all"]
FIGURES += ["macro_f1_present", "micro_auc", "macro_auc", "mean_average_precision"]
FIGURES += ["precision_at_5"]
HARDWARE = ("processor", "machine", "cpu_capability", "gpu", "torch")


def plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Write a table as JSON has it: rounded rows, None for what is missing."""
    rounded = table.round(4).astype(object)
    return rounded.where(table.notna(), None).to_dict("records")


def curves(folder: Path, by: list[str]) -> list[dict[str, Any]]:
    """Average the dev scores of the ICD codes after each epoch over the seeds."""
    history = results.curves(folder)
    scores = {"dev/icd/mean_average_precision": "map", "dev/icd/micro_f1": "micro_f1"}
    found = [
        tables.over_seeds(history, [*by, "epoch"], key).assign(score=name)
        for key, name in scores.items()
    ]
    return plain(pd.concat(found))


def several(table: pd.DataFrame, key: str) -> str | None:
    """Return what all runs have in a column, or all that they have; None for nothing."""
    return ", ".join(sorted(table[key].dropna().unique())) or None if key in table else None


def calibration(folder: Path, by: list[str]) -> list[dict[str, Any]]:
    """Average the calibration of the ICD codes' probabilities on the test notes over the seeds."""
    rows = []
    for labels, probabilities, targets in results.predictions(folder):
        said, true, share = metrics.reliability(probabilities, targets)
        error = float(np.nansum(share * abs(said - true)))
        parts = zip(range(len(said)), said, true, share, strict=True)
        names = ("bin", "said", "true", "share")
        rows += [{**labels, "error": error, **dict(zip(names, p, strict=True))} for p in parts]
    groups = pd.DataFrame(rows).groupby([*by, "bin"], sort=False)
    found = groups[["said", "true", "share", "error"]].mean()
    return plain(found.assign(**{"error sd": groups["error"].std()}).reset_index())


def against(
    folder: Path, table: pd.DataFrame, by: list[str], second: str, **part: Any
) -> pd.DataFrame:
    """Compare the micro-F1 of every row with that of one row, over notes and seeds."""
    baseline: dict[str, Any] = table.loc[table["row name"] == second, by].iloc[0].to_dict()
    found = results.compare(folder, by, baseline, **part)
    return found.set_index(found[by].astype(str).agg(" / ".join, axis=1))


def pair(table: pd.DataFrame, micro: pd.Series, rows: tuple[str, str]) -> dict[str, Any]:
    """Compare two rows of a table: their macro-F1 over seeds, beside a row of `against`."""
    first, second = rows
    a, b = (
        table[table["row name"] == name].set_index("seed")[["micro_f1", "macro_f1_present"]]
        for name in rows
    )
    shared = a.index.intersection(b.index)
    macro = (a - b).loc[shared, "macro_f1_present"]
    half = stats.t.ppf(0.975, len(macro) - 1) * stats.sem(macro) if len(macro) > 1 else np.nan
    apart = [x - y for x, y in itertools.product(a["micro_f1"], b["micro_f1"])]
    return {
        "row": first,
        "minus": second,
        "seeds": int(micro["seeds"]),
        **{key: round(float(micro[key]), 4) for key in ("difference", "low", "high")},
        "p": float(micro["p"]),
        "macro": [
            round(float(value), 4) if np.isfinite(value) else None
            for value in (macro.mean(), macro.mean() - half, macro.mean() + half)
        ],
        "wrong order": round(float(np.mean(np.array(apart) * micro["difference"] < 0)), 3),
    }


def by_length(corpus: Corpus) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield thirds of the test notes by their number of words: what they are, and which."""
    lengths = corpus["test"].lengths
    edges = [0, *np.quantile(lengths, [1 / 3, 2 / 3], method="lower"), lengths.max()]
    for low, high in itertools.pairwise(int(edge) for edge in edges):
        some = (lengths > low) & (lengths <= high)
        yield {"words": [low + 1, high], "notes": int(some.sum())}, {"notes": some}


def by_category(corpus: Corpus) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the rare codes by the training notes of their category: what they are, and which."""
    of_category = np.append(corpus.frequency("ccs"), 0)[corpus.parent]
    positives = corpus["test"].targets("icd").sum(0)
    for low, high in ((0, 29), (30, 299), (300, len(corpus["train"]))):
        some = (corpus.frequency("icd") < 30) & (of_category >= low) & (of_category <= high)
        size = {"codes": int((positives[some] > 0).sum()), "positives": int(positives[some].sum())}
        yield {"category": [low, high], **size}, {"codes": some}


def on_parts(
    folder: Path, table: pd.DataFrame, by: list[str], rows: list[tuple[str, str]], parts: Any
) -> list[dict[str, Any]]:
    """Compare each pair on parts of the test notes, or of the codes."""
    found = []
    for named, part in parts:
        micro = {two: against(folder, table, by, two, **part) for two in {two for _, two in rows}}
        for one, two in rows:
            gap = {key: micro[two].loc[one, key] for key in ("difference", "low", "high")}
            found.append({"row": one, "minus": two, **named, **gap})
    return plain(pd.DataFrame(found))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of a sweep")
    parser.add_argument("--by", nargs="+", required=True, help="axes that name a row")
    parser.add_argument("--pairs", nargs="*", default=[], help='such as "+FL - base"')
    parser.add_argument("--lengths", type=Path, help="corpus, to compare by length of note too")
    parser.add_argument("--rare", type=Path, help="corpus, to compare on rare codes too")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    table = results.collect(args.folder)
    named = [*args.by, "seed"]
    best = results.curves(args.folder).groupby(named)["dev/icd/mean_average_precision"].max()
    table = table.join(best.rename("dev"), on=named)
    table["row name"] = table[args.by].astype(str).agg(" / ".join, axis=1)
    tuned = table[(table["task"] == "icd") & (table["rule"] == "dev")]
    means = results.summary(table, args.by, [*FIGURES, "dev", "parameters", "train_seconds"])
    rows = [(first, second) for first, _, second in (one.partition(" - ") for one in args.pairs)]
    for name in itertools.chain(*rows):
        if name not in set(tuned["row name"]):
            raise unknown("no row is named", name, tuned["row name"].unique())
    micro = {two: against(args.folder, tuned, args.by, two) for two in {two for _, two in rows}}
    pairs = [pair(tuned, micro[two].loc[one], (one, two)) for one, two in rows]
    for found, p in zip(pairs, holm([one["p"] for one in pairs]) if pairs else [], strict=True):
        found["p corrected"] = round(float(p), 4)
    pairs_asked = f" --pairs {' '.join(map(json.dumps, args.pairs))}" if args.pairs else ""
    asked = {"lengths": args.lengths, "rare": args.rare}
    more = "".join(f" --{name} {path}" for name, path in asked.items() if path)
    codes = results.per_code(args.folder)
    one = table.iloc[0]
    made = [json.loads(f.read_text()) for f in args.folder.glob(f"*/run/{recording.RESULTS}")]
    cards = {run["corpus"]["hash"]: run["corpus"].get("card") for run in made}
    card = cards.pop(one["corpus_hash"])
    result = {
        "command": f"python book/experiments/evidence.py {args.folder} --by {' '.join(args.by)}"
        f"{pairs_asked}{more} --out book/results/{args.out.name}",
        "runs": {
            "sweep": f"python -m marn sweep book/experiments/{args.folder.name}.yaml",
            "count": int(table["key"].nunique()),
            "hours": round(table.drop_duplicates("key")["seconds"].sum() / 3600, 2),
            "seeds": sorted(int(seed) for seed in table["seed"].unique()),
            "corpus": one["corpus_hash"],
            "corpus_card": card,
            "other_corpora": [{"hash": key, **(of or {})} for key, of in sorted(cards.items())],
            "commits": sorted(table["commit"].unique()),
            **{key: several(table, key) for key in HARDWARE},
        },
        "made_with": provenance(),
        "means": plain(means),
        "differences": pairs,
        "curves": curves(args.folder, args.by),
        "calibration": calibration(args.folder, args.by),
        "by_frequency": plain(tables.by_frequency(codes, args.by)),
        "loss_by_frequency": plain(tables.by_frequency(codes, args.by, "relative loss")),
    }
    if args.lengths:
        parts = by_length(Corpus.load(args.lengths))
        result["by_length"] = on_parts(args.folder, tuned, args.by, rows, parts)
    if args.rare:
        parts = by_category(Corpus.load(args.rare))
        result["rare_by_category"] = on_parts(args.folder, tuned, args.by, rows, parts)
    write_json(args.out, result)


if __name__ == "__main__":
    try:
        main()
    except MarnError as error:
        sys.exit(str(error))
