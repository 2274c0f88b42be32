"""Where the dot goes, and what stands above a code."""

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
        ("dx", ""),
        ("dx", "  "),
        ("dx", "42"),
        ("dx", "427311"),
        ("dx", "42.731"),
        ("dx", "427."),
        ("dx", "E84901"),
        ("dx", "E84"),
        ("dx", "V5"),
        ("dx", "I10"),
        ("dx", "ICD9_CODE"),
        ("dx", "４２７"),
        ("pr", "4"),
        ("pr", "33.1.0"),
        ("pr", "331.1"),
        ("pr", "45."),
        ("pr", "V58"),
        ("pr", "12345"),
    ],
)
def test_nonsense_is_refused_by_name(kind: str, raw: str) -> None:
    with pytest.raises(MarnError, match=re.escape(repr(raw))):
        codes.dotted(kind, raw)


def test_a_number_is_refused_because_it_has_lost_its_zeros() -> None:
    with pytest.raises(MarnError, match=r"331 is no text.*dtype=str"):
        codes.dotted("pr", 331)  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(MarnError, match="unknown kind of code 'diagnosis'"):
        codes.category("diagnosis", "427.31")


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
        assert code.startswith(codes.category(kind, raw))

    there_and_back()


@pytest.mark.parametrize(
    ("kind", "code", "category", "chapter"),
    [
        ("dx", "427.31", "427", "dx:7"),
        ("dx", "001.0", "001", "dx:1"),
        ("dx", "139.8", "139", "dx:1"),
        ("dx", "140.0", "140", "dx:2"),
        ("dx", "279.9", "279", "dx:3"),
        ("dx", "285.9", "285", "dx:4"),
        ("dx", "305.1", "305", "dx:5"),
        ("dx", "320.0", "320", "dx:6"),
        ("dx", "486", "486", "dx:8"),
        ("dx", "530.81", "530", "dx:9"),
        ("dx", "584.9", "584", "dx:10"),
        ("dx", "630", "630", "dx:11"),
        ("dx", "709.9", "709", "dx:12"),
        ("dx", "710.0", "710", "dx:13"),
        ("dx", "759.9", "759", "dx:14"),
        ("dx", "760.0", "760", "dx:15"),
        ("dx", "799.9", "799", "dx:16"),
        ("dx", "995.92", "995", "dx:17"),
        ("dx", "V58.61", "V58", "dx:V"),
        ("dx", "E849.0", "E849", "dx:E"),
        ("pr", "00.66", "00", "pr:0"),
        ("pr", "03.31", "03", "pr:1"),
        ("pr", "06.4", "06", "pr:2"),
        ("pr", "17.41", "17", "pr:3A"),
        ("pr", "18.0", "18", "pr:4"),
        ("pr", "33.24", "33", "pr:6"),
        ("pr", "39.61", "39", "pr:7"),
        ("pr", "45.13", "45", "pr:9"),
        ("pr", "86.22", "86", "pr:15"),
        ("pr", "96.04", "96", "pr:16"),
    ],
)
def test_category_and_chapter(kind: str, code: str, category: str, chapter: str) -> None:
    assert codes.category(kind, code) == category
    assert codes.category(kind, codes.undotted(code)) == category
    found, title = codes.chapter(kind, code)
    assert found == chapter
    assert title


def test_every_category_has_one_chapter_and_every_chapter_is_reached() -> None:
    seen = {kind: [] for kind in codes.KINDS}
    for number in range(1, 1000):
        seen["dx"].append(codes.chapter("dx", f"{number:03d}"))
    seen["dx"] += [codes.chapter("dx", f"E{number}") for number in range(800, 1000)]
    seen["dx"] += [codes.chapter("dx", f"V{number:02d}") for number in range(1, 92)]
    seen["pr"] = [codes.chapter("pr", f"{number:02d}") for number in range(100)]
    for kind, count in (("dx", 19), ("pr", 18)):
        order = list(dict.fromkeys(seen[kind]))
        assert len(order) == count
        assert len({chapter.title for chapter in order}) == count
        assert sorted(seen[kind], key=order.index) == seen[kind], "a chapter is one range"


def test_category_000_has_no_chapter() -> None:
    with pytest.raises(MarnError, match="stands in no chapter"):
        codes.chapter("dx", "000")
