"""Systems that look for phrases: those that coders marked, and the titles of the codes."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from marn.corpus import Corpus
from marn.corpus.text import WORD
from marn.errors import MarnError
from marn.readers.base import Logits, TextSystem, as_bytes, from_bytes, log_odds, training_notes

_LONGEST = 10
"""Maximum number of words of a phrase; longer ones hardly ever occur twice."""
_UNSAID = 5.0
"""Amount that a code's log odds are lowered by if none of its phrases is found."""


def plain_words(text: str, stem: int | None = None) -> tuple[list[str], NDArray[np.int64]]:
    """Split a text into words and numbers, in lower case and without accents.

    Args:
        text: the text.
        stem: number of letters that are kept of a word; all by default.

    Returns:
        The n words, and where they are in the text: (n, 2) int64, the index of each word's first
        character and of the one after its last.

    Example:
        >>> plain_words("Fiebre, náuseas", stem=4)[0]
        ['fieb', 'naus']
    """
    found = list(WORD.finditer(text))
    words = [_without_accents(match.group().lower()) for match in found]
    spans = np.array([match.span() for match in found], np.int64).reshape(-1, 2)
    return [word[:stem] for word in words], spans


@lru_cache(maxsize=1 << 16)
def _without_accents(word: str) -> str:
    letters = unicodedata.normalize("NFD", word)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _phrases(words: Sequence[str]) -> Iterator[str]:
    """Yield every sequence of up to `_LONGEST` words, each time that it occurs."""
    for size in range(1, _LONGEST + 1):
        for start in range(len(words) - size + 1):
            yield " ".join(words[start : start + size])


class PhraseDictionary(TextSystem):
    """Look for the phrases that coders marked in the training notes.

    If a phrase was marked h times for a code and occurs n times in the notes with marks, it gives
    the code a probability of h / (n + 1); the highest one among a note's phrases counts. Categories
    (task "ccs") get the phrases of their codes, other tasks none.

    Args:
        stem: number of letters of a word that are compared, so that endings do not matter; all by
            default.
        **shared: see `TextSystem`.

    References:
        A look-up of the training annotations, as the leading systems of the CodiEsp task use them
        (Miranda-Escalada et al. 2020).
    """

    name = "dictionary"

    def __init__(self, *, stem: int | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        self.stem = stem

    def fit(self, corpus: Corpus, notes: NDArray[np.int64] | None = None) -> Self:
        """Collect the phrases, see `TextSystem.fit`.

        Raises:
            MarnError: the corpus marks no phrases.
        """
        places, train = training_notes(corpus, notes), corpus["train"]
        marked: dict[str, Counter[int]] = defaultdict(Counter)
        texts = []
        for note in map(int, places):
            passages = train.evidence(note)
            if not passages:  # no coder marked it; MDACE has few of MIMIC's notes
                continue
            words, spans = plain_words(train.text(note), self.stem)
            texts.append(words)
            for passage in passages:
                if passage.role == "evidence":
                    first = np.searchsorted(spans[:, 1], passage.begin, "right")
                    last = np.searchsorted(spans[:, 0], passage.end, "left")
                    if 0 < last - first <= _LONGEST:
                        marked[" ".join(words[first:last])][passage.code] += 1
        if not marked:
            raise MarnError(
                f"corpus {corpus.name!r} marks no phrases in its training notes; choose another "
                "system, or a source with evidence"
            )
        occurring = Counter(p for words in texts for p in _phrases(words) if p in marked)
        scores = {
            phrase: {
                str(code): hits / (max(occurring[phrase], hits) + 1) for code, hits in x.items()
            }
            for phrase, x in marked.items()
        }
        self.arrays = {"phrases": as_bytes(scores)}
        for task in self.tasks:
            count = train.targets(task)[places].sum(axis=0)
            self.arrays[f"{task}.odds"] = log_odds(count, len(places))
            columns = np.arange(corpus.tasks["icd"]) if task == "icd" else None
            if task == "ccs" and "icd" in corpus.tasks:
                columns = corpus.parent
            self.arrays[f"{task}.columns"] = np.array([] if columns is None else columns, np.int64)
        return self

    def logits(self, texts: Sequence[str]) -> Logits:
        """Score texts, see `TextSystem.logits`."""
        phrases = from_bytes(self.arrays["phrases"])
        found = {task: np.zeros((len(texts), codes)) for task, codes in self.tasks.items()}
        for row, text in enumerate(texts):
            words = plain_words(text, self.stem)[0]
            for phrase in {p for p in _phrases(words) if p in phrases}:
                for code, score in phrases[phrase].items():
                    for task, best in found.items():
                        columns = self.arrays[f"{task}.columns"]
                        column = columns[int(code)] if len(columns) else -1
                        if column >= 0:
                            best[row, column] = max(best[row, column], score)
        logits = {}
        for task, best in found.items():
            said = np.log(best.clip(min=1e-9) / (1 - best))
            unsaid = self.arrays[f"{task}.odds"] - _UNSAID
            logits[task] = np.where(best > 0, said, unsaid).astype(np.float32)
        return logits


class TitleMatch(TextSystem):
    """Look for the words of the codes' titles; only the rarity of words is learnt.

    A code's score is the share of its title's words, weighted by IDF, that occur in one window of
    the note; the best window counts. A code that no training note has can therefore be found.

    Args:
        stem: number of letters of a word that are compared.
        spread: length of a window, in words.
        **shared: see `TextSystem`.

    References:
        String matching with the code book, as in the dictionary systems of the CodiEsp task
        (Miranda-Escalada et al. 2020); IDF after Spärck Jones 1972.
    """

    name = "titles"

    def __init__(self, *, stem: int = 6, spread: int = 12, **shared: Any) -> None:
        super().__init__(**shared)
        self.stem, self.spread = stem, spread

    def fit(self, corpus: Corpus, notes: NDArray[np.int64] | None = None) -> Self:
        """Read the titles, and count the notes that have each word; see `TextSystem.fit`."""
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        places, train = training_notes(corpus, notes), corpus["train"]
        stops = {word[: self.stem] for word in ENGLISH_STOP_WORDS} | {"unspec"[: self.stem]}
        titles = {
            task: [
                set(plain_words(code.title, self.stem)[0]) - stops for code in corpus.codes[task]
            ]
            for task in self.tasks
        }
        words = sorted({word for some in titles.values() for title in some for word in title})
        having = Counter(
            word for i in places for word in set(plain_words(train.text(int(i)), self.stem)[0])
        )
        idf = np.log((len(places) + 1) / (np.array([having[word] for word in words]) + 1)) + 0.1
        place = {word: number for number, word in enumerate(words)}
        self.arrays = {"words": as_bytes(words), "idf": idf}
        for task, some in titles.items():
            sizes = [len(title) for title in some]
            columns = [place[word] for title in some for word in sorted(title)]
            self.arrays[f"{task}.words"] = np.array(columns, np.int64)
            self.arrays[f"{task}.ends"] = np.cumsum([0, *sizes]).astype(np.int64)
        return self

    def logits(self, texts: Sequence[str]) -> Logits:
        """Score texts, see `TextSystem.logits`."""
        place = {word: i for i, word in enumerate(from_bytes(self.arrays["words"]))}
        idf, shares = self.arrays["idf"], {}
        for task in self.tasks:
            columns, ends = self.arrays[f"{task}.words"], self.arrays[f"{task}.ends"]
            titles = sparse.csr_matrix((idf[columns], columns, ends), (len(ends) - 1, len(idf)))
            total = np.asarray(titles.sum(axis=1)).ravel().clip(min=1e-9)  # (C,)
            shares[task] = sparse.diags(1 / total) @ titles  # (C, words)
        logits = {task: np.zeros((len(texts), c), np.float32) for task, c in self.tasks.items()}
        for row, text in enumerate(texts):
            found = [
                (i, place[w]) for i, w in enumerate(plain_words(text, self.stem)[0]) if w in place
            ]
            windows = self._windows(found, len(idf))
            for task, share in shares.items():
                best = (windows @ share.T).max(axis=0).toarray()[0] if windows.shape[0] else 0.0
                logits[task][row] = _STEEP_TITLE * (best - 0.75)
        return logits

    def _windows(self, found: list[tuple[int, int]], size: int) -> sparse.csr_matrix:
        """Mark the title words in the window that begins at each one found: (n, size), 0 or 1."""
        rows, columns = [], []
        for start, (begin, _) in enumerate(found):
            mine = set()
            for position, word in found[start:]:
                if position >= begin + self.spread:
                    break
                mine.add(word)
            rows += [start] * len(mine)
            columns += sorted(mine)
        return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(found), size))


_STEEP_TITLE = 8.0
"""Logits between a title without and with all its words; three quarters of its weight give 0."""
