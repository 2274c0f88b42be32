"""Scores that the papers print, as data, with footnotes.

`published.csv` has one line per printed cell, and `footnotes.csv` says what is odd about some of
them. MARN's cells are those of the journal version; the preprint's are listed where they differ.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

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
        empty where it has none), `blocks` (what is added to it, such as `"mtl+fl"`), `printed`
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


def table(
    dataset: str = "MIMIC-III-50", task: str = "icd", *, papers: Sequence[str] = PAPERS
) -> pd.DataFrame:
    """Return the scores of a dataset as the papers lay them out, one row per printed row.

    Args:
        dataset: `"MIMIC-III-50"` or `"MIMIC-III-full"`.
        task: `"icd"` or `"ccs"`.
        papers: the papers whose tables are returned.

    Returns:
        `paper`, `table`, `printed`, `system`, `blocks`, a column per metric (percent; NaN where a
        row does not have it), `footnotes`.

    Raises:
        MarnError: there is no such dataset, task or paper, or the papers print no scores for it.
    """
    if unknown := sorted(set(papers) - set(PAPERS)):
        raise MarnError(f"no paper is called {unknown[0]!r}; use one of {', '.join(PAPERS)}")
    cells = figures()
    for column, wanted in (("dataset", dataset), ("task", task)):
        known = sorted(set(cells[column]) - {""})
        if wanted not in known:
            raise MarnError(f"no published scores for {column} {wanted!r}; use one of {known}")
        cells = cells[cells[column] == wanted]
    cells = cells[cells["metric"].str.contains("_auc|_f1|precision_at")]
    rows = ["paper", "table", "printed", "system", "blocks"]
    lines = [
        dict(zip(rows, key, strict=True))
        | dict(zip(printed["metric"], printed["value"], strict=True))
        | {"footnotes": " ".join(sorted({*" ".join(printed["footnotes"]).split()}, key=int))}
        for key, printed in cells[cells["paper"].isin(papers)].groupby(rows, sort=False)
    ]
    if not lines:
        raise MarnError(f"{', '.join(papers)} has no scores of {dataset} for the task {task!r}")
    found = pd.DataFrame(lines)
    return found[[*found.columns.drop("footnotes"), "footnotes"]]
