"""Where the dot goes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marn.corpus import codes
from marn.errors import MarnError

DX = st.from_regex(re.compile(r"([0-9]{3}|V[0-9]{2})[0-9]{0,2}|E[0-9]{3}[0-9]?"), fullmatch=True)
PR = st.from_regex(re.compile(r"[0-9]{2,4}"), fullmatch=True)


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        ("dx", "42731", "427.31"),
        ("dx", "4019", "401.9"),
        ("dx", "486", "486"),
        ("dx", "0389", "038.9"),
        ("dx", "V5861", "V58.61"),
        ("dx", "V10", "V10"),
        ("dx", "E8490", "E849.0"),
        ("dx", "E849", "E849"),
        ("dx", " v1582 ", "V15.82"),
        ("dx", "427.31", "427.31"),
        ("dx", "9604", "960.4"),
        ("pr", "9604", "96.04"),
        ("pr", "0331", "03.31"),
        ("pr", "966", "96.6"),
        ("pr", "3893  ", "38.93"),
        ("pr", "45", "45"),
        ("pr", "03.31", "03.31"),
    ],
)
def test_the_dot_is_placed_by_the_table_of_origin(kind: str, raw: str, expected: str) -> None:
    assert codes.dotted(kind, raw) == expected
    assert codes.undotted(expected) == raw.strip().upper().replace(".", "")


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("dx", "42"),
        ("dx", "427."),
        ("dx", "E84901"),
        ("dx", "V5"),
        ("dx", "４２７"),
        ("pr", "331.1"),
        ("pr", "12345"),
    ],
)
def test_nonsense_is_refused_by_name(kind: str, raw: str) -> None:
    with pytest.raises(MarnError, match=re.escape(repr(raw))):
        codes.dotted(kind, raw)


def test_a_number_is_refused_because_it_has_lost_its_zeros() -> None:
    with pytest.raises(MarnError, match=r"331 is not text.*dtype=str"):
        codes.dotted("pr", 331)  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(MarnError, match="unknown kind of code 'diagnosis'"):
        codes.dotted("diagnosis", "427.31")


@given(dx=DX, pr=PR)
def test_a_diagnosis_and_a_procedure_never_look_alike(dx: str, pr: str) -> None:
    assert codes.dotted("dx", dx) != codes.dotted("pr", pr)


@pytest.mark.parametrize(("kind", "raws"), [("dx", DX), ("pr", PR)])
def test_the_dot_comes_and_goes_without_loss(kind: str, raws: st.SearchStrategy[str]) -> None:
    @given(raws)
    def there_and_back(raw: str) -> None:
        code = codes.dotted(kind, raw)
        assert codes.undotted(code) == raw
        assert codes.dotted(kind, code) == code

    there_and_back()
