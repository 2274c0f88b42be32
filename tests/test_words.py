"""Numbers of words by the table in arrays are those of the plain rule, one word after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import words
from data_prep.words import Words
from marn.corpus.text import tokenize

_TEXT = st.text(
    st.one_of(st.sampled_from(" ab_17.-\n\x00\x7fAZé²٣"), st.characters(exclude_categories=["Cs"])),
    max_size=60,
)


def _told(numbering, notes):
    ids, counts = numbering.number([note.encode() for note in notes])
    assert ids.dtype == np.int32
    assert counts.sum() == len(ids)
    ends = np.cumsum(counts).tolist()
    return [
        [numbering.words[number] for number in ids[end - count : end]]
        for end, count in zip(ends, counts.tolist(), strict=True)
    ]


def test_by_hand():
    numbering = Words()
    ids, counts = numbering.number([b"Fever, 40 mg", b"", b"q8h FEVER 12", "née mg".encode()])
    # fever 0, mg 1; nothing; q8h 2, fever 0; née 3, mg 1. 40 and 12 are numbers.
    assert ids.tolist() == [0, 1, 2, 0, 3, 1]
    assert counts.tolist() == [2, 0, 2, 2]
    assert numbering.words == ["fever", "mg", "q8h", "née"]
    assert numbering.number([b"mg 40"])[0].tolist() == [1]
    assert numbering.number([])[0].tolist() == []


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 300])
def test_words_of_every_width_at_the_very_end(length):
    word = "abcdefgh" * 40
    assert _told(Words(), [word[:length], "x " + word[:length]]) == [
        [word[:length]],
        ["x", word[:length]],
    ]


def test_words_that_differ_in_one_byte_are_kept_apart():
    notes = [f"{'a' * place}b{'a' * (15 - place)}" for place in range(16)]
    numbering = Words()
    assert _told(numbering, notes * 2) == [[note] for note in notes * 2]
    assert len(numbering.words) == 16


@settings(max_examples=150, deadline=None)
@given(rounds=st.lists(st.lists(_TEXT, max_size=5), min_size=1, max_size=4))
def test_equal_to_the_plain_rule(rounds):
    numbering = Words()
    for notes in rounds:
        assert _told(numbering, notes) == [tokenize(note) for note in notes]
    assert len(set(numbering.words)) == len(numbering.words)


@pytest.mark.parametrize("block", [1, 1000])
def test_a_table_that_grows_and_collides(monkeypatch, block):
    monkeypatch.setattr(words, "_FIRST_SLOTS", 4)
    monkeypatch.setattr(words, "_BLOCK", block)
    generator = np.random.default_rng(0)
    notes = [
        " ".join(f"w{number:x}" for number in generator.integers(0, 5000, 200)) for _ in range(60)
    ]
    numbering = Words()
    assert _told(numbering, notes) == [tokenize(note) for note in notes]
    assert _told(numbering, notes[::-1]) == [tokenize(note) for note in notes[::-1]]


def test_where_all_pairs_want_one_slot(monkeypatch):
    monkeypatch.setattr(words, "_MIX", np.uint64(0))
    notes = [" ".join(f"w{number}" for number in range(200))] * 2
    assert _told(Words(), notes) == [tokenize(note) for note in notes]
