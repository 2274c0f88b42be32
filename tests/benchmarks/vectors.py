"""Word vectors from notes kept as numbers, against gensim's own two ways from a file of text.

One worker, as `data_prep` asks for, so that a seed gives the same vectors again. The file is
written beforehand, which is not counted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Bar, agree, interleaved
from benchmarks.made_up import WORDS, note_lengths
from data_prep.word_vectors import NEGATIVE, WINDOW, word2vec
from marn.corpus.text import Vocabulary

BARS: list[Bar] = []  # learning takes nearly all of the time, however the words come
WIDTH = 100


def measure(*, quick: bool) -> dict[str, float]:
    """Measure the speed against gensim's `corpus_file` and its reader of lines, and words/s."""
    from gensim.models import Word2Vec
    from gensim.models.word2vec import LineSentence

    rng = np.random.default_rng(0)
    words, epochs = (500, 1) if quick else (WORDS, 2)
    lengths = note_lengths(10 if quick else 700)
    chance = 1 / np.arange(1, words + 1)  # Zipf's law
    notes = [rng.choice(words, n, p=chance / chance.sum()).astype(np.int32) + 1 for n in lengths]
    vocabulary = Vocabulary([f"w{number:05d}" for number in range(words)])
    names = np.array(["", *vocabulary.words], dtype=object)
    options: dict[str, Any] = {
        "vector_size": WIDTH,
        "window": WINDOW,
        "negative": NEGATIVE,
        "min_count": 0,
        "workers": 1,
        "epochs": epochs,
    }
    learned: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.txt"
        path.write_text("".join(" ".join(names[note]) + "\n" for note in notes))

        def ours() -> None:
            learned["ours"] = word2vec(lambda: notes, vocabulary, width=WIDTH, epochs=epochs)

        def file() -> None:
            learned["file"] = Word2Vec(corpus_file=str(path), **options)

        def lines() -> None:
            learned["lines"] = Word2Vec(LineSentence(str(path)), **options)

        taken = interleaved({"ours": ours, "file": file, "lines": lines})
    counts = np.bincount(np.concatenate(notes), minlength=words + 1)[1:]
    for side in ("file", "lines"):
        vectors = learned[side].wv
        found = [
            vectors.get_vecattr(name, "count") if name in vectors else 0
            for name in vocabulary.words
        ]
        agree(f"words of {side}", counts, found, 0)
    agree("vectors", np.linalg.norm(learned["ours"][1:], axis=1), np.ones(words + 1), 1e-5)
    return {
        "against_file": taken["file"] / taken["ours"],
        "against_lines": taken["lines"] / taken["ours"],
        "words_per_second": epochs * float(counts.sum()) / taken["ours"],
        "seconds": taken["ours"],
        "words": float(counts.sum()),
    }
