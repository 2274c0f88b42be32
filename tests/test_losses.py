import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from marn import bce_loss, focal_loss
from marn.errors import MarnError
from marn.losses import multitask_loss

LOGITS = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])  # p = 1/2, 3/4
TARGETS = torch.tensor([[1.0, 1.0], [0.0, 0.0]])


def test_by_hand():
    # Losses of the four decisions at gamma 2: (1-pt)^2 * -log pt with pt = 1/2, 3/4, 1/4, 1/2.
    decisions = [math.log(2) / 4, math.log(4 / 3) / 16, math.log(4) * 9 / 16, math.log(2) / 4]
    found = focal_loss(LOGITS, TARGETS, alpha=0.9)
    assert float(found) == pytest.approx(0.9 * sum(decisions) / 4)
    found = focal_loss(LOGITS, TARGETS, alpha=0.9, reading="paper")
    weighted = 0.9 * (decisions[0] + decisions[1]) + 0.1 * (decisions[2] + decisions[3])
    assert float(found) == pytest.approx(weighted / 2)  # summed over codes, mean of two notes


def random_case(seed=0, shape=(5, 7)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    targets = (torch.rand(shape, generator=generator) < 0.3).double()
    return logits, targets


def test_gamma_zero_is_alpha_times_cross_entropy():
    logits, targets = random_case()
    reference = F.binary_cross_entropy_with_logits(logits, targets)
    assert torch.allclose(focal_loss(logits, targets, alpha=0.3, gamma=0.0), 0.3 * reference)
    assert torch.allclose(bce_loss(logits, targets), reference)


def test_paper_with_half_and_zero_is_half_the_summed_cross_entropy():
    logits, targets = random_case()
    found = focal_loss(logits, targets, alpha=0.5, gamma=0.0, reading="paper")
    assert torch.allclose(found, 0.5 * bce_loss(logits, targets, reduction="sum_codes"))


@pytest.mark.parametrize("reading", ["released", "paper"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_agrees_with_the_naive_formula(reading, gamma):
    logits, targets = random_case(1)
    p = torch.sigmoid(logits)
    pt = torch.where(targets > 0, p, 1 - p)
    weight = 0.9 if reading == "released" else 0.1 + 0.8 * targets
    naive = weight * (1 - pt) ** gamma * -pt.log()
    found = focal_loss(logits, targets, alpha=0.9, gamma=gamma, reading=reading, reduction="none")
    assert torch.allclose(found, naive, rtol=1e-10)


@pytest.mark.parametrize("prevalence", [0.0002, 0.001, 0.005])
def test_eq_16_crosses_one_half_where_the_truth_is_one_minus_alpha(prevalence):
    # The derivative at p = 1/2 of the expected loss has the sign of (1 - alpha) - prevalence.
    for gamma in (0.0, 2.0, 4.0):
        logit = torch.zeros(1, 1, requires_grad=True, dtype=torch.float64)
        losses = [
            focal_loss(logit, torch.tensor([[y]]), alpha=0.999, gamma=gamma, reading="paper")
            for y in (1.0, 0.0)
        ]
        (prevalence * losses[0] + (1 - prevalence) * losses[1]).backward()
        slope = float(logit.grad)
        if prevalence == 0.001:
            assert abs(slope) < 1e-15
        else:
            assert math.copysign(1, slope) == math.copysign(1, 0.001 - prevalence)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_extreme_logits_give_finite_losses_and_gradients(gamma):
    logits = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    for targets in (torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]])):
        logits.grad = None
        loss = focal_loss(logits, targets, gamma=gamma)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0, 4), st.floats(0.01, 4))
def test_a_larger_gamma_never_raises_the_loss(seed, gamma, more):
    logits, targets = random_case(seed, (2, 3))
    low = focal_loss(logits, targets, gamma=gamma, reduction="none")
    high = focal_loss(logits, targets, gamma=gamma + more, reduction="none")
    assert (high <= low + 1e-12).all()


def test_multitask_by_hand():
    losses = {"icd": torch.tensor(2.0), "ccs": torch.tensor(4.0), "third": torch.tensor(1.0)}
    assert float(multitask_loss(losses, {"icd": 0.7, "ccs": 0.3})) == pytest.approx(1.4 + 1.2 + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": -1.0}, "gamma must be at least 0, but got -1.0"),
        ({"reading": "eq16"}, "reading"),
        ({"alpha": 1.0, "reading": "paper"}, r"in \(0, 1\)"),
        ({"alpha": 0.0}, "> 0"),
        ({"reduction": "sum"}, "reduction"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(MarnError, match=message):
        focal_loss(LOGITS, TARGETS, **change)


def test_bad_shapes_and_tasks():
    with pytest.raises(MarnError, match=r"\(2, 2\) and \(2,\)"):
        focal_loss(LOGITS, TARGETS[0])
    with pytest.raises(MarnError, match="at least one task"):
        multitask_loss({}, {})
    with pytest.raises(MarnError, match=r"\['css'\]"):
        multitask_loss({"ccs": torch.tensor(1.0)}, {"css": 1})
