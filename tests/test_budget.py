import math

import pytest
import torch
from toys import SYSTEM_SIZES, toy_corpus

from marn import MarnError, TrainConfig, build
from marn.train import budget
from marn.train import loop as module

CONFIG = TrainConfig(batch_size=8, device="cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("toy") / "corpus")


def small(corpus, name="marn"):
    return build(name, corpus, embedding_size=12, **SYSTEM_SIZES[name])


def test_an_epoch_is_reckoned_from_the_tokens_of_steps(corpus, monkeypatch):
    model = small(corpus)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lengths = corpus["train"].lengths
    # A step takes one second for each padded token, so an epoch takes as many as it has.
    monkeypatch.setattr(
        budget, "_seconds", lambda step, notes: float(len(notes) * lengths[notes].max())
    )
    state = torch.random.get_rng_state()
    found = budget.estimate(model, corpus, CONFIG)
    order = module.batches_of(corpus["train"], model, CONFIG, 1)
    tokens = sum(len(notes) * lengths[notes].max() for notes in order)
    assert found.seconds == pytest.approx(tokens)
    assert found.steps == 3
    assert found.notes_per_second == pytest.approx(24 / tokens)
    assert found.fits
    assert found.largest is None
    assert 50 < found.memory_mb < found.free_mb
    assert "an epoch of 3 steps" in str(found)
    # The model and the caller's random state are left alone.
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_largest_step_comes_first(corpus, monkeypatch):
    real, seen = module._backward, []

    def watching(fabric, model, train, notes, config, parts):
        seen.append(train.lengths[notes].max())
        return real(fabric, model, train, notes, config, parts)

    monkeypatch.setattr(module, "_backward", watching)
    budget.estimate(small(corpus), corpus, CONFIG)
    assert seen[0] == corpus["train"].lengths.max()
    assert len(seen) == 1 + 3


@pytest.mark.parametrize(("room", "says"), [(5, "batch_size=4 fits, or accumulate=2"), (0, "one")])
def test_what_does_not_fit_is_told_before_training(corpus, monkeypatch, room, says):
    real = module._backward

    def refusing(fabric, model, train, notes, config, parts):
        if len(notes) > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(fabric, model, train, notes, config, parts)

    monkeypatch.setattr(module, "_backward", refusing)
    found = budget.estimate(small(corpus), corpus, CONFIG)
    assert not found.fits
    assert math.isnan(found.seconds)
    assert found.largest == (4 if room else None)
    assert "batches of 8 do not fit" in str(found)
    assert says in str(found)


def test_bad_input(corpus):
    with pytest.raises(MarnError, match="tasks are"):
        budget.estimate(small(corpus), corpus.only("icd"))
