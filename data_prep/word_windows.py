"""Compare text with the notes of the credentialed corpora on this machine, by runs of words.

A run is `WINDOW` consecutive words, whatever is between them, in any case; numbers do not count.
Runs are also made of every second, third or fourth word of a text, in case other words separate
those of a note, such as labels in a list of pairs. The text is small and the corpora are large, so
the runs of the text are kept in memory and each corpus is read in pieces: memory does not grow with
the corpus, and nothing of its notes is written.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marn.errors import MarnError
from marn.settings import read_json_file

WINDOW: Final = 8
"""Number of words in a run."""
COMMON: Final = 100
"""A run that occurs this often is boilerplate, such as a list of headings, and does not count."""
_DISTINCT: Final = 4  # fewest different words in a run that counts
_APART: Final = 4  # largest step, in words of a text, between the words of a run
_AT_ONCE: Final = 256  # notes of a corpus read at once
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, of 64 bits


def card_of(folder: Path) -> dict[str, Any] | None:
    """Return the card of the corpus in a folder, or None if there is no readable card."""
    try:
        card = read_json_file(folder / "card.json")
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) and "hash" in card else None


def corpora_below(folders: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """Return the cards of the credentialed corpora in these folders, up to two levels down.

    A corpus is credentialed unless its card says that its text is open.
    """
    levels = ("card.json", "*/card.json", "*/*/card.json")
    found = [path for folder in folders for level in levels for path in folder.glob(level)]
    cards = {path.parent.resolve(): card_of(path.parent) for path in sorted(found)}
    return {place: card for place, card in cards.items() if card and card.get("text") != "open"}


def runs_of(text: str) -> NDArray[np.uint64]:
    """Hash the runs of a text, except those that repeat a few words."""
    words = _word_hashes([text])
    rows = [words[first::step] for step in range(1, _APART + 1) for first in range(step)]
    return pl.Series(np.concatenate([*map(_varied_runs, rows)])).unique().to_numpy()


def _varied_runs(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    runs = _run_hashes(words)
    if not len(runs):
        return runs
    in_order = np.sort(np.lib.stride_tricks.sliding_window_view(words, WINDOW), axis=1)
    changes = in_order[:, 1:] != in_order[:, :-1]
    return runs[changes.sum(axis=1) + 1 >= _DISTINCT]


def shared_runs(texts: Sequence[NDArray[np.uint64]], corpus: Path) -> list[int]:
    """Count the runs of each text that a note of a corpus holds too.

    Args:
        texts: the runs of each text, as `runs_of` returns them.
        corpus: its folder.

    Raises:
        MarnError: the corpus cannot be read.
    """
    wanted = pl.Series(np.concatenate([np.zeros(0, np.uint64), *texts])).unique()
    if not len(wanted):
        return [0] * len(texts)
    found = [pl.Series(dtype=pl.UInt64)]
    try:
        for notes in _notes(corpus):
            runs = pl.Series(_run_hashes(_word_hashes(notes)))
            found.append(runs.filter(runs.is_in(wanted.implode())))
    except (OSError, ValueError) as error:
        raise MarnError(
            f"the credentialed corpus {corpus} cannot be read ({type(error).__name__}), so nothing "
            "can be compared with it; make it again or remove it"
        ) from None
    counts = pl.concat(found).alias("run").value_counts()
    private = counts.filter(pl.col("count") < COMMON)["run"].to_numpy()
    return [int(np.isin(text, private).sum()) for text in texts]


def _notes(corpus: Path) -> Iterator[list[str]]:
    """Yield the texts of a corpus, a few at a time."""
    for path in sorted(corpus.glob("*/text.npy")):
        text, offsets = np.load(path, mmap_mode="r"), np.load(path.with_name("text_offsets.npy"))
        for first in range(0, len(offsets) - 1, _AT_ONCE):
            places = pairwise(offsets[first : first + _AT_ONCE + 1])
            yield [text[begin:end].tobytes().decode(errors="replace") for begin, end in places]


def _word_hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Hash each word of some texts, in order, in lower case, leaving numbers out."""
    words = pl.Series(texts, dtype=pl.String).str.to_lowercase().str.extract_all(r"[^\W_]+")
    words = words.explode().drop_nulls()
    return words.filter(~words.str.contains(r"^\d+$")).hash().to_numpy()


def _run_hashes(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash each run of `WINDOW` words: (T,) to (T - WINDOW + 1,), modulo 2**64."""
    hashes = np.zeros(max(0, len(words) - WINDOW + 1), np.uint64)
    for place in range(WINDOW):
        hashes = hashes * _FACTOR + words[place : place + len(hashes)]
    return hashes
