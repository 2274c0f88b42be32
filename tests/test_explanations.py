"""The experiment on explanations: its own figures by hand."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import SYSTEM_SIZES, toy_corpus

import marn
from marn.experiments import recording

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "experiments"))

import explanations  # noqa: E402
from explanations import Explained, Note, window  # noqa: E402


def test_a_window_is_around_the_first_passage_of_one_word(monkeypatch):
    monkeypatch.setattr(explanations, "SIDE", 1)
    text = "had old chest pain and a cough since May"
    note = Note(text, {0: [(8, 18), (25, 30)], 1: [(0, 3)], 2: [(8, 18)]})
    assert window(note, 0) == Note("a cough since", {0: [(2, 7)]})
    assert window(note, 1).text == "had old"
    assert window(note, 2) is None


def test_figures_by_hand(tmp_path, monkeypatch):
    corpus = toy_corpus(tmp_path / "toy")
    model = marn.build("caml", corpus, **SYSTEM_SIZES["caml"]).eval()
    explained = Explained(model, corpus, [entry.code for entry in corpus.codes["icd"]], seed=0)
    words = [
        corpus["test"].text(0)[slice(*span)] for span in explained.read(corpus["test"].text(0))[1]
    ]
    assert words
    monkeypatch.setattr(Explained, "assigned", lambda self, tokens: np.ones(4, dtype=bool))
    monkeypatch.setattr(
        Explained,
        "weights",
        lambda self, tokens, columns: {"attention": np.array([[0.1, 0.7, 0.2]])},
    )
    text = "code0 word1 code2"
    _, spans = explained.read(text)
    assert len(spans) == 3
    found = dict(explained.whole(Note(text, {2: [tuple(spans[0])]})))["attention"]
    assert (found["top"], found["beside"]) == (0, 1)  # the second word is the heaviest
    assert found["average_precision"] == pytest.approx(1 / 3)  # the cue is last of three
    assert found["token_f1"] == pytest.approx(2 / (3 + 1))
    assert dict(explained.cues(Note(text, {2: [tuple(spans[1])]}))) == {"attention": {"cue": 1}}


def test_every_run_of_the_sweep_is_explained(tmp_path, capsys):
    corpus = toy_corpus(tmp_path / "toy")
    for seed in (1, 0):
        model = marn.build("caml", corpus, seed=seed, **SYSTEM_SIZES["caml"])
        run = marn.fit(model, corpus, {"epochs": 1}, run_dir=tmp_path / f"s{seed}/run", quiet=True)
        recording.record(run, corpus)
    line = ["score", str(tmp_path), str(corpus.path), "--out", str(tmp_path / "its out.json")]
    assert explanations.main(line) == 0
    found = json.loads((tmp_path / "its out.json").read_text())
    assert shlex.split(found["command"]) == ["python", "book/experiments/explanations.py", *line]
    assert found["seeds"] == [0, 1]
    assert found["provenance"]["systems trained at"]
    assert found["corpora"]["hospital"]["notes explained"] == len(corpus["test"])
    other = toy_corpus(tmp_path / "other", notes=(9, 3, 3))
    line[2] = str(other.path)
    assert explanations.main(line) == 2
    assert "was trained on none of the corpora" in capsys.readouterr().err


def test_means_are_over_pairs_of_note_and_code():
    sums = np.zeros((1, 14))
    sums[0, :4] = 3, 4, 1, 2
    found = explanations.measure(sums)
    assert found["token_f1"] == 0.75
    assert found["average_precision"] == 0.5
    assert np.isnan(found["cue"])


def test_the_product_is_that_of_the_library(tmp_path):
    corpus = toy_corpus(tmp_path / "toy")
    model = marn.build("caml", corpus, **SYSTEM_SIZES["caml"]).eval()
    explained = Explained(model, corpus, [entry.code for entry in corpus.codes["icd"]], seed=0)
    tokens = torch.tensor([2, 3, 5, 4])
    found = explained.weights(tokens, [0, 1])
    library = explanations.attribution.word_weights(
        model, tokens, [0, 1], "icd", corpus.vocabulary.unknown, "attention_gradients"
    )
    np.testing.assert_allclose(found["attention_gradients"], library, rtol=1e-5)
    assert found["random"].shape == found["rarity"].shape == (2, 4)
