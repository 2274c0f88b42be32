"""Compare text with the notes of the credentialed corpora on this machine, by runs of words.

A run is `WINDOW` words in a row, whatever is between them, in any case; numbers do not count. The
text is small and the corpora are large, so the runs of the text are kept, and each corpus is read
past them in pieces: memory does not grow with the corpus, and nothing of its notes is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marn.errors import MarnError

__all__ = ["COMMON", "WINDOW", "card_of", "corpora_below", "runs_of", "shared_runs"]

WINDOW: Final = 8
"""Words in a run."""
COMMON: Final = 100
"""A run that occurs as often is nobody's, such as a list of headings, and does not count."""
_DISTINCT: Final = 4  # different words in a run
_PIECE: Final = 1 << 18  # bytes of a corpus that are read at once
_OVERLAP: Final = 1 << 10  # longer than a run
_FACTOR: Final = 0x9E3779B97F4A7C15  # odd, of 64 bits
# For each byte: itself in lower case, or 0 between words. Bytes above 127 are of letters.
_LOWER: Final = np.array(
    [ord(chr(i).lower()) if i > 127 or chr(i).isalnum() else 0 for i in range(256)], np.uint64
)
_DIGITS: Final = range(ord("0"), ord("9") + 1)
_PUNCTUATION: Final = dict.fromkeys(map(ord, "‘’“”„‚«»–—…•·¿¡"), " ")


def card_of(folder: Path) -> dict[str, Any] | None:
    """Return the card of the corpus in a folder, None if there is none that can be read."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return card if isinstance(card, dict) and "hash" in card else None


def corpora_below(folders: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """Return the cards of the credentialed corpora in these folders, and up to two folders below.

    A corpus that does not say that its text is open is credentialed.
    """
    levels = ("card.json", "*/card.json", "*/*/card.json")
    found = [path for folder in folders for level in levels for path in folder.glob(level)]
    cards = {path.parent.resolve(): card_of(path.parent) for path in sorted(found)}
    return {place: card for place, card in cards.items() if card and card.get("text") != "open"}


def runs_of(text: str) -> NDArray[np.uint64]:
    """Hash the runs of a text, but for those that repeat a few words."""
    data = np.frombuffer(text.translate(_PUNCTUATION).encode(errors="replace"), np.uint8)
    words = _word_hashes(data)
    if len(words) < WINDOW:
        return np.zeros(0, np.uint64)
    in_order = np.sort(np.lib.stride_tricks.sliding_window_view(words, WINDOW), axis=1)
    changes = in_order[:, 1:] != in_order[:, :-1]
    return _run_hashes(words)[changes.sum(axis=1) + 1 >= _DISTINCT]


def shared_runs(texts: Sequence[NDArray[np.uint64]], corpus: Path) -> list[int]:
    """Count the runs of each text that a note of a corpus holds too.

    Args:
        texts: the runs of each text, as `runs_of` returns them.
        corpus: its folder.

    Raises:
        MarnError: the corpus cannot be read.
    """
    wanted = np.unique(np.concatenate([np.zeros(0, np.uint64), *texts]))
    if not len(wanted):
        return [0] * len(texts)
    occurrences = np.zeros(len(wanted), np.int64)
    maybe = np.zeros(1 << 24, bool)  # by the first 24 bits, which settles nearly all
    maybe[wanted >> np.uint64(40)] = True
    try:
        splits = [
            (np.load(path, mmap_mode="r"), np.load(path.with_name("text_offsets.npy")))
            for path in sorted(corpus.glob("*/text.npy"))
        ]
    except (OSError, ValueError) as error:
        raise MarnError(
            f"the credentialed corpus {corpus} cannot be read ({type(error).__name__}), so nothing "
            "can be compared with it; make it again or remove it"
        ) from None
    for text, offsets in splits:
        for begin in range(0, len(text), _PIECE):
            piece = text[begin : begin + _PIECE + _OVERLAP]
            first, last = np.searchsorted(offsets, (begin, begin + len(piece)))
            piece = np.insert(piece, offsets[first:last] - begin, ord("\n"))  # between notes
            found = _run_hashes(_word_hashes(piece))
            found = found[maybe[found >> np.uint64(40)]]
            places = np.searchsorted(wanted, found).clip(max=len(wanted) - 1)
            occurrences += np.bincount(places[wanted[places] == found], minlength=len(wanted))
    private = (occurrences > 0) & (occurrences < COMMON)
    return [int(private[np.searchsorted(wanted, text)].sum()) for text in texts]


def _word_hashes(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash each word of a text in UTF-8, in order, modulo 2**64."""
    letters = np.concatenate([[np.uint64(0)], _LOWER[data], [np.uint64(0)]])
    inside = letters > 0
    begins = np.flatnonzero(inside[1:] & ~inside[:-1]) + 1
    ends = np.flatnonzero(inside[:-1] & ~inside[1:])  # of the last letters
    powers, inverses = _powers(1 << (len(letters) - 1).bit_length())
    sums = np.cumsum(letters * powers[: len(letters)])
    numeric = np.cumsum((letters >= _DIGITS.start) & (letters < _DIGITS.stop))
    is_word = numeric[ends] - numeric[begins - 1] < ends - begins + 1
    return ((sums[ends] - sums[begins - 1]) * inverses[begins])[is_word]


@cache
def _powers(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the powers of the factor, and of its inverse, modulo 2**64."""
    inverse = pow(_FACTOR, -1, 2**64)
    factors = np.full((2, size), [[_FACTOR], [inverse]], np.uint64)
    factors[:, 0] = 1
    powers, inverses = np.cumprod(factors, axis=1)
    return powers, inverses


def _run_hashes(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash each run of `WINDOW` words: (T,) to (T - WINDOW + 1,), modulo 2**64."""
    if len(words) < WINDOW:
        return np.zeros(0, np.uint64)
    hashes, width, factor = words ^ (words >> np.uint64(29)), 1, _FACTOR
    while width < WINDOW:  # runs of 1, 2, 4 and 8
        hashes = hashes[:-width] * np.uint64(factor) + hashes[width:]
        width, factor = 2 * width, factor * factor % 2**64
    return hashes * np.uint64(_FACTOR)
