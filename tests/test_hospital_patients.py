"""The patients of the hospital: portable random numbers, codes that make sense, known rates."""

import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.audit import caml_top50
from data_prep.code_systems.ccs import titles
from data_prep.hospital import PRESETS, patients
from data_prep.hospital.code_catalogue import code_catalogue
from data_prep.hospital.codes import head_and_tail
from data_prep.hospital.patients import Patient, patient
from data_prep.hospital.portable_random import PortableRandom, running_sums
from data_prep.hospital.rare import rare_codes, rare_lottery
from data_prep.tables import shipped

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "experiments"))

import refit_hospital

TOP_50 = {code for _, code in caml_top50()}


@pytest.fixture(scope="module")
def persons() -> list[Patient]:
    codes = code_catalogue(PRESETS["teaching"])
    return [patient(0, index, codes) for index in range(2500)]


def test_random_numbers_are_the_promised_sequence() -> None:
    assert PortableRandom(3, "a", 7).random() == random.Random("3/a/7").random()


@given(st.lists(st.integers(), max_size=30), st.integers(0, 40), st.integers(0, 99))
def test_a_sample_is_distinct_and_from_the_items(items: list[int], count: int, seed: int) -> None:
    drawn = PortableRandom(seed).sample(items, count)
    assert len(drawn) == min(count, len(items))
    assert not Counter(drawn) - Counter(items)


def test_weighted_draws_follow_the_weights() -> None:
    rng, sums = PortableRandom(0), running_sums([1.0, 0.0, 3.0])
    drawn = Counter(rng.weighted("abc", sums) for _ in range(4000))
    assert drawn["b"] == 0
    assert drawn["c"] / 4000 == pytest.approx(0.75, abs=0.04)


def test_a_patient_depends_on_seed_and_index_only(persons: list[Patient]) -> None:
    small, large = code_catalogue(PRESETS["tiny"]), code_catalogue(PRESETS["teaching"])
    for index in (40, 7, 300):
        assert patient(0, index, large) == persons[index]
        here, there = patient(0, index, small), persons[index]
        assert (here.sex, here.born, here.traits) == (there.sex, there.born, there.traits)
        for a, b in zip(here.admissions, there.admissions, strict=True):
            assert (a.admitted, a.discharged, a.service, a.died) == (
                b.admitted, b.discharged, b.service, b.died,
            )  # fmt: skip
            few = [(f.code.key, f.written, f.coded is None) for f in a.facts]
            many = [(f.code.key, f.written, f.coded is None) for f in b.facts]
            assert set(few) <= set(many)
            head = {code.key for code in small.head}
            assert [row for row in few if row[0] in head] == [row for row in many if row[0] in head]


def test_traits_last_over_admissions(persons: list[Patient]) -> None:
    again = [
        "250.00" in {fact.code.code for fact in later.facts}
        for person in persons
        for first, later in zip(person.admissions, person.admissions[1:], strict=False)
        if "250.00" in {fact.code.code for fact in first.facts}
    ]
    assert len(again) > 20
    assert sum(again) / len(again) > 0.6
    total = sum(len(person.admissions) for person in persons)
    assert total / len(persons) == pytest.approx(58_976 / 46_520, abs=0.03)


def test_what_follows_from_what(persons: list[Patient]) -> None:
    stays = [
        {fact.code.code for fact in stay.facts} for person in persons for stay in person.admissions
    ]

    def given_(a: str, b: str) -> float:
        having = [held for held in stays if a in held]
        return sum(b in held for held in having) / len(having)

    assert given_("36.15", "39.61") == 1.0
    assert given_("995.92", "518.81") > 2 * given_("401.9", "518.81")
    assert given_("96.72", "96.04") > 0.5
    assert given_("585.6", "39.95") > 0.5


def test_age_and_sex_hold(persons: list[Patient]) -> None:
    for person in persons:
        for stay in person.admissions:
            for fact in stay.facts:
                if fact.code.rank >= 50:
                    assert fact.code.suits(person.sex, stay.age), (fact.code, stay.age)
                if fact.coded and fact.coded != fact.code.key:
                    assert (
                        code_catalogue(PRESETS["teaching"])
                        .codes[fact.coded]
                        .suits(person.sex, stay.age)
                    )
            held = {fact.code.code for fact in stay.facts}
            born = {code for code in held if code.startswith(("V30", "765", "77", "V29"))}
            assert not born or stay.age == 0
            birth = {code for code in held if code.startswith(("64", "66", "74.", "V27"))}
            assert not birth - {"64.0"} or (person.sex == "F" and 18 <= stay.age <= 45)


def test_codes_that_exclude_each_other_do_not_meet(persons: list[Patient]) -> None:
    for person in persons:
        for stay in person.admissions:
            held = {fact.code.code for fact in stay.facts}
            for fact in stay.facts:
                assert not fact.code.without & held, (fact.code.code, held)


@pytest.mark.parametrize(("seed", "index"), [(2, 4242), (1, 1944)])
def test_nobody_comes_back_past_a_hundred_and_ten(
    monkeypatch: pytest.MonkeyPatch, seed: int, index: int
) -> None:
    known = code_catalogue(PRESETS["teaching"])
    person = patient(seed, index, known)
    assert all(stay.age <= patients.OLDEST for stay in person.admissions)
    monkeypatch.setattr(patients, "OLDEST", 10_000)
    assert len(patient(seed, index, known).admissions) > len(person.admissions)


def test_some_admissions_have_no_codes(persons: list[Patient]) -> None:
    bare = [stay for person in persons for stay in person.admissions if not stay.has_codes]
    assert bare
    assert all(stay.coded() == [] and stay.noise() == [] for stay in bare)


def test_noise_comes_at_its_rates_and_stays_in_the_category(persons: list[Patient]) -> None:
    codes = code_catalogue(PRESETS["teaching"]).codes
    facts = [fact for person in persons for stay in person.admissions for fact in stay.facts]
    n = len(facts)
    assert sum(not fact.written for fact in facts) / n == pytest.approx(0.10, abs=0.01)
    assert sum(fact.coded is None for fact in facts) / n == pytest.approx(0.09, abs=0.01)
    wrong = [fact for fact in facts if fact.coded not in (None, fact.code.key)]
    assert len(wrong) / n == pytest.approx(0.026, abs=0.006)  # a few have no sibling
    for fact in wrong:
        other = codes[fact.coded]
        assert (other.kind, other.ccs) == (fact.code.kind, fact.code.ccs)


def test_head_has_38_categories() -> None:
    head, _ = head_and_tail()
    pairs = {(code.kind, code.ccs) for code in head}
    assert (len(pairs), sum(kind == "dx" for kind, _ in pairs)) == (38, 27)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tiny_has_the_top_50_on_top(seed: int) -> None:
    codes = code_catalogue(PRESETS["tiny"])
    count: Counter = Counter()
    notes = index = 0
    while notes < PRESETS["tiny"].notes:
        for stay in patient(seed, index, codes).admissions:
            notes += stay.has_summary
            if stay.has_summary:
                count.update(stay.coded())
        index += 1
    top = count.most_common(51)
    assert {code for (_, code), _ in top[:50]} == TOP_50
    assert top[49][1] > top[50][1]


def test_the_head_comes_as_often_as_published(persons: list[Patient]) -> None:
    head, _ = head_and_tail()
    assert {code.code for code in head} == TOP_50
    count: Counter = Counter()
    stays = [stay for person in persons for stay in person.admissions]
    for stay in stays:
        count.update(stay.coded())
    for code in head:
        share = count[code.key] / len(stays)
        error = 4 * (code.share * (1 - code.share) / len(stays)) ** 0.5
        assert share == pytest.approx(code.share, abs=error + 0.005), code.code
    rest = [n / len(stays) for key, n in count.items() if key[1] not in TOP_50]
    assert max(rest) < 0.042
    assert {code for (_, code), _ in count.most_common(50)} == TOP_50


def test_the_tail_is_long(persons: list[Patient]) -> None:
    count: Counter = Counter()
    for person in persons:
        for stay in person.admissions:
            count.update(stay.coded())
    assert len(count) > 400
    assert sum(n < 10 for n in count.values()) > 0.45 * len(count)


def test_rare_codes_are_new_named_and_for_the_right_people() -> None:
    head, tail = head_and_tail()
    rare = rare_codes()
    assert len(rare) + len(head) + len(tail) > 9500
    assert not {code.key for code in rare} & {code.key for code in (*head, *tail)}
    for code in rare:
        assert code.code in titles(code.kind)
        assert all(name.strip() == name != "" for name in code.names), code
        assert not set("[]<>{}|~") & set("".join((*code.names, *code.post))), code
    by_code = {code.code: code for code in rare}
    lottery = rare_lottery()
    for service, (codes, sums) in lottery.items():
        assert len(codes) == len(sums) > 20
        assert (service == "NB") == any(code.ages == (0, 0) for code in codes)
    births = [code for code in by_code.values() if code.kind == "dx" and code.code[:2] == "66"]
    assert births
    assert all((code.sex, code.ages) == ("F", (16, 45)) for code in births)


def test_the_full_hospital_only_adds_rare_codes(persons: list[Patient]) -> None:
    full = code_catalogue(PRESETS["full"])
    added = 0
    for person in persons[:60]:
        there = patient(0, person.index, full)
        for a, b in zip(person.admissions, there.admissions, strict=True):
            assert b.facts[: len(a.facts)] == a.facts
            assert (a.admitted, a.discharged, a.died, a.has_summary) == (
                b.admitted, b.discharged, b.died, b.has_summary,
            )  # fmt: skip
            rare = b.facts[len(a.facts) :]
            assert all(fact.code.rank >= 1000 for fact in rare)
            assert all(fact.code.suits(person.sex, b.age) for fact in rare)
            added += len(rare)
    assert added > 200


def test_a_base_moves_towards_the_published_share() -> None:
    rows = [
        {"kind": "dx", "code": "401.9", "rate": "50.0", "base": "-1.00"},
        {"kind": "dx", "code": "428.0", "rate": "25.0", "base": "2.00"},
    ]
    shares = {("dx", "401.9"): 0.25, ("dx", "428.0"): 0.25}
    moved, worst = refit_hospital.corrected(rows, shares)
    assert worst == pytest.approx(0.25)
    assert float(moved[0]["base"]) == pytest.approx(-1 + 0.6 * np.log(3), abs=0.005)
    assert moved[1]["base"] == "2.00"
    assert rows[0]["base"] == "-1.00"


def test_the_head_needs_no_refit() -> None:
    shares = refit_hospital.simulated_shares(1500, seed=77)
    _, worst = refit_hospital.corrected(shipped("hospital/head.csv"), shares)
    assert worst < 0.04
