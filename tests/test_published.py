import csv
import os
from pathlib import Path

import pytest

import marn
from marn import MarnError, metrics
from marn.experiments import published

SHARED = Path(os.environ.get("MARN_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
SPOTS = [
    ("MARN", "MIMIC-III-50", "icd", "marn", "", "micro_f1", 71.8),
    ("MARN", "MIMIC-III-50", "icd", "cnn", "", "macro_f1_caml", 57.6),
    ("MARN", "MIMIC-III-full", "icd", "cnn", "", "precision_at_15", 44.3),
    ("MARN", "MIMIC-III-full", "ccs", "marn", "", "precision_at_8", 84.3),
    ("MARN", "MIMIC-III-50", "icd", "bigru_la", "ram+fl", "micro_f1", 69.4),
    ("MT-RAM", "MIMIC-III-50", "icd", "bigru_la", "", "macro_f1_caml", 60.4),
    ("MT-RAM", "MIMIC-III-50", "icd", "caml", "mtl+ram (add)", "precision_at_5", 65.0),
    ("slides", "MIMIC-III-50", "icd", "attentive_lstm", "", "micro_f1", 53.2),
    ("Fusion readme", "MIMIC-III-50", "icd", "fusion", "", "micro_f1", 67.4),
]


@pytest.mark.parametrize("spot", SPOTS, ids=str)
def test_figures_against_the_papers(spot):
    cells = published.figures()
    for key, wanted in zip(
        ("paper", "dataset", "task", "system", "blocks", "metric"), spot[:-1], strict=True
    ):
        cells = cells[cells[key] == wanted]
    assert cells.value.unique().tolist() == [spot[-1]]


def test_names_and_ranges():
    cells = published.figures()
    assert set(cells.paper) == set(published.PAPERS)
    known = set(metrics.score([[0.9, 0.1] * 10], [[1, 0] * 10], ks=(5, 8, 15)))
    scores = cells[cells.metric.isin(known)]
    assert len(scores) > 400
    assert scores.value.between(3, 99.9).all()
    assert scores.sd.dropna().between(0, 2).all()
    assert set(cells.system) - {""} <= set(marn.available())
    assert set(cells.task) == {"icd", "ccs", ""}
    assert not cells.duplicated(["paper", "table", "dataset", "task", "printed", "metric"]).any()
    # higher than the micro-average's AUC no macro-AUC is, in any table
    both = cells[cells.metric.isin(["macro_auc", "micro_auc"])]
    wide = both.pivot(
        index=["paper", "table", "dataset", "task", "printed"], columns="metric", values="value"
    ).dropna()
    assert (wide.macro_auc < wide.micro_auc).all()


def test_every_footnote_points_at_a_cell_and_none_is_lost():
    cells, notes = published.figures(), published.footnotes()
    used = {int(number) for text in cells.footnotes for number in text.split()}
    assert used == set(notes.index)
    assert list(notes.index) == list(range(1, len(notes) + 1))
    columns = ["paper", "table", "dataset", "task", "system", "blocks", "metric"]
    for line in published._read("footnotes.csv").to_dict("records"):
        meant = cells
        for key in columns:
            meant = meant if line[key] == "*" else meant[meant[key] == line[key]]
        assert len(meant), line


def test_what_the_footnotes_say():
    wide = published.table(papers=["MARN"]).set_index(["table", "printed"])
    numbers = ["macro_auc", "micro_auc", "macro_f1_caml", "micro_f1", "precision_at_5"]
    cnn = wide.loc[("Table 1", "CNN"), numbers].tolist()
    ccs = published.table(task="ccs", papers=["MARN"]).set_index(["table", "printed"])
    assert ccs.loc[("Table 3", "BiGRU"), numbers].tolist() == cnn  # 1
    f1 = wide["macro_f1_caml"]["Table 1"]
    gains = {name: round(f1["MARN"] - f1[name], 1) for name in ("CAML", "BiGRU", "MultiResCNN")}
    assert gains == {"CAML": 15.0, "BiGRU": 19.8, "MultiResCNN": 7.6}  # 2 and 4
    full = published.table("MIMIC-III-full", "ccs").set_index("printed")["macro_auc"]
    assert round(full["MARN"] - full["MultiResCNN"], 1) == 3.3  # 3
    ram = published.table(papers=["MT-RAM"]).set_index(["table", "printed"])
    other = ram.loc[("Table 3", "MultiResCNN+RAM"), numbers].tolist()
    ours = wide.loc[("Table 5", "MARN w/o MTL+FL"), numbers].tolist()
    assert sum(a == b for a, b in zip(other, ours, strict=True)) == 4  # 5
    readme = published.table(papers=["MARN readme"]).set_index("printed")
    for name in ("CAML", "MultiResCNN"):
        stronger = ram.loc[("Table 3", f"{name}+MTL+RAM"), ["macro_f1_caml", "micro_f1"]]
        assert readme.loc[name, ["macro_f1_caml", "micro_f1"]].tolist() == stronger.tolist()  # 4
    assert "1" in wide.loc[("Table 1", "CNN"), "footnotes"].split()


def test_every_figure_of_the_source_is_here():
    path = SHARED.parent / "spec" / "paper_tables.csv"
    if not path.exists():
        pytest.skip(f"{path.name} is not there; set MARN_SHARED_DATA to the shared data")
    values = published.figures().groupby("printed")["value"].agg(set)
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["table"] != "Hyperparameters":
                assert float(row["value"]) in values[row["model"]], row


def test_wrong_questions():
    with pytest.raises(MarnError, match="no published scores for dataset 'MIMIC-IV'"):
        published.table("MIMIC-IV")
    with pytest.raises(MarnError, match="no published scores for task 'cpt'"):
        published.table(task="cpt")
    with pytest.raises(MarnError, match="no paper is called 'Marn'"):
        published.table(papers=["Marn"])
    with pytest.raises(MarnError, match="slides has no scores of MIMIC-III-50 for the task 'ccs'"):
        published.table("MIMIC-III-50", "ccs", papers=["slides"])
