"""`make reproduce` on the tiny hospital: what it refuses, what it says, and its tables."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "experiments"))

import reproduce

import marn
from marn.experiments.plan import DONE, plan, read
from marn.experiments.presets import preset
from marn.experiments.recording import record
from marn.saving import write_json

SMALL = ["--prepare", "vectors=none", "--splits", "0.8,0.1,0.1", "--only", "marn_50"]
SMALL += ["--set", "model_args.max_length=20", "--set", "model_args.hidden_size=4"]
SMALL += ["--set", "train_notes=8", "--set", "train_args.epochs=1"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "marn_500"], "no sweep is named 'marn_500'; did you mean 'marn_50'?"),
        (["--prepare", "vectrs=none"], "no setting 'vectrs'; did you mean 'vectors'?"),
        (["--set", "hidden=4"], "training.ipynb has no parameter 'hidden'"),
        (["--splits", "."], "train_50_hadm_ids.csv does not exist"),
        (["--out", str(reproduce.HOME / "new")], "git does not ignore"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tiny_raw, tmp_path, capsys, more, message):
    line = [str(tiny_raw), "--out", str(tmp_path / "out"), *SMALL]
    assert reproduce.main([*line, *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("make reproduce: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_table_is_said(tmp_path, capsys):
    assert reproduce.main([str(tmp_path / "none")]) == 2
    assert "none does not exist; give the folder of the raw tables" in capsys.readouterr().err
    assert reproduce.main([str(tmp_path)]) == 2
    assert "has no NOTEEVENTS.csv" in capsys.readouterr().err


def test_the_ablation_of_marn_has_the_settings_of_its_code():
    said = read(reproduce.HOME / "paper_marn.yaml").parameters
    released = preset("released")
    default = marn.TrainConfig()
    for key, value in released.training.items():
        assert said["train_args"].get(key, getattr(default, key)) == value, key
    for key in ("max_length", "tune_embeddings", "padding"):
        assert said["model_args"][key] == released.model[key]


def test_no_room_is_said(tiny_raw, tmp_path, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 3e6})
    monkeypatch.setattr(reproduce.shutil, "disk_usage", lambda path: usage)
    line = [str(tiny_raw), "--out", str(tmp_path / "out"), "--splits", "0.8,0.1,0.1"]
    assert reproduce.main(line) == 2
    assert "but the disk has 3 MB free; free space" in capsys.readouterr().err


def test_a_dry_run_says_the_runs_and_their_time_and_writes_nothing(tiny_raw, tmp_path, capsys):
    rows = ["--set", 'blocks=["base", "+RAM+MTL+FL"]', "--set", "seeds=[0, 1]"]
    line = [str(tiny_raw), "--out", str(tmp_path / "out"), *SMALL, *rows, "--dry-run"]
    assert reproduce.main(line) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("marn_50: model bigru_la, blocks base, seed 0: ")
    assert [" to " in one for one in lines] == [True] * 5 + [False]
    assert lines[4].startswith("runs: ")
    assert lines[5].startswith("preparation: about ")
    assert not (tmp_path / "out").exists()


def test_least_and_most_time_differ_by_the_epochs(tmp_path, monkeypatch):
    notes, codes = reproduce.size_of("50")
    assert (notes["train"], notes["dev"], codes) == (8067, 1574, {"icd": 50, "ccs": 38})
    corpus = tmp_path / "random"
    reproduce.made_up(corpus, reproduce.np.full(2, 9), {"icd": 5, "ccs": 3}, words=30)
    ticks = iter(range(100))
    monkeypatch.setattr(reproduce.time, "perf_counter", lambda: next(ticks))  # 1 s a step
    parameters = {"model": "bigru_la", "corpus": str(corpus), "train_notes": 10}
    parameters["model_args"] = {"hidden_size": 2, "max_length": 9}
    parameters["train_args"] = {"epochs": 5, "patience": 1}
    sizes = {"train": 10, "dev": 3, "test": 6}
    # a note takes .5 s to train on and a third of it to read; 2 and 5 epochs
    least, most = reproduce.seconds_of(parameters, sizes)
    assert least == pytest.approx(2 * (5 + 0.5) + 1.5)
    assert most == pytest.approx(5 * (5 + 0.5) + 1.5)


def in_process(path, out, *, jobs, changes):
    """Run a sweep as its notebook does, without papermill."""
    for run in plan(path, out, changes):
        if run.finished:
            continue
        said = run.parameters
        data = marn.Corpus.load(said["corpus"]).head(train=said["train_notes"])
        model = marn.build(said["model"], data, **said["model_args"])
        config = marn.TrainConfig.of(model, **said["train_args"])
        record(marn.fit(model, data, config, run_dir=run.folder / "run", quiet=True), data)
        known = {"labels": run.labels, "about": run.about, "key": run.key, "seconds": 1.0}
        write_json(run.folder / DONE, known)


def test_it_runs_to_the_last_table_and_not_twice(tiny_raw, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "sweep", in_process)
    line = [str(tiny_raw), "--out", str(tmp_path), *SMALL, "--set", 'blocks=["+RAM+MTL+FL"]']
    assert reproduce.main(line) == 0
    made = sorted(path.stem for path in (tmp_path / "tables").glob("*.html"))
    assert made == ["marn_table_1", "marn_table_3", "marn_table_5", "runs"]
    for suffix in ("csv", "md", "tex"):
        assert (tmp_path / "tables" / f"marn_table_5.{suffix}").stat().st_size
    table = pd.read_csv(tmp_path / "tables" / "marn_table_1.csv").set_index("row")
    runs = pd.read_csv(tmp_path / "tables" / "runs.csv").query("rule == '0.5' and task == 'icd'")
    assert table["micro_auc"]["MARN"] == pytest.approx(100 * runs["micro_auc"].iloc[0], abs=0.06)
    assert table["micro_f1 published"]["MARN"] == 71.8
    assert table["seeds"].sum() == 1
    done = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*/done.json")}
    assert "notes written" in capsys.readouterr().err
    assert reproduce.main(line) == 0
    assert "notes written" not in capsys.readouterr().err  # the corpus is there
    assert {file: file.stat().st_mtime_ns for file in done} == done


def test_the_settings_of_figures_12_and_13_are_tried_at_the_size_of_the_authors_code(
    tiny_raw, tmp_path, monkeypatch
):
    _, experiment, own = reproduce.SWEEPS["settings_50"]
    runs = plan(reproduce.HOME / f"{experiment}.yaml", tmp_path / "runs", own)
    assert len(runs) == 30
    for run in runs:
        assert [run.parameters[key] for key in own if key != "seeds"] == ["released", 0, 0]
    monkeypatch.setattr(reproduce, "sweep", in_process)
    small = ["settings_50" if word == "marn_50" else word for word in SMALL]
    few = ["--set", 'setting=["as the paper", "weight 0.5"]', "--set", "train_args.reading=paper"]
    assert reproduce.main([str(tiny_raw), "--out", str(tmp_path / "out"), *small, *few]) == 0
    made = pd.read_csv(tmp_path / "out" / "tables" / "marn_figures_12_and_13.csv")
    assert set(made["setting"]) == {"as the paper", "weight 0.5"}
    assert made["micro_f1"].between(0, 1).all()
