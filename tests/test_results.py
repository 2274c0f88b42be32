"""Results of runs: written, collected into one table, averaged and compared."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars
import pytest
from sklearn.metrics import f1_score, log_loss
from toys import SYSTEM_SIZES, toy_corpus

import marn
from marn import MarnError
from marn.cli import main
from marn.experiments import recording, results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two systems with two seeds each, as a sweep leaves them."""
    out = tmp_path_factory.mktemp("sweep")
    corpus = toy_corpus(out / "toy", notes=(24, 8, 12))
    for name in ("caml", "bigru_la"):
        for seed in (0, 1):
            model = marn.build(name, corpus, seed=seed, **SYSTEM_SIZES[name])
            config = marn.TrainConfig.of(model, seed=seed, epochs=2, learning_rate=0.05)
            place = out / f"{name}_{seed}"
            run = marn.fit(model, corpus, config, run_dir=place / "run", quiet=True)
            recording.record(run, corpus)
            done = {"labels": {"model": name, "seed": seed}, "seconds": 2.5, "key": f"{name}{seed}"}
            (place / "done.json").write_text(json.dumps(done | {"about": {"code": "c"}}))
    return out


def test_scores_are_those_of_evaluate(folder):
    corpus = marn.Corpus.load(folder / "toy")
    saved = marn.load_model(folder / "caml_0" / "run")
    found = json.loads((folder / "caml_0" / "run" / "results.json").read_text())
    for rule, threshold in (("0.5", 0.5), ("dev", "dev"), ("dev_codes", "dev_codes")):
        expected = marn.evaluate(saved.model, corpus, "test", threshold=threshold)
        for task, figures in expected.items():
            got = found["scores"][rule][task]
            for key, value in figures.items():
                missing = math.isnan(value) and got[key] is None
                assert missing or got[key] == pytest.approx(value, abs=1e-5)
    assert found["scores"]["0.5"]["icd"]["threshold"] == 0.5
    assert found["scores"]["dev_codes"]["icd"]["threshold"] is None
    assert found["steps"] == 2 * 2  # 24 notes in batches of 16
    assert str(folder) not in json.dumps(found)


def test_the_table_is_tidy(folder, tmp_path):
    table = results.collect(folder)
    assert len(table) == 4 * 2 * 3  # runs, tasks, rules
    assert not table.duplicated(["model", "seed", "task", "rule"]).any()
    assert {"micro_f1", "macro_f1_caml", "macro_f1_all", "macro_f1_present"} <= set(table)
    assert set(results.collect(folder, {"caml0", "caml1"})["model"]) == {"caml"}
    assert {"seconds", "parameters", "commit", "torch", "cpu_capability", "code"} <= set(table)
    file = results.publish(table, tmp_path / "made" / "table", digits=5)[0]
    assert polars.read_csv(file).shape == pd.read_csv(file).shape == table.shape
    several = tmp_path / "several"
    several.mkdir()
    for name in ("one", "two"):
        (several / name).symlink_to(folder)
    of_both = results.collect(several)
    assert of_both["experiment"].value_counts().to_dict() == {"one": 24, "two": 24}
    curves = results.curves(folder)
    assert len(curves) == 4 * 2
    assert {"model", "seed", "epoch", "loss", "dev/icd/micro_f1"} <= set(curves)
    for read in (results.collect, results.curves, results.per_code):
        with pytest.raises(MarnError, match=r"no run in .* is finished"):
            read(tmp_path)


def test_a_sweep_writes_scores_codes_and_curves_of_its_runs(folder, tmp_path, monkeypatch):
    runs = [SimpleNamespace(key=key) for key in ("caml0", "caml1")]
    monkeypatch.setattr("marn.experiments.sweep.sweep", lambda *_, **__: runs)
    line = ["sweep", "e.yaml", "--out", str(folder), "--table", str(tmp_path / "t")]
    assert main(line) == 0
    made = {end: pd.read_csv(tmp_path / f"t{end}.csv") for end in ("", "_codes", "_curves")}
    codes = marn.Corpus.load(folder / "toy").tasks["icd"]
    assert [len(table) for table in made.values()] == [2 * 2 * 3, 2 * codes, 2 * 2]
    assert all(set(table["model"]) == {"caml"} for table in made.values())
    assert set(made[""]["filters"]) == {SYSTEM_SIZES["caml"]["filters"]}  # an option of the model


def test_means_and_deviations_by_hand():
    rows = [("a", 0, 0.5), ("a", 1, 0.7), ("b", 0, 0.4)]
    table = pd.DataFrame(rows, columns=["system", "seed", "micro_f1"])
    found = results.summary(table.assign(task="icd", rule="dev"), ["system"], ["micro_f1"])
    assert found["seeds"].tolist() == [2, 1]
    assert found["micro_f1"].tolist() == pytest.approx([0.6, 0.4])
    assert found["micro_f1 sd"][0] == pytest.approx(math.sqrt(2 * 0.1**2))
    assert math.isnan(found["micro_f1 sd"][1])


def test_counts_by_patient_give_the_micro_f1(folder):
    with np.load(folder / "caml_0" / "run" / "predictions.npz") as arrays:
        above = arrays["icd/probabilities"] > arrays["icd/tuned"]
        expected = f1_score(arrays["icd/targets"], above, average="micro", zero_division=0)
    counts = results._counts(folder / "caml_0")
    assert results.micro_f1(counts.sum(0)) == pytest.approx(expected)


def test_each_code_has_sklearns_f1(folder):
    found = results.per_code(folder).query("model == 'caml' and seed == 1")
    corpus = marn.Corpus.load(folder / "toy")
    with np.load(folder / "caml_1" / "run" / "predictions.npz") as arrays:
        above = arrays["icd/probabilities"] > arrays["icd/tuned"]
    truth = corpus["test"].targets("icd")
    expected = f1_score(truth, above, average=None, zero_division=0)
    assert found["f1"].tolist() == pytest.approx(expected.tolist())
    assert found["code"].tolist() == [code.code for code in corpus.codes["icd"]]
    assert found["frequency"].tolist() == corpus.frequency("icd").tolist()
    assert found["present"].tolist() == truth.sum(0).tolist()
    with np.load(folder / "caml_1" / "run" / "predictions.npz") as arrays:
        code = int(np.argmax(truth.sum(0)))
        loss = log_loss(truth[:, code], arrays["icd/probabilities"][:, code])
    share = (corpus.frequency("icd")[code] + 0.5) / (len(corpus["train"]) + 1)
    unread = log_loss(truth[:, code], np.full(len(truth), share))
    assert found["relative loss"].iloc[code] == pytest.approx(loss / unread, rel=1e-5)


def test_a_reader_is_a_row_like_any_other_and_the_same_with_every_seed(folder, tmp_path):
    corpus = marn.Corpus.load(folder / "toy")
    model = marn.build("words", corpus, classifier="lr", strengths=[1, 100])
    run = marn.fit(model, corpus, run_dir=tmp_path / "words_0" / "run", quiet=True)
    found = recording.record(run, corpus)
    weights = sum(model.arrays[f"{task}.weight"].size for task in corpus.tasks)
    extra = sum(corpus.tasks.values()) + model.arrays["idf"].size + 1  # biases, idf, C
    assert found["parameters"] == weights + extra
    assert (found["steps"], found["training"]) == (0, {})
    assert found["options"]["strength"] in (1, 100)
    done = {"labels": {"model": "words", "seed": 0}, "seconds": 1.0, "key": "w"}
    done |= {"about": {"code": "c"}}
    (tmp_path / "words_0" / "done.json").write_text(json.dumps(done))
    for place in folder.iterdir():
        (tmp_path / place.name).symlink_to(place)
    both = tmp_path
    table = results.collect(both)
    assert len(table) == 5 * 2 * 3  # runs, tasks, rules
    mine = table.query("model == 'words'")
    assert mine["loss"].isna().all()
    gap = results.compare(both, ["model"], {"model": "words"}, draws=50).set_index("model")
    assert gap["seeds"].tolist() == [2, 2]
    scores = table.query("task == 'icd' and rule == 'dev'").groupby("model")["micro_f1"].mean()
    for name in ("caml", "bigru_la"):
        expected = scores[name] - scores["words"]
        assert gap["difference"][name] == pytest.approx(expected, abs=1e-4)


def test_a_place_for_the_table_is_tried_first(tmp_path):
    results.check_place(tmp_path / "made" / "t")
    assert list((tmp_path / "made").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(MarnError, match="could not be written"):
        results.check_place(tmp_path / "file" / "t")
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(MarnError, match="is a folder"):
        results.check_place(tmp_path / "t")


def test_systems_are_compared_on_the_same_seeds(folder):
    found = results.compare(folder, ["model"], {"model": "caml"}, draws=200)
    assert found["model"].tolist() == ["bigru_la"]
    assert found["seeds"].tolist() == [2]
    table = results.collect(folder).query("task == 'icd' and rule == 'dev'")
    means = table.groupby("model")["micro_f1"].mean()
    expected = means["bigru_la"] - means["caml"]
    assert found["difference"][0] == pytest.approx(expected, abs=1e-4)
    assert found["p corrected"][0] == found["p"][0]  # a single comparison
    count = results._decisions(folder / "caml_0")[1].shape[1]
    notes, codes = np.arange(12) < 5, np.arange(count) > 0
    part = {"notes": notes, "codes": codes}
    some = results.compare(folder, ["model"], {"model": "caml"}, **part, draws=20)
    scores = {}
    for name in ("caml", "bigru_la"):
        parts = [results._decisions(folder / f"{name}_{seed}")[:2] for seed in (0, 1)]
        parts = [(x[notes][:, codes], y[notes][:, codes]) for x, y in parts]
        scores[name] = np.mean([f1_score(y, x, average="micro") for x, y in parts])
    gap = scores["bigru_la"] - scores["caml"]
    assert some["difference"][0] == pytest.approx(gap, abs=1e-4)
    with pytest.raises(MarnError, match="no finished run has the labels"):
        results.compare(folder, ["model"], {"model": "marn"})


def test_a_result_tells_how_it_was_made():
    runs = {"sweep": "marn sweep a.yaml", "count": 2, "hours": 0.5, "seeds": [0, 1], "torch": "2"}
    runs |= {"machine": "x86_64", "cpu_capability": "AVX2", "gpu": None, "commits": ["abc", "def"]}
    kept = {"runs": runs, "command": 'python evidence.py --by row --pairs "a - b" --out a.json'}
    lines = results.told(kept).splitlines()
    assert lines[:2] == ["marn sweep a.yaml", "python evidence.py --by row"]
    end = "x86_64 with AVX2, torch 2, commits abc, def"
    assert lines[2] == f"2 runs, seeds 0, 1, 0.5 hours, {end}"
    runs |= {"processor": "EPYC", "gpu": "H200"}
    assert " 0.5 hours, H200, torch 2," in results.told(kept)


def test_two_runs_of_the_same_labels_are_not_mixed(folder, tmp_path):
    for place in folder.iterdir():
        (tmp_path / place.name).symlink_to(place)
    (tmp_path / "of_old_code").symlink_to(folder / "caml_0")
    with pytest.raises(MarnError, match=r"two runs of .* are of \('caml',\) with seed 0"):
        results.compare(tmp_path, ["model"], {"model": "caml"})


def test_every_format_is_written(tmp_path):
    table = pd.DataFrame({"system": ["a_b"], "micro-F1": [0.123456]})
    files = results.publish(table, tmp_path / "t", digits=3)
    texts = {file.suffix: file.read_text() for file in files}
    assert texts[".csv"] == "system,micro-F1\na_b,0.123\n"
    assert json.loads(texts[".json"]) == [{"system": "a_b", "micro-F1": 0.123}]
    assert "| a_b" in texts[".md"]
    assert "<td>0.123</td>" in texts[".html"]
    assert r"a\_b & 0.123 \\" in texts[".tex"]


def test_no_name_ends_a_cell_or_begins_markup(tmp_path):
    table = pd.DataFrame({"a|b": ["x|y", "<script>"], "f1": [0.5, 1.0]})
    files = results.publish(table, tmp_path / "t")
    texts = {file.suffix: file.read_text() for file in files}
    assert [line.replace(r"\|", "").count("|") for line in texts[".md"].splitlines()] == [3] * 4
    assert "<script" not in texts[".md"] + texts[".html"]
