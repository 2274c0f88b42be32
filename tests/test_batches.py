import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_corpus

from marn.corpus.batches import collate, reading_order, training_order


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("toy") / "corpus")["train"]


def test_collate_pads_cuts_and_marks(split):
    notes = np.array([3, 0, 5])
    batch = collate(split, notes, {"icd": 4}, max_length=6)
    assert list(batch.targets) == ["icd"]
    for row, note in enumerate(notes):
        words = split.note_tokens(note)[:6]
        assert batch.lengths[row] == len(words)
        assert batch.tokens[row, : len(words)].tolist() == words.tolist()
        assert not batch.tokens[row, len(words) :].any()
        assert batch.targets["icd"][row].nonzero()[:, 0].tolist() == list(
            split.code_indices("icd", note)
        )
    assert batch.tokens.shape[1] == batch.lengths.max() <= 6


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 7), st.integers(1, 4))
def test_each_note_once(lengths, batch_size, pool):
    for order in (
        training_order(lengths, batch_size, seed=1, epoch=2, pool=pool),
        reading_order(lengths, batch_size),
    ):
        assert sorted(np.concatenate(order)) == list(range(len(lengths)))
        assert max(map(len, order)) <= batch_size
        assert len(order) <= -(-len(lengths) // batch_size) + 1


def test_reading_order_by_hand():
    assert [x.tolist() for x in reading_order([3, 9, 1, 9], 2)] == [[1, 3], [0, 2]]


def test_training_order_depends_on_seed_and_epoch_alone():
    lengths = np.arange(1, 101)

    def flat(seed, epoch):
        return np.concatenate(training_order(lengths, 4, seed=seed, epoch=epoch)).tolist()

    assert flat(0, 1) == flat(0, 1)
    assert flat(0, 1) != flat(0, 2)
    assert flat(0, 1) != flat(1, 1)


def test_pools_save_padding_and_keep_companions_changing():
    # Lengths as MIMIC-III's: log-normal, median 1,400, cut at 4,000 (performance notes, 2d).
    lengths = np.random.default_rng(0).lognormal(np.log(1400), 0.51, 3000).clip(50, 4000)
    lengths = lengths.astype(int)

    def padded(order):
        return sum(len(b) * lengths[b].max() for b in order) / lengths.sum()

    random = padded(training_order(lengths, 16, seed=0, epoch=1, pool=1))
    pooled = padded(training_order(lengths, 16, seed=0, epoch=1))
    assert random > 1.8
    assert pooled < 1.12

    def companions(epoch):
        order = training_order(lengths, 16, seed=0, epoch=epoch)
        return next(set(b.tolist()) for b in order if 0 in b)

    assert len(companions(1) & companions(2)) < 8
