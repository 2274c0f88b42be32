"""Results made from credentialed text hold aggregates and no small cells."""

import json
from pathlib import Path
from typing import Any

import pytest
from checkouts import make_checkout, written
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.commit_check import examine
from data_prep.publishable import PUBLISHABLE, withheld
from marn.metrics import score


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "checkout")


HELD = "seen at [" + "**Hospital 4711**]"
RESULT = {
    "command": "python book/experiments/x.py",
    "seeds": [0, 1, 2],
    "corpus": {"name": "mimic3_50", "hash": "0" * 64, "text": "credentialed"}
    | {"notes": {"train": 8066, "dev": 1573, "test": 1729}, "dropped": {"notes without a word": 0}},
    "provenance": {"marn": "0.1.0", "commit": "abc", "threads": 1, "gpu": None},
    "rows": [{"system": "marn", "seed": 0, "task": "icd", "threshold": 0.4, "support": 11}],
}


def test_aggregates_may_be_published(checkout: Path) -> None:
    scores = score([[0.9, 0.2], [0.1, 0.8]], [[1, 0], [0, 1]], ks=(1,))
    result = RESULT | {"scores": scores}
    assert withheld(result) == []
    assert examine(written(checkout / "book" / "results" / "r.json", json.dumps(result))) == []


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"vocabulary": ["fever"]}, "vocabulary is not on the list"),
        ({"rows": [{"HADM_ID": 900001}]}, "rows[0].HADM_ID is not on the list"),
        ({"rows": [{"code": "486", "support": 10}]}, "rows[0].support is 10, a cell below 11"),
        ({"notes": {"train": 3}}, "notes.train is 3, a cell below 11"),
        ({"notes": [12, 3]}, "notes[1] is 3, a cell below 11"),
        ({"findings": [{"unit": "notes", "count": 1}]}, "findings[0].count is 1, a cell"),
        ({"findings": [{"unit": "codes", "notes": 1}]}, "findings[0].notes is 1, a cell"),
        ({"name": HELD}, "name holds a placeholder"),
        ({"notes": {HELD: 12}}, "notes.… is a text as a key"),
        ({"notes": {"fever " * 20: 12}}, "notes.… is a text as a key"),
        ({"notes": {"fever and chills": 3}}, "notes.… is 3, a cell below 11"),
        ({"fever and chills": 3}, "… is not on the list of what may be published"),
        ({"notes": {"train": "3"}}, "notes.train is a text instead of a number"),
        ({"words": ["fever"]}, "words[0] is a text instead of a number"),
        ({"scores": {"micro_f1": "fever"}}, "scores.micro_f1 is a text instead of a number"),
        ({"meaning": "word " * 90}, "meaning is a text of 450 characters"),
        ({"meaning": "line\nline"}, "meaning is a text of 9 characters"),
    ],
)
def test_anything_else_may_not(checkout: Path, extra: dict[str, Any], reason: str) -> None:
    (found,) = withheld(RESULT | extra)
    assert reason in found
    path = written(checkout / "book" / "results" / "r.json", json.dumps(RESULT | extra))
    assert reason in examine(path)[0]
    assert "data_prep.publishable" in examine(path)[0]
    # the same result of an open corpus is nobody's business, but for the text of a note
    opened = RESULT | extra | {"corpus": {"name": "teaching", "text": "open"}}
    assert bool(examine(written(path, json.dumps(opened)))) == (HELD in json.dumps(extra))


def test_counts_of_codes_may_be_small_and_no_people_is_no_cell() -> None:
    assert withheld({"findings": [{"unit": "codes", "count": 1, "of": 50}]}) == []
    assert withheld({"notes": 0, "tasks": {"icd": 2}}) == []
    assert withheld({"findings": [{"unit": "notes", "count": "1 to 10"}]}) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.sampled_from(sorted(PUBLISHABLE["people"].split())))
def test_the_smallest_cell_is_that_of_the_policy(count: int, key: str) -> None:
    assert bool(withheld({key: {"train": [count]}})) == (1 <= count <= 10)
