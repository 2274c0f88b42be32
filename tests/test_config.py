"""Settings of a training: the learning rate of each step, softened targets, and what is refused."""

import math

import pytest
import torch

from marn import MarnError, TrainConfig


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
    config = TrainConfig(loss="bce", label_smoothing=0.2, task_weights={})
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
        ({"reduction": "none"}, "reduction must be 'mean' or 'sum_codes', or None"),
        ({"schedule": "cosine"}, "schedule must be 'constant' or 'linear' or 'plateau'"),
        ({"warmup": 1.0}, "warmup must be below 1"),
        ({"warmup": -0.1}, "warmup must be at least 0"),
        ({"plateau_factor": 1.0}, "between 0 and 1"),
        ({"plateau_patience": -1}, "at least 0"),
        ({"label_smoothing": 0.1}, "for loss='bce' alone"),
        ({"label_smoothing": 1.0, "loss": "bce"}, "below 1"),
        ({"keep": "first"}, "'best' or 'last'"),
        ({"batching": "sorted"}, "'bucketed' or 'random'"),
        ({"precision": "fp8"}, "'fp32' or 'bf16' or 'fp16'"),
        ({"accumulate": 0}, "at least 1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(MarnError, match=message):
        TrainConfig(**change)
