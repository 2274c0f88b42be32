"""Scores that the papers print, as data, with footnotes, and your own runs next to them.

`published.csv` has one line per printed cell, `footnotes.csv` what is odd about some of them. Of
MARN, the journal version is listed, and the preprint only where the two differ.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from marn.errors import MarnError

PAPERS = (
    "MARN",
    "MARN preprint",
    "MARN readme",
    "MT-RAM",
    "MT-RAM readme",
    "Fusion readme",
    "slides",
    "later papers",
)
"""Sources, in order of precedence: Sun et al. 2022 (ACM TIST), its preprint and the readme of its
code; Sun et al. 2021 (ECML-PKDD) and the readme of its code; the readme of Fusion's code; the
authors' slides on medical coding (2022); papers since."""

_CELL = ["paper", "table", "dataset", "task", "system", "blocks", "metric"]


@cache
def _read(name: str) -> pd.DataFrame:
    path = Path(__file__).with_name(name)
    return pd.read_csv(path, keep_default_na=False, dtype=str)


def footnotes() -> pd.Series:
    """Return the footnotes: {number: text}, in order."""
    lines = _read("footnotes.csv").drop_duplicates("number")
    return pd.Series(lines["text"].to_list(), index=lines["number"].astype(int))


def figures() -> pd.DataFrame:
    """Return every printed cell, one per row.

    Returns:
        `paper` (one of `PAPERS`), `table`, `dataset`, `task`, `system` (its name in `marn.build`;
        empty where it has none), `blocks` (what is added to it, such as `"mtl+ram+fl"`), `printed`
        (the printed name), `metric` (its name in `marn.metrics.score`; macro-F1 is CAML's), `value`
        and `sd` (in percent, as printed; counts as they are), `footnotes` (numbers, as `"1 8"`).
    """
    cells = _read("published.csv").copy()
    cells["footnotes"] = ""
    for line in _read("footnotes.csv").to_dict("records"):
        meant = pd.Series(True, index=cells.index)
        for key in _CELL:
            meant &= (cells[key] == line[key]) | (line[key] == "*")
        cells.loc[meant, "footnotes"] = cells.loc[meant, "footnotes"] + f" {line['number']}"
    cells["footnotes"] = cells["footnotes"].str.strip()
    return cells.assign(value=cells["value"].astype(float), sd=pd.to_numeric(cells["sd"]))


def _scores(dataset: str, task: str) -> pd.DataFrame:
    """Return the cells of one task of a dataset that are scores, not counts."""
    cells = figures()
    for column, wanted in (("dataset", dataset), ("task", task)):
        known = sorted(set(cells[column]) - {""})
        if wanted not in known:
            raise MarnError(f"no published scores for {column} {wanted!r}; use one of {known}")
        cells = cells[cells[column] == wanted]
    return cells[cells["metric"].str.contains("_auc|_f1|precision_at")]


def _numbers(cells: pd.Series | list[str]) -> str:
    """Merge footnote numbers such as "1 8" and "2" into "1 2 8"."""
    return " ".join(sorted({number for text in cells for number in text.split()}, key=int))


def table(
    dataset: str = "MIMIC-III-50", task: str = "icd", *, papers: Sequence[str] = PAPERS
) -> pd.DataFrame:
    """Return the scores of a dataset as the papers lay them out, one row per printed row.

    The dataset is `"MIMIC-III-50"` or `"MIMIC-III-full"`.

    Returns:
        `paper`, `table`, `printed`, `system`, `blocks`, a column per metric (percent; NaN where a
        row does not have it), `footnotes`.

    Raises:
        MarnError: there is no such dataset, task or paper.
    """
    if unknown := sorted(set(papers) - set(PAPERS)):
        raise MarnError(f"no paper is called {unknown[0]!r}; use one of {', '.join(PAPERS)}")
    cells = _scores(dataset, task)
    rows = ["paper", "table", "printed", "system", "blocks"]
    lines = [
        dict(zip(rows, key, strict=True))
        | dict(zip(printed["metric"], printed["value"], strict=True))
        | {"footnotes": _numbers(printed["footnotes"])}
        for key, printed in cells[cells["paper"].isin(papers)].groupby(rows, sort=False)
    ]
    found = pd.DataFrame(lines)
    return found[[*found.columns.drop("footnotes"), "footnotes"]]


def compare_with_published(
    own: pd.DataFrame,
    *,
    corpus: str,
    dataset: str = "MIMIC-III-50",
    task: str = "icd",
    metrics: Sequence[str] = ("macro_f1_caml", "micro_f1", "precision_at_5"),
) -> pd.DataFrame:
    """Show your own scores next to the published ones.

    If several papers print a score, the first of `PAPERS` that does is taken.

    Args:
        own: one row per run: `system`, optionally `blocks`, and metrics as fractions, as
            `marn.evaluate` returns them.
        corpus: name of the corpus that they were measured on.
        dataset: dataset that the published ones were measured on.
        task: task of both.
        metrics: metrics shown.

    Returns:
        `system`, `blocks`, each metric twice, as `own …` and `published …` (both in percent; NaN
        where none is published), `published in`, `footnotes`, and `corpora`, which says whether the
        two can be compared at all.

    Raises:
        MarnError: `own` lacks a column, or there is no such dataset or task.
    """
    missing = [name for name in ("system", *metrics) if name not in own]
    if missing:
        raise MarnError(f"own scores lack the column {missing[0]!r}; they have {list(own)}")
    cells = _scores(dataset, task)
    cells = cells.sort_values("paper", key=lambda papers: papers.map(PAPERS.index), kind="stable")
    printed: dict[Any, dict[Any, Any]] = {}
    for cell in cells[cells["system"] != ""].to_dict("records"):
        printed.setdefault((cell["system"], cell["blocks"], cell["metric"]), cell)
    differ = f"not comparable: {corpus} here, {dataset} there"
    corpora = "the same" if corpus == dataset else differ
    lines = []
    for run in own.to_dict("records"):
        name, blocks = run["system"], run.get("blocks", "")
        line: dict[str, Any] = {"system": name, "blocks": blocks}
        found = []
        for metric in metrics:
            theirs = printed.get((name, blocks, metric), {})
            line[f"own {metric}"] = round(100 * run[metric], 1)
            line[f"published {metric}"] = theirs.get("value")
            found += [theirs] if theirs else []
        places = dict.fromkeys(", ".join(filter(None, (c["paper"], c["table"]))) for c in found)
        line["published in"] = "; ".join(places) or "not published"
        line["footnotes"] = _numbers([cell["footnotes"] for cell in found])
        line["corpora"] = corpora if found else ""
        lines.append(line)
    return pd.DataFrame(lines)
