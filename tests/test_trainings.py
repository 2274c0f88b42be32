"""The experiments on systems, blocks and presets: their lists, and how they are gone through."""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from toys import SYSTEM_SIZES, toy_corpus

import marn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "experiments"))

import presets as three  # noqa: E402
import systems  # noqa: E402
import trainings  # noqa: E402
from trainings import Plan  # noqa: E402

SIZES = {"caml": SYSTEM_SIZES["caml"], "bigru_la": SYSTEM_SIZES["bigru_la"]}


def of(experiment) -> argparse.Namespace:
    return experiment.EXPERIMENT.parser().parse_args([])


def test_every_system_has_a_training():
    plans = systems.plans(of(systems))
    assert [plan.system for plan in plans] == marn.available()
    assert set(systems.SIZES) <= set(marn.available())
    for plan in plans:
        model = marn.Coder.registry[plan.system]
        marn.TrainConfig(**{**model.training_defaults, **plan.training})


def test_the_presets_differ_by_their_rows_alone():
    plans = {plan.name: plan for plan in three.plans(of(three))}
    assert list(plans) == ["paper", "released", "sound"]
    for plan in plans.values():
        assert plan.options["hidden_size"] == 48
        assert plan.training["learning_rate"] == 5e-3
    assert plans["released"].options["padding"] == "released"
    assert plans["sound"].notes["own_threshold"] == "dev"


@pytest.fixture
def setting(tmp_path, monkeypatch):
    toy_corpus(tmp_path / "toy")
    sizes = {"epochs": 2, "length": 20}
    parser = trainings.Experiment("grid", "A test.", lambda args: [], sizes).parser()
    parser.set_defaults(corpus=tmp_path / "toy", out=tmp_path / "made" / "grid.json")
    parser.set_defaults(runs=tmp_path / "runs")
    training = {"epochs": 2, "batch_size": 8}
    plans = [
        Plan("caml ram", "caml", {**SIZES["caml"], "recalibrate": "add"}, training),
        Plan("gru", "bigru_la", SIZES["bigru_la"], training, ("icd",), {"blocks": ""}),
    ]
    return parser, plans


def go(setting, *line, plans=None):
    parser, given = setting
    said: list[str] = []
    args = parser.parse_args(line)
    trainings.run(plans or given, args, said.append, lambda rows: {"extra": len(rows)})
    return json.loads(args.out.read_text()), said


def test_rows_say_what_was_trained_and_how(setting, tmp_path):
    found, _ = go(setting)
    assert [row["plan"]["name"] for row in found["rows"]] == ["caml ram", "gru"]
    caml, gru = found["rows"]
    assert caml["training"]["learning_rate"] == 1e-4
    assert caml["training"]["epochs"] == 2
    assert set(caml["scores"]) == set(trainings.RULES)
    assert set(caml["scores"]["0.5"]) == {"icd", "ccs"}
    assert set(gru["scores"]["one"]) == {"icd"}
    assert gru["scores"]["0.5"]["icd"]["threshold"] == 0.5
    assert "threshold" not in gru["scores"]["per code"]["icd"]
    assert caml["scores"]["0.5"]["icd"]["macro_auc"] == caml["scores"]["one"]["icd"]["macro_auc"]
    assert found["extra"] == 2
    # the same for every note, so that no code tells one note from another
    assert found["shares"]["0.5"]["icd"]["macro_auc"] == 0.5
    assert found["corpus"]["notes"] == {"train": 24, "dev": 8, "test": 8}
    assert found["command"].startswith("python book/experiments/grid.py --corpus data/toy")
    written = json.dumps(found)
    assert str(tmp_path) not in written
    assert not re.search(r"/home|/tmp|/work", written)


def test_it_goes_on_where_it_was(setting):
    first, _ = go(setting, "--new", "1")
    assert [row["plan"]["name"] for row in first["rows"]] == ["caml ram"]
    assert "extra" not in first  # not before every row is there
    whole, said = go(setting)
    assert whole["rows"][0] == first["rows"][0]
    assert said[-1] == "grid.json written: 2 rows, 1 of them new"
    again, said = go(setting)
    assert again["rows"] == whole["rows"]
    assert said[-1].endswith("0 of them new")
    # another plan under the name, and other notes, are trained anew
    changed = [Plan("gru", "bigru_la", {"hidden_size": 4}, {"epochs": 1, "batch_size": 8})]
    setting[0].set_defaults(runs=setting[0].get_default("runs").with_name("others"))
    other, said = go(setting, plans=changed)
    assert other["rows"][0]["plan"]["options"] == {"hidden_size": 4}
    fewer, said = go(setting, "--train", "9")
    assert fewer["corpus"]["notes"]["train"] == 9
    assert said[-1].endswith("2 of them new")


@pytest.mark.parametrize("experiment", [systems, three], ids=lambda it: it.__name__)
def test_the_command_in_a_result_is_understood(experiment):
    found = json.loads((ROOT / "book" / "results" / f"{experiment.__name__}.json").read_text())
    program, script, *line = shlex.split(found["command"])
    assert (program, (ROOT / script).resolve()) == ("python", Path(experiment.__file__))
    args = experiment.EXPERIMENT.parser().parse_args(line)
    assert vars(args) == vars(of(experiment))  # the defaults are what was run
    plans = experiment.EXPERIMENT.plans(args)
    assert [plan.name for plan in plans] == [row["plan"]["name"] for row in found["rows"]]


def test_an_experiment_from_its_command_line(setting, tmp_path, capsys):
    plans = [Plan("gru", "bigru_la", SIZES["bigru_la"], {"epochs": 1, "batch_size": 8})]
    mine = trainings.Experiment("mine", "A test.", lambda args: plans, {}, lambda rows: {"n": 1})
    line = ["--corpus", str(tmp_path / "toy"), "--out", str(tmp_path / "mine.json")]
    assert mine.main([*line, "--runs", str(tmp_path / "runs"), "--length", "20"]) == 0
    assert capsys.readouterr().out.endswith("mine.json written: 1 rows, 1 of them new\n")
    found = json.loads((tmp_path / "mine.json").read_text())
    assert found["n"] == 1
    assert found["command"].startswith("python book/experiments/mine.py --corpus data/toy")


def test_a_missing_corpus_is_one_line(tmp_path, capsys):
    line = ["--corpus", str(tmp_path / "none"), "--out", str(tmp_path / "out.json")]
    assert systems.EXPERIMENT.main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("no corpus at")
    assert error.count("\n") == 1
