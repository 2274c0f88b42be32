"""The folder of a run: locked, checked before use, repaired by the same call, trained further."""

import dataclasses
import json
import math
import random

import numpy as np
import pandas as pd
import pytest
import torch
from toys import SYSTEM_SIZES, interrupt, toy_corpus, watch_training

from marn import MarnError, TrainConfig, build, fit, load_model
from marn.saving import read_checkpoint, save_model
from marn.train.checkpoint import RunFolder

CONFIG = TrainConfig(epochs=2, batch_size=8, learning_rate=0.01, seed=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("toy") / "corpus")


def small(corpus, name="cnn", **options):
    return build(name, corpus, embedding_size=12, **{**SYSTEM_SIZES[name], **options})


def train(corpus, folder, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return fit(small(corpus), corpus, config, run_dir=folder, quiet=True)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


@pytest.fixture
def run(corpus, tmp_path):
    train(corpus, tmp_path / "run")
    return tmp_path / "run"


def test_another_run_is_refused(corpus, run):
    with pytest.raises(MarnError, match=r"training\.seed was 3, now 4"):
        train(corpus, run, seed=4)
    with pytest.raises(MarnError, match=r"model\.name was 'cnn', now 'marn'"):
        fit(small(corpus, "marn"), corpus, CONFIG, run_dir=run)


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"settings": 1}', "\x00"])
def test_damaged_settings_are_repaired_from_the_checkpoint_or_refused(corpus, run, text):
    path, before = run / "run.json", json.loads((run / "run.json").read_text())
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(MarnError, match=r"another run \(training\.seed was 3, now 4\)"):
        train(corpus, run, seed=4)
    train(corpus, run)
    assert json.loads(path.read_text())["settings"] == before["settings"]


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("checkpoint.pt", lambda path: path.write_bytes(b"half a file"), "is damaged or of"),
        ("checkpoint.pt", lambda path: torch.save([], path), "is damaged or of"),
        ("checkpoint.pt", lambda path: torch.save({"history": []}, path), "is damaged or of"),
        ("run.json", lambda path: (path.unlink(), path.mkdir()), "could not be written"),
        ("steps.csv", lambda path: (path.unlink(), path.mkdir()), "steps.csv cannot be read"),
        ("lock", lambda path: path.mkdir(), "cannot be used"),
    ],
)
def test_a_damaged_run_is_one_line(corpus, run, name, damage, says):
    damage(run / name)
    with pytest.raises(MarnError, match=says) as caught:
        train(corpus, run)
    assert str(run) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_log_of_rubbish_is_begun_anew(corpus, run):
    (run / "steps.csv").write_bytes(b"\xff\nx,y\n,\n\n1,3,0.5,1,1,1\n9,9\n")
    train(corpus, run)
    assert pd.read_csv(run / "steps.csv").epoch.tolist() == [1]


def test_a_checkpoint_with_a_flipped_bit_is_refused(corpus, run):
    path = run / "checkpoint.pt"
    whole, state = path.read_bytes(), read_checkpoint(path)
    chance, refused = random.Random(0), 0
    for _ in range(8):
        place = chance.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = read_checkpoint(path)
        except MarnError:
            refused += 1
        else:  # a bit between the parts of the file
            assert same(found["model"], state["model"])
            assert same(found["best"]["model"], state["best"]["model"])
            assert found["history"] == state["history"]
    assert refused > 2


FILES = ("model.safetensors", "model.json", "scores.json", "history.csv")


@pytest.mark.parametrize(
    ("name", "missing"),
    [*((name, missing) for name in FILES for missing in (True, False)), ("README.md", True)],
)
def test_a_damaged_model_is_refused_and_repaired_by_the_same_call(corpus, run, name, missing):
    before, path = {file.name: file.read_bytes() for file in run.iterdir()}, run / name
    path.write_bytes(before[name][:-9] + b"\x00" + before[name][-8:])
    if name.startswith("model"):
        with pytest.raises(MarnError, match=r"damaged .*repeat its marn train .* restores it"):
            load_model(run)
    if missing:
        path.unlink()
    train(corpus, run)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_scores_of_another_run_are_replaced(corpus, run, tmp_path):
    before = (run / "scores.json").read_bytes()
    other = train(corpus, tmp_path / "other", seed=4).folder
    (run / "scores.json").write_bytes((other / "scores.json").read_bytes())
    train(corpus, run)
    assert (run / "scores.json").read_bytes() == before


def test_a_folder_is_trained_in_by_one_process_at_a_time(corpus, tmp_path):
    with (
        RunFolder(tmp_path, small(corpus), corpus, CONFIG),
        pytest.raises(MarnError, match=r"is in use by training process \d+; wait until"),
    ):
        train(corpus, tmp_path)
    (tmp_path / "lock").write_text("1")  # of a process that was killed
    train(corpus, tmp_path)
    assert not (tmp_path / "lock").exists()


def test_the_lock_is_given_back_after_an_error(corpus, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(interrupt(small(corpus), 4), corpus, CONFIG, run_dir=tmp_path, quiet=True)
    assert not (tmp_path / "lock").exists()


def test_the_best_model_so_far_can_be_loaded(corpus, tmp_path):
    def stop(epochs):
        model = interrupt(small(corpus), 3 * epochs + 1)
        with pytest.raises(KeyboardInterrupt):
            fit(model, corpus, dataclasses.replace(CONFIG, epochs=9), run_dir=tmp_path, quiet=True)

    stop(0)
    with pytest.raises(MarnError, match="has no finished epoch yet"):
        load_model(tmp_path)
    stop(2)
    saved = load_model(tmp_path, corpus)
    assert saved.thresholds == {"icd": 0.5, "ccs": 0.5}
    best = read_checkpoint(tmp_path / "checkpoint.pt")["best"]
    assert same(saved.model.state_dict(), best["model"])
    alone = train(corpus, None)
    assert same(saved.model.state_dict(), alone.model.state_dict())


def test_a_finished_run_is_trained_further(corpus, run, tmp_path):
    with pytest.raises(MarnError, match=r"training\.epochs was 2, now 1"):
        train(corpus, run, epochs=1)
    train(corpus, run, epochs=4)
    whole = train(corpus, tmp_path / "whole", epochs=4).folder
    for name in ("model.safetensors", "model.json", "run.json", "scores.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    one, other = (pd.read_csv(x / "history.csv").drop(columns="seconds") for x in (run, whole))
    pd.testing.assert_frame_equal(one, other)
    # While it goes on, the best model so far is that of the checkpoint.
    longer = dataclasses.replace(CONFIG, epochs=6)
    with pytest.raises(KeyboardInterrupt):
        fit(interrupt(small(corpus), 2), corpus, longer, run_dir=run, quiet=True)
    assert same(load_model(run).model.state_dict(), load_model(whole).model.state_dict())
    assert not (run / "scores.json").exists()


def test_more_patience_trains_further(corpus, tmp_path):
    still = {"epochs": 6, "learning_rate": 1e-12}
    assert len(train(corpus, tmp_path, patience=1, **still).history) == 2
    assert len(train(corpus, tmp_path, patience=3, **still).history) == 4
    with pytest.raises(MarnError, match=r"training\.patience was 3, now 2"):
        train(corpus, tmp_path, patience=2, **still)


@pytest.mark.parametrize("change", [{"schedule": "linear"}, {"warmup": 0.5}])
def test_a_schedule_that_depends_on_the_epochs_ends_with_them(corpus, tmp_path, change):
    train(corpus, tmp_path, **change)
    with pytest.raises(
        MarnError, match=r"planned for 2 epochs, on which .* as init_from \(--init-from"
    ):
        train(corpus, tmp_path, epochs=4, **change)
    train(corpus, tmp_path, **change)


def test_a_folder_whose_first_epoch_failed_begins_again(corpus, tmp_path):
    def explode(number, tokens, logits):
        return {task: x * math.nan for task, x in logits.items()}

    with pytest.raises(MarnError, match="the loss became nan in epoch 1"):
        fit(watch_training(small(corpus), explode), corpus, CONFIG, run_dir=tmp_path)
    found = train(corpus, tmp_path, learning_rate=0.02)
    assert np.isfinite(found.history.loss).all()
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert settings["training"]["learning_rate"] == 0.02


def test_an_epoch_that_leaves_weights_of_nan_is_not_kept(corpus, tmp_path):
    model = small(corpus)

    def spoil(number, tokens, logits):
        if number == 3:  # as a step that overflows does: the loss before it is finite
            model.head.register_buffer("mean", torch.tensor([0.0, math.inf]))

    train(corpus, tmp_path, epochs=1)
    with pytest.raises(MarnError, match=r"weight 'head\.mean' became nan or infinite in epoch 2"):
        fit(watch_training(model, spoil), corpus, CONFIG, run_dir=tmp_path)
    load_model(tmp_path)


def test_folders_that_are_no_run_directories(corpus, run, tmp_path):
    before = sorted(corpus.path.iterdir())
    with pytest.raises(MarnError, match="is a corpus; choose another folder"):
        train(corpus, corpus.path)
    assert sorted(corpus.path.iterdir()) == before
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MarnError, match=r"cannot be used .*choose another folder"):
            train(corpus, path)
    save_model(tmp_path / "model", small(corpus), corpus)
    with pytest.raises(MarnError, match=r"holds a model, but no checkpoint\.pt to resume from"):
        train(corpus, tmp_path / "model")


def test_start_from_the_weights_of_another_run(corpus, run, tmp_path):
    first = dataclasses.replace(CONFIG, epochs=1, learning_rate=1e-12)
    options = {"run_dir": tmp_path / "b", "quiet": True, "init_from": run}
    found = fit(small(corpus, seed=5), corpus, first, **options)
    for name, weight in load_model(run).model.state_dict().items():
        assert torch.allclose(found.model.state_dict()[name], weight, atol=1e-6), name
    again = fit(small(corpus, seed=5), corpus, first, **options)  # it is finished
    assert same(found.model.state_dict(), again.model.state_dict())
    with pytest.raises(MarnError, match=r"another run \(init_from was '\w{16}', now None\)"):
        fit(small(corpus, seed=5), corpus, first, run_dir=tmp_path / "b", quiet=True)


def test_start_with_other_codes_and_what_does_not_match(corpus, run, tmp_path):
    one = {"quiet": True, "init_from": run}
    first = dataclasses.replace(CONFIG, epochs=1, learning_rate=1e-12)
    given = load_model(run).model.state_dict()
    alone = corpus.only("icd")
    found = fit(small(alone), alone, first, **one).model.state_dict()
    assert torch.allclose(found["head.weight.icd"], given["head.weight.icd"], atol=1e-6)
    other = toy_corpus(tmp_path / "other", tasks=("icd", "odd"))
    model = small(other)
    before = model.head.weight["odd"].detach().clone()
    unweighted = dataclasses.replace(first, task_weights={})
    found = fit(model, other, unweighted, **one).model.state_dict()
    assert torch.allclose(found["head.weight.odd"], before, atol=1e-6)
    table = "embedding.table.weight"
    assert torch.allclose(found[table], given[table], atol=1e-6)
    more = toy_corpus(tmp_path / "more", codes=6)
    for model, data, says in (
        (small(corpus, "marn"), corpus, "is a 'cnn', but the model is a 'marn'"),
        (small(corpus, filters=9), corpus, "filters was 16, now 9"),
        (small(more), more, "has another vocabulary than corpus"),
    ):
        with pytest.raises(MarnError, match=says):
            fit(model, data, first, **one)
    with pytest.raises(MarnError, match="contains no model"):
        fit(small(corpus), corpus, first, init_from=tmp_path / "nowhere")
