"""Word vectors of other programs: each form gives the same table; others are refused in a line."""

import gzip

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from toys import toy_corpus

import marn
from marn.corpus.text import Vocabulary
from marn.corpus.vectors import read_vectors
from marn.errors import MarnError

VOCABULARY = Vocabulary(["cough", "fever", "lasix", "zebra"])
KNOWN = {"fever": [3, 4, 0], "Lasix": [0, 0, 2], "of": [1, 1, 1], "cough": [-1, 0, 0]}
UNIT = {1: [-1, 0, 0], 2: [0.6, 0.8, 0], 3: [0, 0, 1]}  # by hand: scaled to length 1


@pytest.fixture
def keyed():
    vectors = KeyedVectors(3)
    vectors.add_vectors(list(KNOWN), np.array(list(KNOWN.values()), np.float32))
    return vectors


@pytest.mark.parametrize("form", ["keyed", "dict", "w.txt", "w.bin", "w.vec.gz", "glove.txt"])
def test_every_form_gives_the_same_table(tmp_path, keyed, form):
    source = {"keyed": keyed, "dict": KNOWN}.get(form, tmp_path / form)
    if form.startswith("w"):  # gensim writes them
        keyed.save_word2vec_format(str(source).removesuffix(".gz"), binary=form == "w.bin")
    if form == "w.vec.gz":
        source.write_bytes(gzip.compress((tmp_path / "w.vec").read_bytes()))
    elif form == "glove.txt":
        rows = [f"{word} {' '.join(map(str, vector))}\n" for word, vector in KNOWN.items()]
        source.write_text("".join(rows))
    table, known = read_vectors(source, VOCABULARY)
    assert (table.shape, table.dtype, known) == ((6, 3), torch.float32, 3)
    for number, vector in UNIT.items():
        assert table[number].tolist() == pytest.approx(vector)
    assert table.norm(dim=1).tolist() == pytest.approx([0, 1, 1, 1, 1, 1])
    again, other = (read_vectors(source, VOCABULARY, seed)[0] for seed in (0, 1))
    assert torch.equal(again, table)
    assert not torch.equal(other, table)


def test_a_word_in_lower_case_goes_before_one_in_capitals():
    for source in ({"FEVER": [1, 0], "fever": [0, 1]}, {"fever": [0, 1], "Fever": [1, 0]}):
        assert read_vectors(source, VOCABULARY)[0][2].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"", "not a word and its numbers"),
        ("a.txt", b"of 1 2\nand 3 4\n", "none of the words of the corpus"),
        ("a.txt", b"2 2\nfever 1 2\ncough 3\n", "not a word and its numbers"),
        ("a.txt", b"fever secret two\n", "not a word and its numbers"),
        ("a.txt", b"fever nan 1\n", "that are not numbers"),
        ("a.txt", b"fever 1 2\n" + b"x" * (1 << 21), "not a word and its numbers"),
        ("a.bin", b"", "cannot be read as word vectors"),
        ("a.bin", b"3 2\nfever 12345678", "or cut"),
        ("a.bin", b"999999999999 999999999999\nfever 12345678", "or cut"),
        ("a.bin", b"fever 1 2\n", "cannot be read as word vectors"),
        ("a.bin", b"1 -9\nfever 12345678", "cannot be read as word vectors"),
        ("a.gz", b"fever 1 2\n", "cannot be read as word vectors"),
        (None, b"", "(No such file or directory)"),
    ],
)
def test_what_is_no_form_is_one_line(tmp_path, name, data, said):
    path = tmp_path / (name or "nowhere.txt")
    if name:
        path.write_bytes(data)
    with pytest.raises(MarnError) as error:
        read_vectors(path, VOCABULARY)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_a_system_takes_them(tmp_path, keyed, capsys):
    corpus = toy_corpus(tmp_path / "corpus")
    words = {word: [0.0, 2.0] for word in corpus.vocabulary.words[:3]}
    model = marn.build("cnn", corpus, vectors=words, filters=4)
    assert model.embedding.table.weight.shape == (len(corpus.vocabulary), 2)
    assert model.embedding.table.weight[1].tolist() == [0, 1]
    assert f"vectors: 3 of {len(corpus.vocabulary.words)} words (" in capsys.readouterr().err
    table = np.ones((len(corpus.vocabulary), 2))
    assert marn.build("cnn", corpus, vectors=table).embedding.table.weight[1].tolist() == [1, 1]
    with pytest.raises(MarnError, match="need a corpus"):
        marn.build("cnn", vocabulary_size=9, tasks={"icd": 2}, vectors=words)
    with pytest.raises(MarnError, match="vectors must be a file, KeyedVectors or a tensor"):
        marn.build("cnn", corpus, vectors=5)
