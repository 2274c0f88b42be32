"""The difficulty of the hospital: its own figures by hand, and the whole on the smallest size."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "experiments"))

import difficulty  # noqa: E402
import hospital_full  # noqa: E402


def test_false_positives_under_the_right_category_by_hand():
    parent = np.array([0, 0, 1])
    truth = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=bool)
    categories = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], dtype=bool)
    scores = np.zeros((4, 3))
    scores[0, 1] = scores[1, 1] = 0.9  # the first note has the category of code 1, the second not
    scores[0, 0] = 0.8  # right
    right, chance = difficulty.under_the_right_category(scores, truth, categories, parent)
    assert right == 0.5
    assert chance == pytest.approx(1 / 3)  # of the three notes without code 1, one has category 0


def test_a_code_without_a_category_is_never_under_the_right_one():
    parent, truth = np.array([-1]), np.zeros((2, 1), dtype=bool)
    scores, categories = np.full((2, 1), 0.9), np.ones((2, 2), dtype=bool)
    assert difficulty.under_the_right_category(scores, truth, categories, parent) == (0.0, 0.0)


def test_summary_is_over_the_seeds():
    rows = [{"figures": {"a": {"b": 1.0}, "only_here": 2.0}}, {"figures": {"a": {"b": 3.0}}}]
    made = difficulty.summarised(rows)
    assert set(made) == {"a.b"}
    assert made["a.b"]["mean"] == 2.0
    assert made["a.b"]["sd"] == pytest.approx(2**0.5)
    assert made["a.b"]["low"] < 1 < 3 < made["a.b"]["high"]


def test_a_hospital_from_end_to_end(tmp_path):
    out = tmp_path / "difficulty.json"
    difficulty.main(["--preset", "tiny", "--seeds", "0", "--out", str(out)])
    made = json.loads(out.read_text())
    (row,) = made["seeds"]
    found = row["figures"]
    assert found["ceiling_explicit"]["micro_f1"] <= found["ceiling_documented"]["micro_f1"]
    assert found["icd"]["micro_f1"] < found["ceiling_documented"]["micro_f1"]
    shares = found["false_positives_under_right_ccs"]
    assert 0 <= shares["chance"] <= 1
    assert set(made["summary"]) == set(difficulty.flat(found))
    assert str(tmp_path) not in out.read_text()


def test_a_command_is_watched():
    made = hospital_full.watched([sys.executable, "-c", "x = bytearray(30_000_000)"])
    assert made["seconds"] >= 0
    with pytest.raises(SystemExit, match="ended with 3"):
        hospital_full.watched([sys.executable, "-c", "raise SystemExit(3)"])
