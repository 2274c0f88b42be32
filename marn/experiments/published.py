"""Figures that the papers print, as data, with footnotes, and own runs beside them.

`published.csv` has a line for each printed cell, `footnotes.csv` what is odd about some of them.
The journal version of MARN stands for its preprint, whose cells are the same except where both are
listed.
"""

from __future__ import annotations

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
"""Where figures come from: Sun et al. 2022 (ACM TIST), its preprint and the page of its code; Sun
et al. 2021 (ECML-PKDD) and the page of its code; the page of Fusion's code; the authors' slides on
medical coding (2022); papers since."""

_CELL = ["paper", "table", "dataset", "task", "system", "blocks", "metric"]


@cache
def _read(name: str) -> pd.DataFrame:
    path = Path(__file__).with_name(name)
    return pd.read_csv(path, keep_default_na=False, dtype=str)


def footnotes() -> pd.Series:
    """Give the footnotes: {number: text}, in order."""
    lines = _read("footnotes.csv").drop_duplicates("number")
    return pd.Series(lines["text"].to_list(), index=lines["number"].astype(int), name="footnote")


def figures() -> pd.DataFrame:
    """Give every printed figure, one line a cell.

    Returns:
        `paper` (one of `PAPERS`), `table`, `dataset`, `task`, `system` (as `marn.build` names it;
        empty where it has none), `blocks` (what is put on it, as `"mtl+ram+fl"`), `printed` (the
        name in print), `metric` (as `marn.metrics.score` names it; macro-F1 is CAML's), `value` and
        `sd` (in percent, as printed; counts as they are), `footnotes` (numbers, as `"1 8"`).
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


def _of(dataset: str, task: str) -> pd.DataFrame:
    cells = figures()
    known = sorted({(d, t) for d, t in zip(cells["dataset"], cells["task"], strict=True) if d})
    if (dataset, task) not in known:
        raise MarnError(f"nothing is published of {dataset!r}, task {task!r}; there are {known}")
    scores = cells["metric"].str.contains("_auc|_f1|precision_at")
    return cells[(cells["dataset"] == dataset) & (cells["task"] == task) & scores]


def table(
    dataset: str = "MIMIC-III-50", task: str = "icd", *, papers: Sequence[str] = PAPERS
) -> pd.DataFrame:
    """Give the scores of a data set as the papers set them, a line for each printed row.

    Args:
        dataset: `"MIMIC-III-50"` or `"MIMIC-III-full"`.
        task: `"icd"` or `"ccs"`.
        papers: whose tables.

    Returns:
        `paper`, `table`, `printed`, `system`, `blocks`, a column a metric (percent), `footnotes`.

    Raises:
        MarnError: there is no such data set, task or paper.
    """
    unknown = sorted(set(papers) - set(PAPERS))
    if unknown:
        raise MarnError(f"no paper is called {unknown[0]!r}; there are {PAPERS}")
    cells = _of(dataset, task)
    cells = cells[cells["paper"].isin(papers)]
    row = ["paper", "table", "printed", "system", "blocks"]
    lines = []
    for key, mine in cells.groupby(row, sort=False):
        numbers = {number for text in mine["footnotes"] for number in text.split()}
        notes = " ".join(sorted(numbers, key=int))
        lines.append(
            dict(zip(row, key, strict=True))
            | dict(zip(mine["metric"], mine["value"], strict=True))
            | {"footnotes": notes}
        )
    found = pd.DataFrame(lines)
    metrics = [name for name in found if name not in (*row, "footnotes")]
    return found[[*row, *metrics, "footnotes"]]


def beside(
    own: pd.DataFrame,
    *,
    corpus: str,
    dataset: str = "MIMIC-III-50",
    task: str = "icd",
    metrics: Sequence[str] = ("macro_f1_caml", "micro_f1", "precision_at_5"),
) -> pd.DataFrame:
    """Put figures of one's own beside the published ones.

    Where several papers print a figure, the first of `PAPERS` that does is taken.

    Args:
        own: a line a run: `system`, perhaps `blocks`, and metrics as fractions, as `marn.evaluate`
            gives them.
        corpus: what they were measured on.
        dataset: what the published ones were measured on.
        task: of both.
        metrics: which ones.

    Returns:
        `system`, `blocks`, each metric twice, as `own …` and `published …` (both in percent),
        `published in`, `footnotes`, and `corpora`, which says whether the two can be compared at
        all.

    Raises:
        MarnError: `own` lacks a column, or there is no such data set or task.
    """
    missing = [name for name in ("system", *metrics) if name not in own]
    if missing:
        raise MarnError(f"own figures need a column {missing[0]!r}; they have {list(own)}")
    cells = _of(dataset, task)
    order = cells["paper"].map({paper: place for place, paper in enumerate(PAPERS)})
    cells = cells.assign(order=order).sort_values("order", kind="stable")
    first = cells.drop_duplicates(["system", "blocks", "metric"])
    said: dict[Any, Any] = {
        (cell["system"], cell["blocks"], cell["metric"]): cell
        for cell in first.to_dict("records")
        if cell["system"]
    }
    same = corpus == dataset
    corpora = "the same" if same else f"not comparable: {corpus} here, {dataset} there"
    lines = []
    for run in own.to_dict("records"):
        name, blocks = run["system"], run.get("blocks", "")
        line: dict[str, Any] = {"system": name, "blocks": blocks}
        theirs = [said.get((name, blocks, metric)) for metric in metrics]
        for metric, cell in zip(metrics, theirs, strict=True):
            line[f"own {metric}"] = round(100 * run[metric], 1)
            line[f"published {metric}"] = None if cell is None else cell["value"]
        found = [cell for cell in theirs if cell is not None]
        places = dict.fromkeys(", ".join(filter(None, (c["paper"], c["table"]))) for c in found)
        notes = {number for cell in found for number in cell["footnotes"].split()}
        line |= {
            "published in": "; ".join(places) or "not published",
            "footnotes": " ".join(sorted(notes, key=int)),
            "corpora": corpora if found else "",
        }
        lines.append(line)
    return pd.DataFrame(lines)
