"""Explain codes by the words of a note that carried them, and measure the explanations.

An explanation shows what the model used, not whether it was right to use it. Every function that
shows text first checks whether it may be shown.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from marn.attribution import Method, word_weights
from marn.corpus import CodeEntry
from marn.corpus.text import Vocabulary, token_spans
from marn.errors import MarnError
from marn.evaluation import evaluating
from marn.models import Coder
from marn.privacy import check_may_show

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of a note's words that `faithfulness` removes and keeps (DeYoung et al. 2020)."""

WORDS = 8
"""Maximum number of words listed for a code."""


class TopWord(NamedTuple):
    """A word that carried a code, `text[begin:end]`, and its weight."""

    word: str
    weight: float
    begin: int
    end: int


@dataclass(frozen=True)
class CodeExplanation:
    """A code, its predicted probability, and the words that carried it."""

    column: int
    """Column of the task's logits."""
    code: str
    title: str
    probability: float
    weights: NDArray[np.float32] = field(repr=False)
    """(T,) >= 0, one for each word that was read; see `marn.attribution`."""
    top: list[TopWord] = field(repr=False)
    """The heaviest words, heaviest first, without words of weight 0."""


@dataclass(frozen=True)
class Explanation:
    """The codes that a model predicts for one note; its `repr` shows nothing of the note."""

    text: str = field(repr=False)
    words: list[str] = field(repr=False)
    """The T words that were read; a model truncates long notes."""
    spans: NDArray[np.int64] = field(repr=False)
    """(T, 2) places of the words in `text`."""
    codes: list[CodeExplanation]
    """The most probable codes, most probable first."""


def explain_note(
    model: Coder,
    vocabulary: Vocabulary,
    codes: Sequence[CodeEntry],
    text: str,
    k: int = 5,
    task: str = "icd",
    *,
    method: Method | None = None,
) -> Explanation:
    """Predict the k most likely codes of a note, and find the words that carried each.

    Args:
        model: any system, or an object with `model(tokens, lengths) -> {task: (1, C)}` and
            whatever the method needs. Its mode is restored.
        vocabulary: vocabulary of the corpus that the model was trained on.
        codes: (C,) entries with `code` and `title`: `corpus.codes[task]`.
        text: the note as written.
        k: number of codes.
        task: "icd" or "ccs".
        method: see `marn.attribution.word_weights`; None chooses by
            `marn.attribution.default_method`.

    Raises:
        MarnError: the model knows no word of the note or lacks the task, or `codes` are not those
            of the model.
    """
    found, spans = token_spans(text)
    numbers = _encoded(found, vocabulary)
    device = next(model.parameters()).device
    tokens = torch.as_tensor(numbers, dtype=torch.int64, device=device)  # (T,)
    with evaluating(model):
        logits = model(tokens[None], torch.tensor([len(found)], device=device))
        if task not in logits:
            raise MarnError(f"the model has no task {task!r}; it has {', '.join(logits)}")
        probabilities = logits[task][0].double().sigmoid().cpu().numpy()  # (C,)
    if len(probabilities) != len(codes):
        raise MarnError(
            f"the model predicts {len(probabilities)} codes of task {task!r}, but got "
            f"{len(codes)} codes; give those of the corpus that it was trained on"
        )
    columns = largest(probabilities, k).tolist()
    weights = word_weights(model, tokens, columns, task, vocabulary.unknown, method)
    listed = []
    for column, row in zip(columns, weights, strict=True):
        top = [
            TopWord(found[i], float(row[i]), *spans[i].tolist())
            for i in largest(row, WORDS)
            if row[i] > 0
        ]
        code, probability = codes[column], float(probabilities[column])
        listed.append(CodeExplanation(column, code.code, code.title, probability, row, top))
    read = weights.shape[1]
    return Explanation(text, found[:read], spans[:read], listed)


def _encoded(words: list[str], vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Turn the words of a note into numbers; refuse a note without a known word."""
    if not words:
        raise MarnError("the note has no words, and numbers are not read; give some text")
    numbers = vocabulary.encode(words)
    if (numbers == vocabulary.unknown).all():
        raise MarnError(
            f"none of the note's {len(words)} words is in the vocabulary of {len(vocabulary) - 2} "
            "words; give a note in the language of the corpus"
        )
    return numbers


def faithfulness(
    model: Coder,
    tokens: torch.Tensor,
    columns: Sequence[int],
    task: str,
    unknown: int,
    weights: ArrayLike,
) -> dict[str, NDArray[np.float64]]:
    """Measure whether the model really uses the words that explanations name.

    Either the heaviest words or all the others are replaced by the unknown word, and the
    probability of the code is compared with that for the whole note, averaged over `SHARES`.

    Args:
        model: a system on any device; its mode is restored.
        tokens: (T,) int64, the note, without padding.
        columns: M columns of the task's logits, one for each explanation.
        task: one of the model's tasks.
        unknown: the number of the unknown word.
        weights: (M, T) weights of the words, one row for each explanation.

    Returns:
        (M,) each: `comprehensiveness`, the drop in probability without the words (larger is
        better), and `sufficiency`, the drop with only these words (smaller is better; may be
        negative).

    References:
        DeYoung et al. 2020 (ERASER), Section 4.2.
    """
    rows, size = [tokens], len(tokens)
    for values in np.asarray(weights, float):
        order = torch.from_numpy(largest(values, size)).to(tokens.device)
        for share in SHARES:
            top = order[: max(1, round(share * size))]
            without = tokens.index_fill(0, top, unknown)
            alone = torch.full_like(tokens, unknown).index_copy(0, top, tokens[top])
            rows += [without, alone]
    with evaluating(model):
        found = []
        for some in torch.stack(rows).split(64):
            lengths = torch.full((len(some),), size, device=tokens.device)
            found.append(model(some, lengths)[task].double().sigmoid())
    probabilities = torch.cat(found).cpu().numpy()  # (1 + M * shares * 2, C)
    erased = probabilities[1:].reshape(len(columns), len(SHARES), 2, -1).mean(axis=1)  # (M, 2, C)
    fall = probabilities[0, columns, None] - erased[np.arange(len(columns)), :, columns]  # (M, 2)
    return {"comprehensiveness": fall[:, 0], "sufficiency": fall[:, 1]}


def evidence_overlap(
    weights: ArrayLike, spans: ArrayLike, evidence: Sequence[tuple[int, int]], k: int = 5
) -> dict[str, float]:
    """Measure how well the weights of words agree with the evidence passages of a code.

    A word counts as evidence if it shares a character with one of the passages.

    Args:
        weights: (T,) float >= 0, one for each word.
        spans: (T, 2) int, first character of each word, and one past its last.
        evidence: passages (begin, end) in characters, at least one.
        k: number of words considered for a hit and for the token F1.

    Returns:
        `mass`: share of the weight on evidence, in [0, 1]; `mass_chance`: the same for equal
        weights; `hit`: 1 if one of the k heaviest words is evidence, else 0;
        `hit_chance`: the probability of a hit for k words drawn at random; `token_f1`: F1 of the k
        heaviest words against the words that are evidence; `average_precision`: of the ranking of
        all words, ties in the order of the text, and 0 where no word is evidence.

    Raises:
        MarnError: shapes do not match, weights are negative or all 0, or evidence is empty.

    Example:
        >>> evidence_overlap([0.25, 0.75], [(0, 2), (3, 8)], [(3, 8)], k=1)["mass"]
        0.75
    """
    values, places = _checked(weights, spans)
    if values.sum() == 0:
        raise MarnError("weights must have at least one value above 0")
    if len(evidence) == 0:
        raise MarnError("evidence must have at least one passage, but got none")
    proves = np.zeros(len(values), dtype=bool)
    for begin, end in evidence:
        proves |= (places[:, 0] < end) & (places[:, 1] > begin)
    total, good = len(values), int(proves.sum())
    ranked = proves[largest(values, total)]
    precision = np.cumsum(ranked) / np.arange(1, total + 1)  # (T,) of the first 1, 2, ...
    hits = int(ranked[:k].sum())
    return {
        "mass": float(values[proves].sum() / values.sum()),
        "mass_chance": good / total,
        "hit": float(hits > 0),
        "hit_chance": float(stats.hypergeom.sf(0, total, good, min(k, total))),
        "token_f1": 2 * hits / (min(k, total) + good),
        "average_precision": float(precision[ranked].mean()) if good else 0.0,
    }


def note_html(
    text: str,
    spans: ArrayLike,
    weights: ArrayLike,
    *,
    title: str,
    open_text: bool,
    evidence: Sequence[tuple[int, int]] = (),
    show_credentialed_text: bool = False,
) -> str:
    """Render a note as HTML with its words shaded by weight.

    A stronger colour means a larger weight; hovering over a word shows its weight. Words with at
    most a twentieth of the largest weight stay plain. Colours are translucent, for light and dark
    pages.

    Args:
        text: the note.
        spans: (T, 2) int, first character of each word in `text`, and one past its last; ascending
            and without overlap.
        weights: (T,) float >= 0.
        title: shown above; plain text.
        open_text: whether the text is open, as `corpus.is_open` says. There is deliberately no
            default, so that every caller decides.
        evidence: passages (begin, end), in characters, to underline.
        show_credentialed_text: show the text although it is not open.

    Returns:
        One `<figure>` element. Text and title are escaped.

    Raises:
        MarnError: the text may not be shown, or spans and weights do not fit it.
    """
    check_may_show(open_text, show_credentialed_text)
    values, places = _checked(weights, spans)
    flat = places.ravel()
    if len(flat) and (flat[0] < 0 or flat[-1] > len(text) or (np.diff(flat) < 0).any()):
        raise MarnError("spans must be inside the text, ascending and without overlap")
    heaviest = values.max(initial=0)
    word = np.full(len(text), -1)  # the shaded word that each character belongs to
    for i, (begin, end) in enumerate(places):
        if values[i] > 0.05 * heaviest:
            word[begin:end] = i
    proves = np.zeros(len(text), dtype=bool)
    for begin, end in evidence:
        proves[begin:end] = True
    changes = (np.diff(word) != 0) | np.diff(proves)
    cuts = sorted({0, *(np.flatnonzero(changes) + 1).tolist(), len(text)})
    body = ""
    for begin, end in pairwise(cuts):
        weight = values[word[begin]] if word[begin] >= 0 else None
        body += _mark(html.escape(text[begin:end]), weight, heaviest, bool(proves[begin]))
    legend = "Stronger colour: the word counts more."
    legend += " Underlined: evidence." if len(evidence) else ""
    return (
        '<figure class="marn-note" style="margin:0.5em 0">'
        f"<figcaption><strong>{html.escape(title)}</strong> <small>{legend}</small></figcaption>"
        '<div tabindex="0" style="white-space:pre-wrap;overflow-wrap:anywhere;max-height:28em;'
        "overflow:auto;padding:0.6em;line-height:1.6;border:1px solid rgba(139,148,158,0.5);"
        f'border-radius:4px">{body}</div></figure>'
    )


def _mark(piece: str, weight: float | None, heaviest: float, proves: bool) -> str:
    """Return a piece of escaped text, marked if it has a weight or is evidence."""
    if weight is None and not proves:
        return piece
    # opacity of at most 0.5: on it, letters of light and dark pages keep a contrast of 4.5. No
    # <mark>: its letters are black where JupyterLab strips `color:inherit` in untrusted notebooks
    shade = "none" if weight is None else f"rgba(245,133,24,{0.5 * weight / heaviest:.2f})"
    line = "2px solid #54a24b" if proves else "none"
    hover = "" if weight is None else f' title="{weight:.4f}"'
    return f'<span style="background:{shade};border-bottom:{line}"{hover}>{piece}</span>'


def largest(values: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Return the indices of the k largest values, largest first; ties keep their order."""
    return np.argsort(-values, kind="stable")[:k]


def _checked(weights: ArrayLike, spans: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return weights (T,) and spans (T, 2) as arrays."""
    values = np.asarray(weights, dtype=float)
    places = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    if values.ndim != 1 or len(values) != len(places):
        raise MarnError(
            f"weights must have one value for each of the {len(places)} words, but got shape "
            f"{values.shape}"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise MarnError("weights must be finite and >= 0")
    return values, places
