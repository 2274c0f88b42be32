"""Why a code: a model's attention laid over the text of a note, and checked against evidence.

Attention says where a model looked, not that it was right to. Every function that shows text asks
whether the text may be shown.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from marn.corpus.text import Vocabulary, token_spans
from marn.errors import MarnError
from marn.evaluation import evaluating
from marn.models import Coder
from marn.privacy import check_may_show

__all__ = [
    "CodeExplanation",
    "Explanation",
    "TopWord",
    "attention_html",
    "evidence_overlap",
    "explain_note",
    "top_words",
]


class _Code(Protocol):
    """What is needed of an entry of `corpus.codes[task]`."""

    @property
    def code(self) -> str: ...
    @property
    def title(self) -> str: ...


@dataclass(frozen=True)
class TopWord:
    """A word of a note that a code looks at: `text[begin:end]`, with its share of attention."""

    word: str
    weight: float
    begin: int
    end: int


@dataclass(frozen=True)
class CodeExplanation:
    """A code, the probability the model gives it, and where it looked.

    Attributes:
        column: of the task's logits.
        code: the code itself.
        title: what it means.
        probability: in [0, 1].
        weights: (T,) attention over the words that were read.
        top: the words it looks at most, first the heaviest.
    """

    column: int
    code: str
    title: str
    probability: float
    weights: NDArray[np.float32] = field(repr=False)
    top: list[TopWord] = field(repr=False)


@dataclass(frozen=True)
class Explanation:
    """What a model makes of one note. Its `repr` names codes and shows nothing of the note.

    Attributes:
        text: the note.
        words: the T words that were read; a model cuts long notes.
        spans: (T, 2) int, where each stands in `text`.
        codes: the most probable codes, first the most probable.
    """

    text: str = field(repr=False)
    words: list[str] = field(repr=False)
    spans: NDArray[np.int64] = field(repr=False)
    codes: list[CodeExplanation]


def explain_note(
    model: Coder,
    vocabulary: Vocabulary,
    codes: Sequence[_Code],
    text: str,
    k: int = 5,
    task: str = "icd",
    *,
    words: int = 8,
) -> Explanation:
    """Code a note and say which words each code looked at.

    Args:
        model: any system, or whatever has `model(tokens, lengths) -> {task: (1, C)}` and
            `model.attention(tokens, lengths, task) -> (1, C, T')`. Its mode is left as it was.
        vocabulary: of the corpus the model was trained on.
        codes: (C,) entries with `code` and `title`: `corpus.codes[task]`.
        text: the note as written.
        k: how many codes.
        task: "icd" or "ccs".
        words: how many words for each code.

    Raises:
        MarnError: if the note has no word that the model knows, the model has no such task, or
            `codes` are not those of the model.
    """
    found, spans = token_spans(text)
    if not found:
        raise MarnError("The note has no words; numbers and punctuation are not read. Give text.")
    numbers = vocabulary.encode(found)
    if (numbers == vocabulary.unknown).all():
        raise MarnError(
            f"None of the note's {len(found)} words is in the vocabulary of {len(vocabulary) - 2} "
            "words. Give a note in the language of the corpus."
        )
    device = next(model.parameters()).device
    tokens = torch.as_tensor(numbers, dtype=torch.int64, device=device)[None]  # (1, T)
    lengths = torch.tensor([len(found)], device=device)
    with evaluating(model):
        logits = model(tokens, lengths)
        if task not in logits:
            raise MarnError(f"The model has no task {task!r}; it has {', '.join(logits)}.")
        probabilities = logits[task][0].double().sigmoid().cpu().numpy()  # (C,)
        if len(probabilities) != len(codes):
            raise MarnError(
                f"The model scores {len(probabilities)} codes of task {task!r}, but `codes` has "
                f"{len(codes)}. Give the codes of the corpus it was trained on."
            )
        columns = _largest(probabilities, k)
        attention = model.attention(tokens, lengths, task)[0]  # (C, T')
        weights = attention[torch.as_tensor(columns, device=attention.device)].float().cpu().numpy()
    read = weights.shape[1]
    return Explanation(
        text=text,
        words=found[:read],
        spans=spans[:read],
        codes=[
            CodeExplanation(
                column=int(column),
                code=codes[column].code,
                title=codes[column].title,
                probability=float(probabilities[column]),
                weights=row,
                top=[
                    TopWord(found[i], float(row[i]), int(spans[i, 0]), int(spans[i, 1]))
                    for i in _largest(row, words)
                ],
            )
            for column, row in zip(columns, weights, strict=True)
        ],
    )


def top_words(words: Sequence[str], weights: ArrayLike, k: int = 8) -> list[tuple[str, float]]:
    """Return the k words with most attention, heaviest first, ties in the order of the text.

    A word that stands in the note twice can come twice: attention falls on places.

    Args:
        words: (T,) the words.
        weights: (T,) float.
        k: how many.

    Raises:
        MarnError: if the lengths differ.
    """
    values = np.asarray(weights, dtype=float)
    if values.shape != (len(words),):
        raise MarnError(f"Expected `weights` of shape ({len(words)},), but got {values.shape}.")
    return [(words[i], float(values[i])) for i in _largest(values, k)]


def evidence_overlap(
    weights: ArrayLike, spans: ArrayLike, evidence: Sequence[tuple[int, int]], k: int = 5
) -> dict[str, float]:
    """Measure how much of a code's attention falls on the passages that prove the code.

    A word counts as evidence if it shares a character with one of the passages.

    Args:
        weights: (T,) float >= 0, attention of the code over the words.
        spans: (T, 2) int, where the words stand in the text.
        evidence: passages (begin, end) in characters, at least one.
        k: for the hit.

    Returns:
        `mass`: share of the attention that falls on evidence, in [0, 1]; `mass_chance`: the same
        for even attention; `hit`: 1 if one of the k heaviest words is evidence, else 0;
        `hit_chance`: the probability of a hit for k words drawn at random.

    Raises:
        MarnError: if shapes do not fit, weights are negative or all 0, or there is no evidence.
    """
    values, places = _check(weights, spans)
    if len(values) == 0 or values.sum() == 0:
        raise MarnError("Expected `weights` with at least one above 0.")
    if len(evidence) == 0:
        raise MarnError("Expected at least one passage of `evidence`: without it nothing overlaps.")
    proves = np.zeros(len(values), dtype=bool)
    for begin, end in evidence:
        proves |= (places[:, 0] < end) & (places[:, 1] > begin)
    total, good = len(values), int(proves.sum())
    drawn = min(k, total)
    return {
        "mass": float(values[proves].sum() / values.sum()),
        "mass_chance": good / total,
        "hit": float(proves[_largest(values, k)].any()),
        "hit_chance": float(stats.hypergeom.sf(0, total, good, drawn)),
    }


def attention_html(
    text: str,
    spans: ArrayLike,
    weights: ArrayLike,
    *,
    title: str,
    open_text: bool,
    evidence: Sequence[tuple[int, int]] = (),
    show_credentialed_text: bool = False,
) -> str:
    """Draw a note as HTML with its words shaded by attention.

    The stronger the colour, the heavier the word; pointing at a word shows its weight. Words up
    to a twentieth of the heaviest stay plain. Colours are see-through, so that the page may be
    light or dark.

    Args:
        text: the note.
        spans: (T, 2) int, where the words stand in `text`, ascending and apart.
        weights: (T,) float >= 0.
        title: shown above; plain text.
        open_text: whether anyone may read the text: `corpus.is_open`. No default, so that
            whoever shows a note has thought of it.
        evidence: passages (begin, end) in characters that are underlined.
        show_credentialed_text: shows the text although it is not open.

    Returns:
        One `<figure>` element. Text and title are escaped.

    Raises:
        MarnError: if the text may not be shown, or spans and weights do not fit it.
    """
    check_may_show(open_text, show_credentialed_text)
    values, places = _check(weights, spans)
    flat = places.ravel()
    if len(flat) and (flat[0] < 0 or flat[-1] > len(text) or (np.diff(flat) < 0).any()):
        raise MarnError("Expected `spans` inside the text, ascending and apart.")
    heaviest = values.max(initial=0)
    word = np.full(len(text), -1)  # which word each character belongs to
    for i, (begin, end) in enumerate(places):
        if values[i] > 0.05 * heaviest:
            word[begin:end] = i
    proves = np.zeros(len(text), dtype=bool)
    for begin, end in evidence:
        proves[begin:end] = True
    changes = (np.diff(word) != 0) | np.diff(proves)
    cuts = sorted({0, *(np.flatnonzero(changes) + 1).tolist(), len(text)})
    pieces = []
    for begin, end in pairwise(cuts):
        piece = html.escape(text[begin:end])
        shade, line, weight = "none", "none", ""
        if word[begin] >= 0:
            value = values[word[begin]]
            # 0.55 at most: both black and white letters stay readable on it
            shade = f"rgba(245,133,24,{0.55 * value / heaviest:.2f})"
            weight = f' title="{value:.4f}"'
        if proves[begin]:
            line = "2px solid #54a24b"
        if weight or proves[begin]:
            style = f"color:inherit;background:{shade};border-bottom:{line}"
            piece = f'<mark style="{style}"{weight}>{piece}</mark>'
        pieces.append(piece)
    legend = "Stronger colour: more attention." + (
        " Underlined: evidence." if len(evidence) else ""
    )
    return (
        '<figure class="marn-attention" style="margin:0.5em 0">'
        f"<figcaption><strong>{html.escape(title)}</strong> <small>{legend}</small></figcaption>"
        '<div tabindex="0" style="white-space:pre-wrap;overflow-wrap:anywhere;max-height:28em;'
        "overflow:auto;padding:0.6em;line-height:1.6;border:1px solid rgba(139,148,158,0.5);"
        f'border-radius:4px">{"".join(pieces)}</div></figure>'
    )


def _largest(values: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Return the places of the k largest values, largest first, ties in order."""
    return np.argsort(-values, kind="stable")[:k]


def _check(weights: ArrayLike, spans: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return weights (T,) and spans (T, 2) as arrays."""
    values = np.asarray(weights, dtype=float)
    places = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    if values.ndim != 1 or len(values) != len(places):
        raise MarnError(
            f"Expected a weight for each of the {len(places)} words, but got {values.shape}."
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise MarnError("Expected `weights` to be finite and >= 0.")
    return values, places
