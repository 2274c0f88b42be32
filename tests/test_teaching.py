"""The teaching corpus: written by the hospital, prepared as MIMIC-III is, the same every time."""

import json
import shlex
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.hospital import PRESETS
from data_prep.sources import teaching
from marn.corpus import Corpus
from marn.corpus.text import tokenize


def test_whole_and_open(tiny_corpus, tiny_raw):
    corpus = Corpus.load(tiny_corpus)
    corpus.verify()
    assert corpus.is_open
    assert corpus.splits == ("train", "dev", "test")
    assert set(corpus.tasks) == {"icd", "ccs"}
    assert (tiny_raw / "NOTEEVENTS.csv").is_file()
    assert corpus.vectors.shape == (len(corpus.vocabulary), 100)


def test_every_note_has_codes_words_and_its_own_patient(tiny_corpus):
    corpus = Corpus.load(tiny_corpus)
    homes = {}
    for name in corpus.splits:
        split = corpus[name]
        assert split.lengths.min() > 0
        assert split.targets("icd").any(1).all()
        for note, subject in enumerate(split.subjects):
            assert homes.setdefault(str(subject), name) == name
            words = tokenize(split.text(note))
            assert (split.note_tokens(note) == corpus.vocabulary.encode(words)).all()
            above = corpus.parent[split.code_indices("icd", note)]
            assert split.code_indices("ccs", note).tolist() == sorted(set(above) - {-1})
    for task in corpus.tasks:
        total = sum(corpus.frequency(task, name) for name in corpus.splits)
        assert (total > 0).all()


def test_evidence_lies_within_its_note(tiny_corpus):
    corpus = Corpus.load(tiny_corpus)
    asserted = 0
    for name in corpus.splits:
        for note in range(len(corpus[name])):
            text = corpus[name].text(note)
            coded = set(corpus[name].code_indices("icd", note).tolist())
            for row in corpus[name].evidence(note):
                passage = text[row.begin : row.end]
                assert passage.strip()
                asserted += row.role == "evidence" and row.code in coded
    assert asserted > 100


def test_same_seed_same_corpus(tiny_corpus, tmp_path):
    options = ["--preset", "tiny", "--vectors", "none"]
    assert main(["teaching", *options, "--out", str(tmp_path / "again"), "--gzip"]) == 0
    assert Corpus.load(tmp_path / "again").hash == Corpus.load(tiny_corpus).hash
    assert (tmp_path / "again" / "raw" / "NOTEEVENTS.csv.gz").is_file()
    assert not (tmp_path / "again" / "raw" / "NOTEEVENTS.csv").exists()
    assert main(["teaching", *options, "--out", str(tmp_path / "other"), "--seed", "1"]) == 0
    assert Corpus.load(tmp_path / "other").hash != Corpus.load(tiny_corpus).hash


def test_its_tables_are_prepared_by_mimic3_to_the_same_corpus(tiny_corpus, tiny_raw, tmp_path):
    out = tmp_path / "out"
    assert main(["mimic3", "--raw", str(tiny_raw), "--out", str(out), "--vectors", "none"]) == 0
    assert Corpus.load(out).hash == Corpus.load(tiny_corpus).hash
    assert Corpus.load(out).is_open


def test_card_names_no_place_of_this_machine(tiny_corpus):
    card = json.loads((tiny_corpus / "card.json").read_text())
    assert str(tiny_corpus.parent) not in json.dumps(card)
    assert card["created"]["command"].startswith("python -m data_prep teaching --preset tiny")
    assert card["vectors"]["notes"] == "train"


def test_vectors_are_of_length_one(tiny_corpus):
    vectors = Corpus.load(tiny_corpus).vectors
    assert not vectors[0].any()
    assert np.linalg.norm(vectors[1:], axis=1) == pytest.approx(1, abs=1e-5)


def test_every_preset_is_offered():
    offered = teaching.Config.__pydantic_fields__["preset"].annotation
    assert get_args(offered) == tuple(PRESETS)


def test_a_preset_with_lists_is_split_by_them(tmp_path, monkeypatch):
    small = replace(PRESETS["mimic50"], notes=80, sizes=(55, 11, 12), words=80.0)
    monkeypatch.setitem(PRESETS, "mimic50", small)
    out = tmp_path / "lists"
    line = ["teaching", "--preset", "mimic50", "--out", str(out), "--vectors", "none"]
    assert main([*line, "--workers", "1", "--gzip"]) == 0
    corpus = Corpus.load(out)
    assert [len(corpus[name]) for name in corpus.splits] == [55, 11, 12]
    # What the card says makes it again, lists and all.
    said = shlex.split(corpus.card["created"]["command"])
    assert said[:3] == ["python", "-m", "data_prep"]
    monkeypatch.chdir(tmp_path)
    assert main(said[3:]) == 0
    assert Corpus.load(tmp_path / "data" / "lists").hash == corpus.hash
    assert main([*line, "--codes", "30"]) == 0  # no list is made for thirty: split by patient
    assert [len(Corpus.load(out)[name]) for name in corpus.splits] != [55, 11, 12]
