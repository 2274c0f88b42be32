"""Word vectors: shape, lengths, determinism, and that they learn which words occur together."""

import numpy as np
import pytest

from data_prep.word_vectors import word2vec
from marn.corpus.text import Vocabulary

VOCABULARY = Vocabulary([f"w{number}" for number in range(8)] + ["x_never"])


def _notes():
    """Two topics: a note draws its words from 1-4 or from 5-8, and now and then an unknown."""
    generator = np.random.default_rng(0)
    notes = []
    for number in range(400):
        words = generator.integers(1, 5, 30) + 4 * (number % 2)
        words[::15] = VOCABULARY.unknown
        notes.append(words.astype(np.int32))
    return notes


@pytest.fixture(scope="module")
def vectors():
    return word2vec(_notes, VOCABULARY, width=16)


def test_shape_and_lengths(vectors):
    assert vectors.shape == (11, 16)
    assert vectors.dtype == np.float32
    assert not vectors[0].any()
    assert np.linalg.norm(vectors[1:], axis=1) == pytest.approx(1, abs=1e-6)


def test_words_of_one_topic_stand_together(vectors):
    likeness = vectors[1:9] @ vectors[1:9].T
    topic = np.arange(8) // 4
    within = likeness[topic[:, None] == topic]
    across = likeness[topic[:, None] != topic]
    assert within.mean() > across.mean() + 0.2


def test_unknown_row_is_drawn_and_not_learned(vectors):
    # The first draw of a generator of the same seed, scaled to length one.
    drawn = np.random.default_rng(0).uniform(-1, 1, 16)
    assert vectors[VOCABULARY.unknown] == pytest.approx(drawn / np.linalg.norm(drawn), abs=1e-6)


def test_same_seed_same_vectors(vectors):
    assert np.array_equal(word2vec(_notes, VOCABULARY, width=16), vectors)
    assert not np.array_equal(word2vec(_notes, VOCABULARY, width=16, seed=1), vectors)


def test_notes_longer_than_gensim_reads_count_in_full():
    # The second word occurs only behind the 10,000 tokens that gensim takes of a sentence.
    vocabulary = Vocabulary(["a", "b", "c"])
    note = np.array([1] * 10_000 + [2, 3] * 3000, dtype=np.int32)
    lines = []
    long = word2vec(lambda: [note], vocabulary, width=4, epochs=2, progress=lines.append)
    cut = word2vec(lambda: [note[:10_000], note[10_000:]], vocabulary, width=4, epochs=2)
    assert np.array_equal(long, cut)
    assert lines == ["word2vec: pass 1 of 2", "word2vec: pass 2 of 2"]
