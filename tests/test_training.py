import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from toys import SYSTEM_SIZES, interrupt, toy_corpus, watch_training

from marn import MarnError, TrainConfig, build, evaluate, fit, load_model
from marn.evaluation import tune_thresholds
from marn.saving import save_model
from marn.train import loop
from marn.train.step import TrainingStep

CONFIG = TrainConfig(epochs=4, batch_size=8, learning_rate=0.01, seed=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("toy") / "corpus")


def small(corpus, name="marn", **options):
    return build(name, corpus, embedding_size=12, **SYSTEM_SIZES[name], **options)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def test_learns_and_keeps_the_best(corpus):
    model = small(corpus)
    config = dataclasses.replace(CONFIG, epochs=25)
    run = fit(model, corpus, config, quiet=True)
    assert run.history.loss.iloc[-1] < run.history.loss.iloc[0] / 3
    watched = run.history["dev/icd/mean_average_precision"]
    assert run.best_epoch == int(watched.idxmax()) + 1  # the first of equals
    assert evaluate(model, corpus, "dev")["icd"]["mean_average_precision"] == pytest.approx(
        watched.max(), abs=1e-6
    )
    assert watched.max() > 0.8


def test_the_same_seed_gives_the_same_weights_and_another_one_others(corpus):
    weights = [
        fit(small(corpus), corpus, dataclasses.replace(CONFIG, seed=s), quiet=True).model
        for s in (3, 3, 4)
    ]
    one, same_seed, other = (m.state_dict() for m in weights)
    assert same(one, same_seed)
    assert not same(one, other)


def test_the_callers_random_state_is_left_alone(corpus):
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    fit(small(corpus), corpus, dataclasses.replace(CONFIG, epochs=1), quiet=True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_interrupted_and_resumed_equals_uninterrupted(corpus, tmp_path):
    whole = fit(small(corpus), corpus, CONFIG, run_dir=tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):  # in the third epoch of three steps each
        fit(interrupt(small(corpus), 8), corpus, CONFIG, run_dir=tmp_path / "parts", quiet=True)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    steps = []
    model = watch_training(small(corpus), lambda number, *_: steps.append(number))
    again = fit(model, corpus, CONFIG, run_dir=tmp_path / "parts", quiet=True)
    assert len(steps) == 2 * 3  # the first two epochs are not repeated
    assert same(whole.model.state_dict(), again.model.state_dict())
    drop = ["seconds"]
    pd.testing.assert_frame_equal(
        whole.history.drop(columns=drop), again.history.drop(columns=drop)
    )
    # Asked once more, the finished run answers at once.
    model = watch_training(small(corpus), lambda number, *_: steps.append(number))
    finished = fit(model, corpus, CONFIG, run_dir=tmp_path / "parts", quiet=True)
    assert len(steps) == 2 * 3
    assert same(whole.model.state_dict(), finished.model.state_dict())


def test_each_epoch_has_its_own_dropout_and_a_resumed_run_has_the_same(corpus, tmp_path):
    def masks(stop, name):
        """Train until the step; what the first layer drops of real tokens, step by step."""
        found, model = [], small(corpus)

        def record(module, inputs, output):
            if module.training:
                found.append(output[inputs[0] != 0] == 0)

        model.embedding.dropout.register_forward_hook(record)
        # All notes in one batch, sorted by length: only the dropout differs between epochs.
        config = dataclasses.replace(CONFIG, epochs=3, batch_size=24)
        try:
            fit(interrupt(model, stop), corpus, config, run_dir=tmp_path / name, quiet=True)
        except KeyboardInterrupt:
            assert len(found) == stop
        return found

    whole = masks(9, "whole")
    assert len(whole) == 3
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 0.05 < (whole[one] ^ whole[other]).float().mean() < 0.6  # 0.32 for a share of 0.2
    assert len(masks(2, "parts")) == 2
    for mask, again in zip(whole[1:], masks(9, "parts"), strict=True):
        assert torch.equal(mask, again)


def test_a_run_directory_can_be_read_and_used(corpus, tmp_path, capsys):
    run = fit(small(corpus), corpus, CONFIG, run_dir=tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == CONFIG.epochs
    assert "epoch  1/4" in lines[0]
    assert "left" in lines[0]
    saved = load_model(tmp_path / "run")
    assert same(saved.model.state_dict(), run.model.state_dict())
    assert [code.code for code in saved.codes["icd"]] == [c.code for c in corpus.codes["icd"]]
    assert saved.vocabulary.words == corpus.vocabulary.words
    assert saved.thresholds == tune_thresholds(run.model, corpus)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["text"] == "open"
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history.epoch.tolist() == [1, 2, 3, 4]
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["best_epoch"] == run.best_epoch
    written = (tmp_path / "run" / "run.json").read_text() + (
        tmp_path / "run/model.json"
    ).read_text()
    assert str(tmp_path) not in written
    assert not list((tmp_path / "run").glob(".*"))


def test_patience_stops_early(corpus):
    config = dataclasses.replace(CONFIG, epochs=30, patience=2, learning_rate=1e-12)
    run = fit(small(corpus), corpus, config, quiet=True)
    assert run.best_epoch + 2 == len(run.history) < 30


def test_an_infinite_loss_stops_and_keeps_the_checkpoint(corpus, tmp_path):
    def explode(number, tokens, logits):
        return {task: x * math.nan for task, x in logits.items()} if number > 3 else None

    model = watch_training(small(corpus), explode)
    with pytest.raises(MarnError, match=r"in epoch 2, by step 3 of 3.*learning_rate"):
        fit(model, corpus, CONFIG, run_dir=tmp_path / "run", quiet=True)
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 1
    run = fit(small(corpus), corpus, CONFIG, run_dir=tmp_path / "run", quiet=True)
    assert np.isfinite(run.history.loss).all()


def test_recipes_and_task_weights(corpus):
    config = TrainConfig.of(small(corpus, "mt_ram"), epochs=2)
    assert (config.loss, config.learning_rate, config.epochs) == ("bce", 8e-3, 2)
    logits = {"icd": torch.zeros(2, 4), "ccs": torch.zeros(2, 2)}
    targets = {task: torch.zeros_like(x) for task, x in logits.items()}
    assert float(config.loss_of(logits, targets)) == pytest.approx(math.log(2))
    only = {"icd": logits["icd"]}
    assert float(config.loss_of(only, targets)) == pytest.approx(math.log(2))
    double = dataclasses.replace(config, task_weights={"icd": 2.0})
    assert float(double.loss_of(logits, targets)) == pytest.approx(3 * math.log(2))


def test_what_a_system_adds_to_the_loss_is_trained(corpus, tmp_path):
    config = dataclasses.replace(CONFIG, loss="bce")
    descriptions = {"icd": [[1], [2], [3], [4]]}  # words code0 to code3
    distances, losses = [], []
    for weight in (0.0, 1.0):
        model = build(
            "dr_caml", corpus, embedding_size=12, descriptions=descriptions, penalty_weight=weight
        )
        run = fit(model, corpus, config, run_dir=tmp_path / str(weight), quiet=True)
        described = model.describe("icd", torch.arange(4))
        distances.append(float((described - model.head.weight["icd"]).detach().square().sum()))
        losses.append(run.history.loss[0])
    assert distances[1] < distances[0] / 2
    assert losses[1] > losses[0] + 0.01  # it is part of the loss that is told
    again = load_model(tmp_path / "1.0").model  # descriptions are in the card
    assert torch.equal(again.describe("icd", torch.arange(4)), described)


def test_notes_without_a_described_code_still_reach_every_weight(corpus):
    # DistributedDataParallel waits for the gradient of every weight.
    model = build("dr_caml", corpus, embedding_size=12, descriptions={"ccs": [[1], []]})
    logits = model(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    penalty = model.penalty({task: torch.zeros_like(x) for task, x in logits.items()})
    assert float(penalty.detach()) == 0
    (sum(x.sum() for x in logits.values()) + penalty).backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]


def test_what_a_system_takes_from_a_corpus_is_in_the_card(corpus, tmp_path):
    model = build("dr_caml", corpus)
    unknown = corpus.vocabulary.unknown
    assert model.options["descriptions"]["icd"] == [[unknown]] * 4  # "Disease 0" to "Disease 3"
    own = build("dr_caml", corpus, descriptions={"ccs": [[1], [2]]})
    assert own.described == ["ccs"]
    save_model(tmp_path, model, corpus)
    again = load_model(tmp_path).model
    both = torch.arange(4)
    assert torch.equal(again.describe("icd", both), model.describe("icd", both))


def test_one_task_and_any_device_name(corpus):
    run = fit(small(corpus.only("ccs")), corpus.only("ccs"), CONFIG, quiet=True)
    assert "dev/ccs/micro_f1" in run.history
    with pytest.raises(MarnError, match="tasks are"):
        fit(small(corpus), corpus.only("icd"), CONFIG)
    with pytest.raises(MarnError, match="device"):
        fit(small(corpus), corpus, dataclasses.replace(CONFIG, device="gpu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, but got 0"),
        ({"epochs": "10"}, "epochs must be a whole number, but got '10'"),
        ({"batch_size": 1.5}, "whole number"),
        ({"learning_rate": 0}, "above 0"),
        ({"learning_rate": "fast"}, "a number"),
        ({"loss": "mse"}, "'focal' or 'bce'"),
        ({"reading": "eq16"}, "'released' or 'paper'"),
        ({"monitor": "f1"}, "monitor must be one of micro_f1, "),
        ({"clip_norm": 0}, "clip_norm must be above 0"),
        ({"seed": -1}, "at least 0"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(MarnError, match=message):
        TrainConfig(**change)


def test_an_unknown_setting_and_an_unknown_task_weight(corpus, tmp_path):
    with pytest.raises(MarnError, match="no setting 'epoch'"):
        TrainConfig.of(small(corpus), epoch=3)
    other, folder = dataclasses.replace(CONFIG, task_weights={"cc": 1.0}), tmp_path / "run"
    with pytest.raises(MarnError, match=r"\['cc'\].*--task-weights '{\"icd\": 1, \"ccs\": 1}'"):
        fit(small(corpus), corpus, other, run_dir=folder)
    assert not folder.exists()


def test_parts_of_a_batch_add_up_to_the_batch(corpus):
    # No batch normalisation and no dropout: with them, a part is not the batch.
    plain = {"embedding_dropout": 0.0}
    config = dataclasses.replace(CONFIG, epochs=2, learning_rate=1e-3)
    whole, parts = (
        fit(
            small(corpus, "bigru_la", **plain),
            corpus,
            dataclasses.replace(config, accumulate=accumulate),
            quiet=True,
        )
        for accumulate in (1, 3)
    )
    assert parts.history.loss.tolist() == pytest.approx(whole.history.loss.tolist(), abs=1e-6)
    for one, other in zip(
        whole.model.state_dict().values(), parts.model.state_dict().values(), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-6)


def test_schedules_reach_the_optimiser(corpus, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=2, schedule="linear", warmup=0.5)
    fit(small(corpus), corpus, config, run_dir=tmp_path, quiet=True)
    steps = pd.read_csv(tmp_path / "steps.csv")
    # Six steps: three of warm-up; the log has the last step of each epoch.
    assert steps.learning_rate.tolist() == pytest.approx([0.01, 0.01 / 3], rel=1e-4)


def test_the_last_weights_where_the_epochs_run_out(corpus, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=3, learning_rate=1e-12, keep="last")
    run = fit(small(corpus), corpus, config, run_dir=tmp_path / "a", quiet=True)
    assert (run.best_epoch, run.kept_epoch) == (1, 3)
    scores = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert scores["kept_epoch"] == 3
    assert scores["dev"] == evaluate(run.model, corpus, "dev")
    best = fit(small(corpus), corpus, dataclasses.replace(config, keep="best"), quiet=True)
    moments = [run.model.ram.down1.first.norm.num_batches_tracked for run in (run, best)]
    assert moments[0] == 3 * moments[1]  # the weights hardly move, the counter does
    # Patience ends the training: then it is the best epoch in either case.
    stopped = fit(small(corpus), corpus, dataclasses.replace(config, patience=1), quiet=True)
    assert (stopped.best_epoch, stopped.kept_epoch) == (1, 1)
    # In the very last epoch the released code has tested the weights before it stops.
    last = fit(small(corpus), corpus, dataclasses.replace(config, patience=2), quiet=True)
    assert (last.best_epoch, last.kept_epoch, len(last.history)) == (1, 3, 3)


def test_random_batches_are_another_training(corpus):
    runs = [
        fit(small(corpus), corpus, dataclasses.replace(CONFIG, epochs=1, batching=b), quiet=True)
        for b in ("bucketed", "random")
    ]
    assert not same(runs[0].model.state_dict(), runs[1].model.state_dict())


def test_a_log_that_a_killed_run_keeps(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):  # in the second epoch of three steps each
        fit(interrupt(small(corpus), 6), corpus, CONFIG, run_dir=tmp_path, quiet=True)
    before = pd.read_csv(tmp_path / "steps.csv")
    assert before[["epoch", "step"]].values.tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2]]
    assert (before[["loss", "notes_per_second", "peak_memory_mb"]] > 0).all(axis=None)
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1
    with (tmp_path / "steps.csv").open("a") as file:
        file.write("2,3,0.")  # killed while writing
    run = fit(small(corpus), corpus, CONFIG, run_dir=tmp_path, quiet=True)
    after = pd.read_csv(tmp_path / "steps.csv")
    assert after.step.tolist() == [1, 2, 3] * 4
    assert after.epoch.tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert after.loss[:3].mean() == pytest.approx(run.history.loss[0], rel=1e-4)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), run.history)


def test_precision(corpus, tmp_path):
    runs = {
        precision: fit(
            small(corpus), corpus, dataclasses.replace(CONFIG, precision=precision), quiet=True
        )
        for precision in ("fp32", "bf16")
    }
    assert runs["bf16"].history.loss.tolist() == pytest.approx(
        runs["fp32"].history.loss.tolist(), rel=0.05
    )
    assert runs["bf16"].history.loss[0] != runs["fp32"].history.loss[0]
    assert {x.dtype for x in runs["bf16"].model.parameters()} == {torch.float32}
    if not torch.cuda.is_available():
        with pytest.raises(MarnError, match="needs a CUDA device"):
            fit(small(corpus), corpus, dataclasses.replace(CONFIG, precision="fp16"))


def test_gradients_are_clipped_together(corpus):
    def norm(clip):
        model = build("caml", corpus, **SYSTEM_SIZES["caml"]).eval()  # without dropout
        step = TrainingStep(model, corpus["train"], TrainConfig(clip_norm=clip, device="cpu"))
        step(np.arange(4), 0.0)  # the gradients stay until the next step
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        return float(torch.stack([g.square().sum() for g in grads]).sum().sqrt())

    free = norm(None)
    assert norm(free / 2) == pytest.approx(free / 2, rel=1e-4)
    assert norm(2 * free) == pytest.approx(free, rel=1e-6)  # what is short enough is left alone


def test_the_largest_seed_trains(corpus):
    config = dataclasses.replace(CONFIG, epochs=1, seed=2**63 - 1)
    assert np.isfinite(
        fit(small(corpus, seed=config.seed), corpus, config, quiet=True).history.loss[0]
    )


def test_what_a_user_may_give(corpus, tmp_path):
    run = fit(small(corpus), corpus.path, {"epochs": 2}, run_dir=tmp_path, quiet=True)
    assert (run.config.epochs, run.config.learning_rate) == (2, 1e-3)
    saved = load_model(tmp_path)
    scores = [evaluate(given, corpus) for given in (run.model, run, saved)]
    assert scores[0] == scores[1] == scores[2] == evaluate(saved, str(corpus.path))
    assert fit(saved, corpus, {"epochs": 1}, quiet=True).model is saved.model
    for wrong, says in (
        (lambda: fit(small(corpus), corpus, {"epoch": 1}), "no setting 'epoch'"),
        (lambda: fit("marn", corpus), "model must be a system, but got a str"),
        (lambda: fit(small(corpus), 3), "corpus must be a Corpus or its folder, but got a int"),
        (lambda: evaluate(run, tmp_path / "model.json"), r"model\.json is a file; pass the folder"),
        (lambda: evaluate(run, corpus, batch_size=0), "batch_size must be at least 1, but got 0"),
        (lambda: load_model(tmp_path / "model.json"), "is a file; pass its folder"),
    ):
        with pytest.raises(MarnError, match=says):
            wrong()


def test_a_training_that_predicts_nothing_says_so(corpus, tmp_path, capsys):
    config = dataclasses.replace(CONFIG, epochs=1, loss="bce")
    model = small(corpus)
    with torch.no_grad():
        model.head.bias["icd"].fill_(-5)
    fit(model, corpus, config, run_dir=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    warned = [line for line in lines if line.startswith("warning: no dev note gets a code of task")]
    assert "'icd', since the highest probability is 0.0" in warned[0]
    assert f"assign above {load_model(tmp_path).thresholds['icd']:.3f}" in warned[0]
    fit(small(corpus), corpus, dataclasses.replace(CONFIG, epochs=25))
    assert "warning" not in capsys.readouterr().out


def test_a_monitor_at_any_k(corpus):
    config = dataclasses.replace(CONFIG, epochs=1, monitor="precision_at_3")
    run = fit(small(corpus), corpus, config, quiet=True)
    assert {f"dev/icd/precision_at_{k}" for k in (3, 5, 8, 15)} < {*run.history}
