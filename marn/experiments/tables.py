"""Tables of results: our scores beside the papers', and averages over seeds."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from marn.errors import MarnError
from marn.experiments import published
from marn.metrics import BINS

_BLOCKS = ("mtl", "ram", "fl")
_SAME = {("marn", ""): ("bigru_la", "mtl+ram+fl"), ("mt_ram", ""): ("bigru_la", "mtl+ram")}


def blocks_of(label: str) -> str:
    """Write the label of an ablation row as `marn.experiments.published` does.

    Example:
        >>> blocks_of("+RAM+MTL (add)"), blocks_of("base"), blocks_of("base + bias")
        ('mtl+ram (add)', '', 'bias')
    """
    words = re.findall(r"[a-z]+", label.lower())
    others = [word for word in words if word not in (*_BLOCKS, "base", "add", "mult")]
    known = [block for block in _BLOCKS if block in words]
    return "+".join([*known, *others]) + (" (add)" if "add" in words else "")


def beside(
    own: pd.DataFrame, paper: str, table: str, *, dataset: str = "MIMIC-III-50", task: str = "icd"
) -> pd.DataFrame:
    """Lay out our scores as a table of a paper, beside the printed ones.

    MARN counts as the BiGRU with all three blocks, and MT-RAM as the BiGRU with two. Our rows that
    the paper lacks come last.

    Args:
        own: one row per system, from `marn.experiments.results.summary` with one `rule`: `model`,
            perhaps `blocks` (labels such as "+RAM+MTL"), and for each score its mean (a fraction)
            and `SCORE sd`.
        paper: one of `published.PAPERS`.
        table: such as "Table 5".
        dataset: data set of the table, see `marn.experiments.published.table`.
        task: task of the table, "icd" or "ccs".

    Returns:
        One row per printed row: `row`, `seeds`, and for each score that the paper prints `SCORE`,
        `SCORE sd` (ours) and `SCORE published`, all in percent.

    Raises:
        MarnError: the paper has no such table, or `own` has a system twice.
    """
    cells = published.figures()
    wanted = {"paper": paper, "table": table, "dataset": dataset, "task": task}
    for column, value in wanted.items():
        cells = cells[cells[column] == value]
    if cells.empty:
        raise MarnError(f"no published scores for {wanted}; see marn.experiments.published.figures")
    scores = list(dict.fromkeys(cells["metric"]))
    mine: dict[Any, dict[Any, Any]] = {}
    for row in own[own["task"] == task].to_dict("records"):
        key = (row["model"], blocks_of(str(row.get("blocks", ""))))
        if mine.setdefault(_SAME.get(key, key), row) is not row:
            raise MarnError(f"{key} occurs twice; give rows of one rule, and no other axis")
    lines = []
    rows: Any = cells.groupby(["printed", "system", "blocks"], sort=False)
    for (name, system, blocks), group in rows:
        theirs = dict(zip(group["metric"], group["value"], strict=True))
        key = _SAME.get((system, blocks), (system, blocks))
        lines.append(_line(name, mine.pop(key, {}), theirs, scores))
    for (system, blocks), row in mine.items():
        lines.append(_line(f"{system} {blocks}".strip(), row, {}, scores))
    return pd.DataFrame(lines)


def _line(name: str, own: Any, theirs: Any, scores: Sequence[str]) -> dict[str, Any]:
    line: dict[str, Any] = {"row": name, "seeds": own.get("seeds", 0)}
    for score in scores:
        line[score] = 100 * own.get(score, np.nan)
        line[f"{score} sd"] = 100 * own.get(f"{score} sd", np.nan)
        line[f"{score} published"] = theirs.get(score, np.nan)
    return line


def over_seeds(table: pd.DataFrame, by: Sequence[str], figure: str) -> pd.DataFrame:
    """Average a score over seeds, for a curve or a row of a table.

    Args:
        table: a row per run, such as those of `marn.experiments.results.collect` with one task and
            rule.
        by: columns that name a point, such as `["model", "train_notes"]`.
        figure: the column to average.

    Returns:
        The columns `by`, `seeds`, `mean`, `sd`, and `low` and `high`: Student's 95 % interval over
        seeds. With a single seed, `sd`, `low` and `high` are NaN.
    """
    from scipy import stats

    groups = table.groupby(list(by), sort=False)[figure]
    found: pd.DataFrame = groups.agg(seeds="size", mean="mean", sd="std").reset_index()
    widths = stats.t.ppf(0.975, (found["seeds"] - 1).clip(lower=1))
    half = widths * found["sd"] / np.sqrt(found["seeds"])
    return found.assign(low=found["mean"] - half, high=found["mean"] + half)


def by_frequency(codes: pd.DataFrame, by: Sequence[str], figure: str = "f1") -> pd.DataFrame:
    """Average a score of codes within groups of similar training frequency, `metrics.BINS`.

    Args:
        codes: from `marn.experiments.results.per_code`; codes that no test note has are left out.
        by: labels that name a system.
        figure: the column to average.

    Returns:
        The columns `by`, `training notes` (such as "10-29"), `codes` (their number), and the mean
        of the codes over seeds: `seeds`, `mean`, `sd`, `low` and `high`, see `over_seeds`.
    """
    names = [f"{low}+" if high is None else f"{low}-{high}" for low, high in BINS]
    shown = codes[codes["present"] > 0]
    place = np.searchsorted([low for low, _ in BINS], shown["frequency"], side="right") - 1
    groups = shown.assign(**{"training notes": pd.Categorical.from_codes(place, pd.Index(names))})
    keys = [*by, "training notes"]
    each = groups.groupby([*keys, "seed"], sort=False, observed=True)[figure]
    runs = each.agg(codes="size", mean="mean").reset_index()
    counts = runs.groupby(keys, sort=False, observed=True)["codes"].first().reset_index()
    found = counts.merge(over_seeds(runs, keys, "mean").query("seeds > 0"), on=keys)
    return found.sort_values(keys, ignore_index=True)
