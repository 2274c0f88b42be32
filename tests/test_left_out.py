"""What a corpus leaves out, in proportion."""

from collections import Counter

import pytest

from data_prep.left_out import add_dropped, losses, unit_of


@pytest.mark.parametrize(
    ("reason", "unit"),
    [
        ("notes without a split", "notes"),
        ("admissions with a note and without a code", "notes"),
        ("DIAGNOSES_ICD rows without a code", "rows"),
        ("rows of ICD-9", ""),
        ("notes of other categories", ""),
        ("passages of notes left out", ""),
    ],
)
def test_what_a_reason_counts(reason, unit):
    assert unit_of(reason) == unit


def test_shares_by_hand():
    given = Counter(notes=90, rows=50)  # handed over by the source
    dropped = Counter(
        {
            "notes that are empty": 10,  # before: 100 notes there were
            "notes without a word": 5,  # after
            "notes of other categories": 1000,
            "T rows without a code": 5,
        }
    )
    add_dropped(given, dropped)
    assert given == {"notes": 100, "rows": 55}
    (said,) = losses(given, dropped)  # 9.1% of the rows is not worth a warning
    assert said.startswith("15% of the notes were left out (15 of 100): 10 notes that are empty, 5")


def test_admissions_coded_in_the_other_version_are_no_loss():
    dropped = {"T rows of ICD-9": 70, "admissions with a note and without a code": 70}
    assert not list(losses({"notes": 100, "rows": 30}, dropped))
