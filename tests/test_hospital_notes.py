"""The notes of the hospital: grammar, authors, words for codes, and what a reader would notice."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.code_systems.ccs import titles
from data_prep.hospital import PRESETS, data_files
from data_prep.hospital.authors import Author
from data_prep.hospital.code_catalogue import code_catalogue
from data_prep.hospital.codes import head_and_tail
from data_prep.hospital.grammar import parse, rules
from data_prep.hospital.lexicon import drugs, entry_of, name_of
from data_prep.hospital.note_builder import NoteBuilder
from data_prep.hospital.notes import NoteWriter, wrap
from data_prep.hospital.patients import patient
from data_prep.hospital.portable_random import PortableRandom
from data_prep.hospital.rare import plain, spoken
from data_prep.hospital.story import can_have

csv.field_size_limit(10**9)


def test_the_note_counts_characters() -> None:
    author = Author(0, 0, slips=0)
    note = NoteBuilder(PortableRandom(0), {"He": "she"}, author)
    note.about(("pr", "96.04"), "evidence")
    note.sentence(parse("{He} was [intubated] <at|at> 7."))
    assert note.text().rstrip() == "She was intubated at 7."
    (span,) = note.annotations
    assert (span.begin, span.end) == (8, 17)
    assert note.length == len(note.text())


def test_slots_and_deidentified_words() -> None:
    note = NoteBuilder(PortableRandom(1), {"year": "1999"}, Author(0, 0))
    note.write(parse("[**{year}**] [**Hospital1 18**] {3-3}.{4.0-4.0} {a,a}"))
    assert note.text() == "[**1999**] [**Hospital1 18**] 3.4.0 a"


def test_slips_are_as_many_as_asked_for() -> None:
    def misspelt(slips: float) -> int:
        note = NoteBuilder(PortableRandom(3), {}, Author(0, 0, slips))
        for _ in range(400):
            note.put("abdominal ")
        return 400 - note.text().split().count("abdominal")

    assert misspelt(0) == 0
    # a slip each 1 / (30 x .0004 x exp(.8 z)) letters, z of the author; at most one in a phrase
    usual, many = misspelt(1), misspelt(30)
    assert usual < 15 < many < misspelt(300)


@settings(max_examples=60)
@given(st.text(alphabet="ab \n", max_size=300), st.integers(5, 40))
def test_wrapping_keeps_every_offset(text: str, width: int) -> None:
    wrapped = wrap(text, width)
    assert len(wrapped) == len(text)
    assert wrapped.replace("\n", " ") == text.replace("\n", " ")


def test_authors_write_in_their_own_words() -> None:
    parts = parse("the patient was admitted without fever <and with|but without> chills")
    authors = [Author(0, number) for number in range(40)]
    written = set()
    for author in authors:
        note = NoteBuilder(PortableRandom(5), {}, author)
        note.write(author.words(parts))
        written.add(note.text())
        assert author.words(parts) is author.words(parts)
    assert len(written) > 8
    assert any("w/o" in text for text in written)
    assert any("the patient was admitted without fever" in text for text in written)


def test_every_code_has_words_and_a_title() -> None:
    head, tail = head_and_tail()
    for code in (*head, *tail):
        assert entry_of(code).names, code
        assert name_of(code, PortableRandom(0), 0)
        assert code.code in titles(code.kind), code
        entry = entry_of(code)
        for parts in (*entry.say, *entry.pmh, *entry.social):
            assert any(part[0] == "mention" for part in parts if isinstance(part, tuple)), parts
        for parts in entry.cues.get("drug", ()):
            assert parts[0] in drugs()
    assert len({code.key for code in (*head, *tail)}) == len(head) + len(tail)
    assert all(alternatives for alternatives in rules().values())


def test_a_title_as_somebody_would_say_it() -> None:
    assert plain("Other and unspecified disease of spleen") == "disease of spleen"
    assert plain("Acute cystitis, unspecified") == "acute cystitis"
    names, post = spoken("Malignant neoplasm of liver, with metastasis, unspecified")
    assert names[:2] == ("malignant neoplasm of liver", "liver cancer")
    assert post == ("with metastasis",)


@pytest.mark.parametrize("age", [0, 17, 40, 110])
@pytest.mark.parametrize("sex", ["F", "M"])
def test_every_patient_has_a_relative(age: int, sex: str) -> None:
    kin = [str(parts[0]) for parts in rules()["relative"]]
    assert set(data_files.settings()["relatives"]) <= set(kin)
    fitting = [name for name in kin if can_have(name, age, sex)]
    assert 5 < len(fitting) < len(kin)
    assert ("wife" in fitting) == (sex == "M" and age >= 18)


def test_kin_can_be_had() -> None:
    codes = code_catalogue(PRESETS["teaching"])
    writer = NoteWriter(0, codes, PRESETS["teaching"])
    seen = 0
    for index in range(150):
        person = patient(0, index, codes)
        for stay in person.admissions:
            for note in writer.notes(person, stay):
                if person.sex == "F":
                    seen += "husband" in note.text
                    assert not re.search(r"\b[Hh]er (ex-)?wife\b", note.text)
                else:
                    assert not re.search(r"\b[Hh]is husband\b", note.text)
                if stay.age > 62:
                    assert not re.search(r"\b(his|her) (mother|father)\b", note.text)
    assert seen


def test_premature_children_weigh_what_their_codes_say() -> None:
    codes = code_catalogue(PRESETS["teaching"])
    writer = NoteWriter(0, codes, PRESETS["teaching"])
    bounds = {"765.17": (1750, 1999), "765.18": (2000, 2499)}
    checked = 0
    for index in range(1200):
        person = patient(0, index, codes)
        if person.admissions[0].service != "NB":
            continue
        stay = person.admissions[0]
        low, high = next(
            (bounds[f.code.code] for f in stay.facts if f.code.code in bounds), (1500, 4200)
        )
        for note in writer.notes(person, stay):
            if note.category == "Discharge summary":
                for grams in re.findall(r"(?:weight|was)\s+(\d{4})\s+grams", note.text):
                    checked += 1
                    assert low <= int(grams) <= high
    assert checked > 5


def reports(folder: Path) -> list[str]:
    with (folder / "NOTEEVENTS.csv").open(encoding="utf-8", newline="") as file:
        return [row["TEXT"] for row in csv.DictReader(file) if row["DESCRIPTION"] == "Report"]


def test_placeholders_are_never_misspelt(tiny_raw: Path) -> None:
    known = {
        "", "Known lastname", "First Name (LF)", "Last Name (STitle)", "First Name (STitle)",
        "Last Name (un)", "Name (NI)", "Hospital", "Hospital Ward Name", "Location (un)",
        "Country", "State", "Telephone/Fax ()", "First Name (NamePattern)", "Age over  ",
        "Last Name (NamePattern)", "First Name (Name Pattern)", "Name (MD)", "MD Number()",
        "Job Number", "Clip Number (Radiology)", "--", "-",
    }  # fmt: skip
    for text in reports(tiny_raw):
        for inside in re.findall(r"\[\*\*(.*?)\*\*\]", text, re.DOTALL):
            bare = re.sub(r"\d+", "", inside.replace("\n", " "))
            assert bare in known or bare.strip() in known, inside


def test_the_same_symptom_is_not_both_complained_of_and_denied(tiny_raw: Path) -> None:
    checked = 0
    for text in reports(tiny_raw):
        words = " ".join(text.split()).lower()
        complaint = re.search(r"chief complaint: (.+?) (?:major|history)", words)
        if complaint and len(complaint[1]) < 30:
            checked += 1
            assert f"denies {complaint[1]}," not in words
    assert checked > 20
