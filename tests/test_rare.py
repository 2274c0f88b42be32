"""The experiment on rare codes: its averages are those of `marn.average`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from toys import toy_corpus

import marn
from marn.experiments import recording
from marn.registry import build

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "experiments"))

import rare


@pytest.mark.parametrize("pool", ["probabilities", "logits"])
def test_an_average_is_that_of_the_library(pool, tmp_path):
    corpus = toy_corpus(tmp_path / "toy")
    for name in ("words", "titles"):
        marn.fit(marn.build(name, corpus), corpus, run_dir=tmp_path / name, quiet=True)
    apart = [
        rare.logits(marn.load_model(tmp_path / name).model, corpus) for name in ("words", "titles")
    ]
    ours = rare.average(*apart, share=0.75, pool=pool)
    whole = marn.average([tmp_path / "words", tmp_path / "titles"], [3, 1], pool)
    for split, found in rare.logits(whole, corpus).items():
        assert np.allclose(ours[split], found, atol=1e-5)


def test_rows_of_the_systems(tmp_path, monkeypatch):
    corpus = toy_corpus(tmp_path / "toy")
    counts = np.array([3, 3, 50, 50])
    monkeypatch.setattr(marn.Corpus, "frequency", lambda self, task: counts[: self.tasks[task]])
    monkeypatch.setattr(marn.Corpus, "load", lambda path: corpus)
    titles = marn.build("titles", corpus)  # no passage of the toy corpus is marked
    monkeypatch.setattr(marn, "build", lambda name, corpus: titles)
    for seed in (0, 1):
        model = build("bigru_la", corpus, hidden_size=4, seed=seed)
        run = marn.fit(model, corpus, {"epochs": 1}, run_dir=tmp_path / f"s{seed}/run", quiet=True)
        recording.record(run, corpus)
    line = ["rare.py", str(tmp_path), "--out", str(tmp_path / "rare.json")]
    monkeypatch.setattr(sys, "argv", line)
    rare.main()
    found = json.loads((tmp_path / "rare.json").read_text())
    assert found["rare codes"] == 2
    names = [(row["system"], row["seed"]) for row in found["rows"] if row["split"] == "test"]
    averages = [(f"average of {pool}", s) for pool in ("probabilities", "logits") for s in (0, 1)]
    assert names == [("dictionary", 0), ("network", 0), ("network", 1), *averages]
    assert all(0 <= row["rare_f1"] <= 1 for row in found["rows"])
