"""Learn word vectors for a corpus from its notes, with word2vec.

The models decide how to use them (frozen or not, with which dropout).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from marn.corpus.text import PAD, Vocabulary

WINDOW = 5
NEGATIVE = 5

_SENTENCE = 10_000  # gensim reads no further into a sentence, so a longer note is cut into pieces
_UNKNOWN = "<unknown>"


class _Sentences:
    """Iterate over the notes as lists of words, any number of times."""

    def __init__(self, notes: Callable[[], Iterable[np.ndarray]], names: np.ndarray) -> None:
        self._notes, self._names = notes, names

    def __iter__(self) -> Iterator[list[str]]:
        for tokens in self._notes():
            for begin in range(0, len(tokens), _SENTENCE):
                yield self._names[tokens[begin : begin + _SENTENCE]].tolist()


def word2vec(
    notes: Callable[[], Iterable[np.ndarray]],
    vocabulary: Vocabulary,
    *,
    width: int = 100,
    epochs: int = 5,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Learn word vectors from notes: CBOW, window 5, 5 negative samples.

    Every word of the vocabulary gets a vector, however rare. Other words keep their place in the
    windows as a single word, whose vector is not used.

    Args:
        notes: returns the notes, each (T,) int, with at least one word in all; called once for
            counting and once for each pass.
        vocabulary: the V words that the notes are encoded with.
        width: E, components of a vector.
        epochs: passes over the notes.
        seed: seed of gensim and of the random vectors.
        progress: takes a line about each pass.

    Returns:
        (V + 2, E) float32. Row 0 (padding) is zero; every other row has length one. Row V + 1
        (unknown words) is drawn uniformly from [-sqrt(3/E), sqrt(3/E)], then scaled to length one.

    References:
        Settings: those of CAML's and MARN's released code (gensim's defaults; size 100, five
        passes, no minimum count). The unknown row is MARN's and MT-RAM's reading; CAML draws it
        from a Gaussian. By default, `data_prep` learns from the training notes alone; the papers'
        word2vec also saw the test notes.
    """
    counts = np.zeros(len(vocabulary), dtype=np.int64)
    for tokens in notes():
        counts += np.bincount(tokens, minlength=len(vocabulary))
    names = np.array(["", *vocabulary.words, _UNKNOWN], dtype=object)
    learned = _learn(_Sentences(notes, names), names, counts, width, epochs, seed, progress)
    vectors = np.zeros((len(vocabulary), width), dtype=np.float32)
    generator = np.random.default_rng(seed)
    bound = np.sqrt(3 / width)
    vectors[vocabulary.unknown] = generator.uniform(-bound, bound, width)
    for number, word in enumerate(vocabulary.words, start=1):
        if counts[number]:
            vectors[number] = learned[word]
        else:  # the word is in none of these notes: the same rule as for an unknown word
            vectors[number] = generator.uniform(-bound, bound, width)
    vectors[PAD + 1 :] /= np.linalg.norm(vectors[PAD + 1 :], axis=1, keepdims=True)
    return vectors


def _learn(
    sentences: _Sentences,
    names: np.ndarray,
    counts: np.ndarray,
    width: int,
    epochs: int,
    seed: int,
    progress: Callable[[str], None] | None,
) -> Mapping[str, np.ndarray]:
    """Return gensim's vectors of the words that have a count."""
    # Imported here because it takes half a second and 100 MB.
    from gensim.models import Word2Vec
    from gensim.models.callbacks import CallbackAny2Vec

    class Report(CallbackAny2Vec):
        done = 0

        def on_epoch_end(self, _: Word2Vec) -> None:
            self.done += 1
            if progress is not None:
                progress(f"word2vec: pass {self.done} of {epochs}")

    model = Word2Vec(
        sg=0,
        vector_size=width,
        window=WINDOW,
        negative=NEGATIVE,
        min_count=0,
        seed=seed,
        workers=1,  # with more, the result depends on their timing
    )
    model.build_vocab_from_freq(
        {names[word]: int(count) for word, count in enumerate(counts) if word != PAD and count},
        corpus_count=0,
    )
    model.train(sentences, total_words=int(counts.sum()), epochs=epochs, callbacks=[Report()])
    vectors: Mapping[str, np.ndarray] = model.wv
    return vectors
