"""Settings of a training: the learning rate of each step, softened targets, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from marn import MarnError, TrainConfig, losses, metrics
from marn.registry import system


def rates(config, steps, watched=()):
    return [config.rate(step, steps, watched) for step in range(1, steps + 1)]


def test_rates_by_hand():
    assert rates(TrainConfig(learning_rate=2.0), 3) == [2, 2, 2]
    assert rates(TrainConfig(learning_rate=2.0, warmup=0.5), 4) == [1, 2, 2, 2]
    assert rates(TrainConfig(learning_rate=2.0, schedule="linear"), 4) == [2, 1.5, 1, 0.5]
    warm = TrainConfig(learning_rate=2.0, schedule="linear", warmup=0.5)
    assert rates(warm, 4) == [1, 2, 2, 1]


@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.25, 0.99])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_rate_rises_once_then_falls_and_stays_within_bounds(warmup, steps):
    found = rates(TrainConfig(learning_rate=1.0, schedule="linear", warmup=warmup), steps)
    top = found.index(max(found))
    assert 0 < min(found) <= max(found) <= 1
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


def test_plateaus_agree_with_torch():
    # Torch counts a rise only above a threshold, which is 0 here.
    scores = [0.1, 0.3, 0.2, 0.3, 0.1, 0.4, 0.4, 0.4, 0.4, 0.2, 0.2, 0.5, 0.1, 0.1, 0.1]
    config = TrainConfig(
        learning_rate=1.0, schedule="plateau", plateau_patience=1, plateau_factor=0.5
    )
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, "max", factor=0.5, patience=1, threshold=0
    )
    for epoch in range(len(scores)):
        assert config.rate(1, 1, scores[:epoch]) == optimiser.param_groups[0]["lr"]
        reference.step(scores[epoch])
    assert config.rate(1, 1, scores) < 0.2  # three cuts at least


def test_label_smoothing_by_hand():
    config = TrainConfig(loss="bce", label_smoothing=0.2)
    logits, targets = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.0]])
    # Targets 0.9 and 0.1; -log sigmoid(log 3) = log(4/3), -log sigmoid(-log 3) = log 4.
    second = 0.1 * math.log(4 / 3) + 0.9 * math.log(4)
    expected = (math.log(2) + second) / 2
    assert float(config.loss_of({"icd": logits}, {"icd": targets})) == pytest.approx(expected)


LOGITS = {"icd": torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]])}
TRUTH = {"icd": torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])}


@pytest.mark.parametrize("loss", [{"loss": "bce"}, {"reading": "released"}, {"reading": "paper"}])
def test_a_sum_over_codes_is_as_many_means(loss):
    def of(reduction):
        config = TrainConfig(**loss, reduction=reduction)
        return float(config.loss_of(LOGITS, TRUTH))

    assert of("sum_codes") == pytest.approx(3 * of("mean"))
    assert of(None) == of("sum_codes" if loss.get("reading") == "paper" else "mean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"reduction": "none"},
            "reduction must be 'mean' or 'sum_codes', but got 'none'; the default is None",
        ),
        ({"schedule": "cosine"}, "schedule must be 'constant', 'linear' or 'plateau'"),
        ({"warmup": 1.0}, "warmup must be below 1"),
        ({"warmup": -0.1}, "warmup must be at least 0, but got -0.1; the default is 0.0"),
        ({"plateau_factor": 1.0}, "plateau_factor must be below 1"),
        ({"plateau_factor": 0}, "plateau_factor must be above 0"),
        ({"plateau_patience": -1}, "at least 0"),
        ({"label_smoothing": 0.1}, "label_smoothing needs loss='bce'"),
        ({"label_smoothing": 1.0, "loss": "bce"}, "below 1"),
        ({"keep": "first"}, "'best' or 'last'"),
        ({"batching": "sorted"}, "'bucketed' or 'random'"),
        ({"precision": "fp8"}, "'fp32', 'bf16' or 'fp16'"),
        ({"accumulate": 0}, "at least 1"),
        ({"epochs": True}, "epochs must be a whole number, but got True"),
        ({"epochs": np.float64(3)}, "epochs must be a whole number, but got 3.0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number, but got nan"),
        ({"clip_norm": math.inf}, "clip_norm must be a finite number, but got inf"),
        ({"task_weights": {"icd": -1}}, r"task_weights\[icd\] must be at least 0, but got -1"),
        ({"task_weights": {"icd": "much"}}, r"task_weights\[icd\] must be a number"),
        ({"task_weights": {"icd": 0}}, "task_weights must not all be 0"),
        ({"monitor": "precision_at_x"}, "monitor must be one of .*, but got 'precision_at_x'"),
        ({"monitor": "recall_at_0"}, "monitor must be one of .*precision_at_K, recall_at_K"),
        ({"device": "cdua"}, "device must be 'auto', 'cpu', .*, but got 'cdua'"),
        ({"device": "meta"}, "device must be"),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807"),
        ({"epoch": 3}, "TrainConfig has no setting 'epoch'; did you mean 'epochs'"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(MarnError, match=message) as error:
        TrainConfig(**change)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_become_pythons():
    config = TrainConfig(
        epochs=np.int64(3),
        learning_rate=np.float32(0.5),
        task_weights={"icd": np.float64(1)},
        seed=torch.tensor(4),
    )
    assert (config.epochs, config.learning_rate, config.seed) == (3, 0.5, 4)
    values = [config.epochs, config.learning_rate, config.seed, config.task_weights["icd"]]
    assert [type(value) for value in values] == [int, float, int, float]
    assert TrainConfig(task_weights={}).task_weights == {}  # each task has weight 1
    assert TrainConfig(learning_rate=1, clip_norm=None, seed=2**63 - 1).clip_norm is None


def test_a_config_is_a_frozen_dataclass():
    config = dataclasses.replace(TrainConfig(), epochs=2)
    assert TrainConfig(**dataclasses.asdict(config)) == config
    with pytest.raises(MarnError, match="epochs must be at least 1"):
        dataclasses.replace(config, epochs=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3


@pytest.mark.parametrize("monitor", ["precision_at_5", "recall_at_15", "macro_f1_caml"])
def test_monitors_are_scores(monitor):
    scores = metrics.score(np.full((1, 20), 0.5), np.eye(20)[:1])
    assert TrainConfig(monitor=monitor).monitor in scores


def test_readings_are_those_of_the_focal_loss():
    assert TrainConfig.__pydantic_fields__["reading"].annotation == losses.Reading


def test_every_setting_explains_itself():
    for field in dataclasses.fields(TrainConfig):
        described = TrainConfig.__pydantic_fields__[field.name].description
        assert described, field.name
        assert described.endswith("."), field.name


def test_few_notes_get_steps_and_a_rate_to_learn_from() -> None:
    caml, marn_, plm = (system(name) for name in ("caml", "marn", "plm_icd"))
    few = TrainConfig.suited(caml, 700)
    assert (few.epochs, few.patience, few.learning_rate, few.schedule) == (23, 23, 8e-3, "linear")
    assert few.loss == TrainConfig.of(caml).loss
    assert TrainConfig.suited(marn_, 8066) == TrainConfig.of(marn_)  # the papers' smaller task
    assert (
        TrainConfig.suited(marn_, 3984) != TrainConfig.of(marn_) == TrainConfig.suited(marn_, 3985)
    )
    assert TrainConfig.suited(plm, 700).learning_rate == TrainConfig.of(plm).learning_rate
    assert [TrainConfig.suited(marn_, notes).epochs for notes in (0, 1, 3900)] == [50, 50, 10]
    mine = TrainConfig.suited(marn_, 700, epochs=3, batch_size=700)
    assert (mine.epochs, mine.learning_rate) == (3, 8e-3)
