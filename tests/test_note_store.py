"""Notes on disk and the numbers of their words, held against the plain rule."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import note_store
from data_prep.note_store import Note, NoteStore, WordIndexer
from marn.corpus.text import tokenize
from marn.errors import MarnError

_TEXT = st.text(
    st.one_of(st.sampled_from(" ab_17.-\n\x00\x7fAZé²٣"), st.characters(exclude_categories=["Cs"])),
    max_size=60,
)


def _words(indexer, texts):
    numbers, counts = indexer.index(texts)
    assert numbers.dtype == np.int32
    assert counts.sum() == len(numbers)
    ends = np.cumsum(counts).tolist()
    return [
        [indexer.words[number] for number in numbers[end - count : end]]
        for end, count in zip(ends, counts.tolist(), strict=True)
    ]


def test_words_by_hand():
    indexer = WordIndexer()
    numbers, counts = indexer.index(["Fever, 40 mg", "", "q8h FEVER 12", "née mg"])
    # fever 0, mg 1; nothing; q8h 2, fever 0; née 3, mg 1. 40 and 12 are numbers.
    assert numbers.tolist() == [0, 1, 2, 0, 3, 1]
    assert counts.tolist() == [2, 0, 2, 2]
    assert indexer.words == ["fever", "mg", "q8h", "née"]
    assert indexer.index(["mg 40"])[0].tolist() == [1]
    assert indexer.index([])[0].tolist() == []


def test_words_of_any_length():
    """Every prefix of two long words, and what differs in one letter alone."""
    long = "abcdefgh" * 4, "é" + "x" * 30
    words = [word[:size] for word in long for size in range(1, 32)]
    words += [long[0][:place] + "_" + long[0][place + 1 :] for place in range(32)]
    indexer = WordIndexer()
    for _ in range(2):  # by the dictionary, then by their hashes
        assert _words(indexer, [" ".join(words)]) == [words]
    assert sorted(indexer.words) == sorted(words)


@settings(max_examples=150, deadline=None)
@given(rounds=st.lists(st.lists(_TEXT, max_size=5), min_size=1, max_size=4))
def test_words_by_the_plain_rule(rounds):
    indexer = WordIndexer()
    for texts in rounds:
        assert _words(indexer, texts) == [tokenize(text) for text in texts]
    assert len(set(indexer.words)) == len(indexer.words)


def test_words_that_want_the_same_slot(monkeypatch):
    """5,000 words in a table that begins with fewer slots, and grows to where some still meet."""
    monkeypatch.setattr(note_store, "SLOTS", 2)
    generator = np.random.default_rng(0)
    texts = [
        " ".join(f"w{number:x}" for number in generator.integers(0, 5000, 200)) for _ in range(60)
    ]
    indexer = WordIndexer()
    for some in (texts[:5], texts, texts[::-1], texts):
        assert _words(indexer, some) == [tokenize(text) for text in some]


def _notes(count=40):
    generator = np.random.default_rng(3)
    for number in range(count):
        words = [f"w{word}" for word in generator.zipf(1.5, 30) if word < 500]
        text = " ".join([*words, "é" * (number % 3 == 0), str(number)])
        yield Note(str(number // 2), str(number // 4), text, ("", -number), f"k{number}")
    yield Note("900", "900", "12 -- 13")


@pytest.fixture
def store(tmp_path):
    with NoteStore(tmp_path / "scratch") as made:
        yield made
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("batch", [1, 500, 1 << 20])
def test_against_the_plain_rule(store, monkeypatch, batch):
    monkeypatch.setattr(note_store, "BATCH_BYTES", batch)
    dropped, lines = Counter(), []
    store.read(_notes(), dropped, lines.append)
    notes = list(_notes())
    frequency = Counter()
    assert len(store.admissions) == 20
    for id_, admission in store.admissions.items():
        first, second = notes[2 * int(id_) + 1], notes[2 * int(id_)]  # later rows come first
        text = f"{first.text}\n{second.text}"
        assert store.text(admission).decode() == text
        assert [store.words[number] for number in store.tokens(admission)] == tokenize(text)
        assert admission.subject == str(int(id_) // 2)
        assert [piece.key for piece in admission.pieces] == [first.key, second.key]
        assert admission.tokens == len(tokenize(text))
        assert admission.bytes == len(text.encode())
        frequency.update(set(tokenize(text)))
    assert +dropped == {"notes without a word": 1}
    assert lines[-1].startswith("notes: 40 of 20 admissions, ")
    vocabulary = store.build_vocabulary(store.admissions.values(), 2)
    assert vocabulary.words == sorted(word for word, count in frequency.items() if count >= 2)
    for admission in store.admissions.values():
        words = tokenize(store.text(admission).decode())
        assert store.tokens(admission).tolist() == vocabulary.encode(words).tolist()


def test_admissions_are_reported_only_where_one_has_several_notes(store):
    lines = []
    store.read(
        [Note("1", "1", "cough and fever"), Note("2", "2", "fever")], Counter(), lines.append
    )
    assert lines == ["notes: 2, 4 words"]


def test_a_word_counts_once_for_a_note(store):
    # "both" is in 600 notes, "even" in 300, twice in each.
    texts = ["both even even" if number % 2 == 0 else "both" for number in range(600)]
    notes = [Note(str(number), str(number), text) for number, text in enumerate(texts)]
    store.read(notes, Counter(), lambda line: None)
    with pytest.raises(MarnError, match="no word occurs in 601 training notes"):
        store.build_vocabulary(store.admissions.values(), 601)
    assert store.build_vocabulary(store.admissions.values(), 300).words == ["both", "even"]


def test_words_in_enough_notes(store):
    notes = [Note(str(n), str(n), "both even" if n % 2 == 0 else "both") for n in range(600)]
    store.read(notes, Counter(), lambda line: None)
    assert store.build_vocabulary(store.admissions.values(), 301).words == ["both"]


def test_repeats_of_a_note_are_dropped_and_counted(store):
    notes = [
        Note("1", "70", "Fever again", ("2151-08-05", 3), "third"),
        Note("1", "70", "Fever", ("2151-08-04", 2), "second"),
        Note("1", "70", "Fever again", ("2151-08-04", 1), "first"),
        Note("1", "70", "Cough", ("2151-08-06", 4), "fourth"),  # as long as "Fever"
        Note("1", "70", " Fever\r\nagain\n", ("2151-08-07", 6), "fifth"),
        Note("2", "71", "Fever", ("2151-08-04", 5), "other"),
    ]
    dropped = Counter()
    store.read(notes, dropped, lambda line: None)
    assert [piece.key for piece in store.admissions["1"].pieces] == ["first", "second", "fourth"]
    assert store.text(store.admissions["1"]) == b"Fever again\nFever\nCough"
    assert store.text(store.admissions["2"]) == b"Fever"
    assert dropped["notes repeated within an admission"] == 2


def test_an_admission_of_two_patients(store):
    with pytest.raises(MarnError, match="admission 1 has notes of two patients, 70 and 71"):
        store.read([Note("1", "70", "a"), Note("1", "71", "b")], Counter(), lambda line: None)
