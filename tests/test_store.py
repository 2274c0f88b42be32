"""Notes on disk: any number of processes gives the same corpus, and a dying one is reported."""

import os
import signal
from collections import Counter

import numpy as np
import pytest

from data_prep import store
from data_prep.store import Note, Store
from marn.errors import MarnError
from marn.text import tokenize


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


def _taken(tmp_path, workers):
    dropped, lines = Counter(), []
    with Store(tmp_path / "scratch", workers) as made:
        made.read(_notes(), dropped, lines.append)
        found = {
            id_: (
                [made.words[number] for number in made.tokens(admission)],
                made.text(admission).decode(),
                admission.subject,
                [piece.key for piece in admission.pieces],
                (admission.tokens, admission.bytes),
            )
            for id_, admission in made.admissions.items()
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
        words, text, subject, keys, sizes = found[str(number)]
        assert text == "\n".join(texts)
        assert words == tokenize(text)
        assert subject == str(number // 2)
        assert keys == [f"k{2 * number + 1}", f"k{2 * number}"]
        assert sizes == (len(words), len(text.encode()))
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
        made.read(_notes(), Counter(), lambda line: None)
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
        made.read(notes(), Counter(), lambda line: None)
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
        made.read(notes(), Counter(), lambda line: None)
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
        made.read(notes(), Counter(), lambda line: None)


def test_what_a_process_died_of_is_raised_by_the_next_chunk(tmp_path):
    (tmp_path / "text").write_bytes(b"fever")
    (tmp_path / "tokens").mkdir()  # so that it cannot open its file
    process = store._Process(1, tmp_path / "text", tmp_path / "tokens")
    process._process.join()
    with pytest.raises(IsADirectoryError):
        process.give(store._Chunk(0, np.array([5]), []))
    process.close()


def test_usual_workers():
    assert 1 <= store.usual_workers() <= store.MOST_WORKERS
