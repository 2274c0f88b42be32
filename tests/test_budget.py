import time

import pytest
import torch
from toys import SYSTEM_SIZES, toy_corpus, watch_training

from marn import MarnError, TrainConfig, build
from marn.train import budget
from marn.train.step import epoch_batches

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
    clock = [0.0]

    def tick(number, tokens, logits):
        clock[0] += tokens.numel()

    watch_training(model, tick)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    state = torch.random.get_rng_state()
    found = budget.estimate(model, corpus, CONFIG)
    order = epoch_batches(corpus["train"], model, CONFIG, 1)
    tokens = sum(len(notes) * lengths[notes].max() for notes in order)
    assert found["seconds"] == pytest.approx(tokens)
    assert found["steps"] == 3
    assert found["notes_per_second"] == pytest.approx(24 / tokens)
    assert 50 < found["memory_mb"] < found["capacity_mb"]
    # The model and the caller's random state are left alone.
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_largest_step_comes_first(corpus):
    seen, model = [], small(corpus)
    watch_training(model, lambda number, tokens, logits: seen.append(tokens.shape[1]))
    budget.estimate(model, corpus, CONFIG)
    assert seen[0] == corpus["train"].lengths.max()
    assert len(seen) == 1 + 3


def test_what_does_not_fit_is_told_before_training(corpus):
    def refuse(number, tokens, logits):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MarnError, match=r"no memory for 8 notes .* choose a smaller batch_size"):
        budget.estimate(watch_training(small(corpus), refuse), corpus, CONFIG)


def test_bad_input(corpus):
    with pytest.raises(MarnError, match="tasks are"):
        budget.estimate(small(corpus), corpus.only("icd"))
