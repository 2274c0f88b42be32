"""Notes on disk: any number of processes gives the same corpus, and a dying one is reported."""

import hashlib
import os
import signal
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from data_prep import store
from data_prep.store import Note, Store
from marn.corpus.text import tokenize
from marn.errors import MarnError


def _notes(count=40):
    generator = np.random.default_rng(3)
    for number in range(count):
        words = [f"w{word}" for word in generator.zipf(1.5, 30) if word < 500]
        text = " ".join([*words, "é" * (number % 3 == 0), str(number)])
        yield Note(str(number // 2), str(number // 4), text, ("", -number), f"k{number}")
    yield Note("900", "900", "12 -- 13")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(store, "CHUNK_NOTES", 3)


def _read(made, notes):
    with made.read(notes, Counter(), lambda line: None):
        pass


def _texts(made, tmp_path):
    """Write all texts and read them back."""
    folder = tmp_path / "split"
    with made.texts({folder: list(made.admissions.values())}) as written:
        pass
    data = (folder / "text.npy").read_bytes()
    assert written == {
        folder / "text.npy": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    }
    data = np.load(folder / "text.npy").tobytes()
    return [
        data[begin:end].decode() for begin, end in pairwise(np.load(folder / "text_offsets.npy"))
    ]


def _taken(tmp_path, workers):
    dropped, lines = Counter(), []
    with Store(tmp_path / "scratch", workers) as made:
        with made.read(_notes(), dropped, lines.append):
            pass
        found = {
            id_: (
                [made.words[number] for number in made.tokens(admission)],
                text,
                admission.subject,
                [piece.key for piece in admission.pieces],
                admission.tokens,
            )
            for (id_, admission), text in zip(
                made.admissions.items(), _texts(made, tmp_path), strict=True
            )
        }
        vocabulary = made.settle(list(found), 2)
        for id_, admission in made.admissions.items():
            assert made.tokens(admission).tolist() == vocabulary.encode(found[id_][0]).tolist()
    assert not (tmp_path / "scratch").exists()
    assert lines[-1].startswith("notes: 40 of 20 admissions, ")
    return found, vocabulary.words, dropped


def test_against_the_plain_rule(tmp_path, small_chunks):
    found, vocabulary, dropped = _taken(tmp_path, 1)
    notes = list(_notes())
    frequency = Counter()
    for number in range(20):
        texts = [notes[2 * number + 1].text, notes[2 * number].text]  # later rows come first
        words, text, subject, keys, tokens = found[str(number)]
        assert text == "\n".join(texts)
        assert words == tokenize(text)
        assert subject == str(number // 2)
        assert keys == [f"k{2 * number + 1}", f"k{2 * number}"]
        assert tokens == len(words)
        frequency.update(set(words))
    assert vocabulary == sorted(word for word, count in frequency.items() if count >= 2)
    assert dropped == {"notes without a word": 1}


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes(tmp_path, small_chunks, workers):
    assert _taken(tmp_path / "a", workers) == _taken(tmp_path / "b", 1)


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()


def _of_process(made):
    return made._processes[0]._process.pid


def test_a_small_source_starts_no_process(tmp_path):
    with Store(tmp_path / "scratch", 4) as made:
        _read(made, _notes())
        assert made.words
        assert not (tmp_path / "scratch" / "tokens.1").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_dies_is_reported(tmp_path, small_chunks, number):
    made = Store(tmp_path / "scratch", 2)

    def notes():
        for place, note in enumerate(_notes()):
            if place == 20:
                os.kill(_of_process(made), number)
            yield note

    with pytest.raises(MarnError, match=r"has died.*--workers 1"), made:
        _read(made, notes())
    assert not (tmp_path / "scratch").exists()


def test_the_processes_end_with_the_store(tmp_path, small_chunks):
    made = Store(tmp_path / "scratch", 3)
    processes = []

    def notes():
        for place, note in enumerate(_notes()):
            if place == 20:
                processes.extend(process._process for process in made._processes)
                raise KeyboardInterrupt
            yield note

    with pytest.raises(KeyboardInterrupt), made:
        _read(made, notes())
    assert len(processes) == 2
    assert not any(process.is_alive() for process in processes)


def test_a_full_disk_in_a_process_is_raised_here(tmp_path, small_chunks):
    made = Store(tmp_path / "scratch", 2)

    def notes():
        for place, note in enumerate(_notes()):
            if place == 2:  # before the first chunk: the process cannot open its file
                made._tokens_path(1).mkdir()
            yield note

    with pytest.raises(IsADirectoryError), made:
        _read(made, notes())


def test_what_a_process_died_of_is_raised_by_the_next_chunk(tmp_path):
    (tmp_path / "text").write_bytes(b"fever")
    (tmp_path / "tokens").mkdir()  # so that it cannot open its file
    process = store._Process(1, tmp_path / "text", tmp_path / "tokens")
    process._process.join()
    with pytest.raises(IsADirectoryError):
        process.give(store._Chunk(store._Span(0, np.array([5])), []))
    process.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_under_the_texts_is_raised_here(tmp_path, small_chunks, workers):
    (tmp_path / "split").write_text("no folder")
    with Store(tmp_path / "scratch", workers) as made:
        _read(made, _notes())
        assert len(made._processes) == workers - 1
        with (
            pytest.raises(FileExistsError),
            made.texts({tmp_path / "split": list(made.admissions.values())}),
        ):
            pass


def test_what_fails_beside_the_texts_is_raised_and_ends_the_process(tmp_path, small_chunks):
    processes = []

    def interrupted():
        with Store(tmp_path / "scratch", 2) as made:
            _read(made, _notes())
            processes.append(made._processes[0]._process)
            with made.texts({tmp_path / "split": list(made.admissions.values())}):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not processes[0].is_alive()


def test_words_of_more_notes_than_a_byte_can_count(tmp_path):
    # "both" is in 600 notes, "even" in 300, twice in each.
    notes = [
        Note(str(number), str(number), "both even even" if number % 2 == 0 else "both")
        for number in range(600)
    ]
    for least, kept in ((300, ["both", "even"]), (301, ["both"]), (600, ["both"])):
        with Store(tmp_path / "scratch") as made:
            _read(made, notes)
            assert made.settle(list(made.admissions), least).words == kept
    with Store(tmp_path / "scratch") as made:
        _read(made, notes)
        with pytest.raises(MarnError, match="No word occurs in 601 training notes"):
            made.settle(list(made.admissions), 601)


def test_a_process_is_given_what_can_be_said_without_waiting(tmp_path, monkeypatch):
    (tmp_path / "text").write_bytes(b"")
    monkeypatch.setattr(store, "_NOTES_AHEAD", 10)
    monkeypatch.setattr(store, "_AHEAD", 100)
    process = store._Process(1, tmp_path / "text", tmp_path / "tokens")
    few, many = (
        store._Chunk(store._Span(0, np.zeros(count, np.int64)), [None] * count) for count in (1, 5)
    )
    for _ in range(2):
        assert process.has_room_for(many)
        process.give(many)
    assert not process.has_room_for(few)  # eleven notes
    assert process.take()[0] == many
    assert process.has_room_for(few)
    while process.has_room_for(few):
        process.give(few)
    assert [len(chunk.entries) for chunk in process.under_way] == [5, 1, 1, 1, 1, 1]
    monkeypatch.setattr(store, "_AHEAD", 7)
    monkeypatch.setattr(store, "_NOTES_AHEAD", 100)
    assert process.has_room_for(many)
    process.give(many)
    assert not process.has_room_for(few)  # seven chunks
    process.close()


def test_usual_workers():
    assert 1 <= store.usual_workers() <= store.MOST_WORKERS
