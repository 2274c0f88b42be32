"""Tables of results: the papers' layout, and what seeds say."""

import math

import pandas as pd
import pytest

from marn import MarnError
from marn.experiments import tables


def test_own_figures_stand_beside_those_of_table_5():
    rows = [("base", 0.5), ("+RAM+MTL+FL", 0.61234), ("base + bias", 0.6)]
    own = pd.DataFrame(rows, columns=["blocks", "micro_f1"])
    own = own.assign(**{"model": "bigru_la", "task": "icd", "seeds": 3, "micro_f1 sd": 0.01})
    found = tables.beside(own, "MARN", "Table 5").set_index("row")
    assert list(found.index) == [
        "MARN",
        *(f"MARN w/o {less}" for less in ("MTL", "MTL+FL", "RAM", "RAM+FL", "MTL+RAM+FL")),
        "bigru_la bias",
    ]
    assert found["micro_f1"]["MARN"] == pytest.approx(61.234)
    assert found["micro_f1 sd"]["MARN"] == pytest.approx(1)
    assert found["micro_f1 published"]["MARN"] == 71.8
    assert found["micro_f1"]["MARN w/o MTL+RAM+FL"] == 50
    assert (found["seeds"]["MARN"], found["seeds"]["MARN w/o MTL"]) == (3, 0)
    assert math.isnan(found["micro_f1"]["MARN w/o MTL"])
    assert math.isnan(found["micro_f1 published"]["bigru_la bias"])
    with pytest.raises(MarnError, match="no published scores for"):
        tables.beside(own, "MARN", "Table 50")
    with pytest.raises(MarnError, match="occurs twice"):
        tables.beside(pd.concat([own, own]), "MARN", "Table 5")


def test_means_with_students_interval_by_hand():
    runs = pd.DataFrame({"model": ["a"] * 2 + ["b"], "train_notes": 9, "f1": [0.4, 0.6, 0.3]})
    one, other = tables.over_seeds(runs, ["model", "train_notes"], "f1").to_dict("records")
    assert (one["seeds"], one["mean"]) == (2, 0.5)
    assert one["high"] - one["mean"] == pytest.approx(12.706 * 0.1, abs=1e-4)  # t(1) sd / sqrt 2
    assert other["mean"] == 0.3
    assert math.isnan(other["low"])


def test_f1_by_frequency_by_hand():
    rows = [(9, 1, 0.2), (10, 1, 0.4), (29, 2, 0.8), (29, 0, 0.0), (300, 1, 1.0)]
    codes = pd.DataFrame(rows, columns=["frequency", "present", "f1"])
    both = pd.concat([codes.assign(seed=0), codes.assign(seed=1, f1=codes["f1"] / 2)])
    found = tables.by_frequency(both.assign(model="a"), ["model"])
    assert found["training notes"].tolist() == ["0-9", "10-29", "300+"]
    assert found["codes"].tolist() == [1, 2, 1]
    assert found["mean"].tolist() == pytest.approx([0.15, 0.45, 0.75])
    assert found["seeds"].tolist() == [2, 2, 2]
