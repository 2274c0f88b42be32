"""Figures of a corpus: how often codes occur, how they are grouped, how long notes are."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from marn.errors import MarnError
from marn.figures.style import (
    COLOURS,
    GREY,
    check_columns,
    check_lengths,
    escaped,
    lay_out,
    rounded,
    wrapped,
)


def code_frequency(frequency: ArrayLike, names: Sequence[str], *, system: str = "ICD") -> go.Figure:
    """Draw how many notes have each code, most frequent first, on a linear or logarithmic axis.

    Args:
        frequency: (C,) int, notes per code.
        names: (C,) code and title, shown on hover.
        system: "ICD" or "CCS".

    Raises:
        MarnError: the lengths differ.

    References:
        Figs. 1a (ICD) and 1b (CCS) of the journal version.
    """
    counts = np.asarray(frequency)
    check_lengths(frequency=counts, names=names)
    order = np.argsort(-counts, kind="stable")
    trace = go.Scatter(
        x=list(range(1, len(counts) + 1)),
        y=rounded(counts[order]),
        text=wrapped([names[i] for i in order]),
        mode="lines",
        fill="tozeroy",
        hovertemplate="%{text}<br>rank %{x}: %{y} notes<extra></extra>",
    )
    buttons = [
        {"label": scale, "method": "relayout", "args": [{"yaxis.type": scale}]}
        for scale in ("linear", "log")
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "showactive": True}
    corner = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "top"}
    return lay_out(
        go.Figure(trace),
        f"Notes per {system} code",
        360,
        xaxis_title=f"{system} codes, from frequent to rare",
        yaxis={"title": "notes", "rangemode": "tozero"},
        updatemenus=[menu | corner],
    )


def code_tree(codes: pd.DataFrame) -> go.Figure:
    """Draw ICD codes on the left, and on the right the CCS codes that they map to.

    Args:
        codes: one row per ICD code, in the order drawn, with the columns `code`, `title`, `ccs`
            and `ccs_title` (all str).

    Raises:
        MarnError: a column is missing, or there is no code.

    References:
        Fig. 2: 427.31 and 427.89 both map to CCS 106.
    """
    check_columns("codes", codes, ("code", "title", "ccs", "ccs_title"))
    if codes.empty:
        raise MarnError("codes must have at least one row, but got none")
    left = -np.arange(len(codes), dtype=float)
    right = pd.Series(left).groupby(codes["ccs"].to_numpy()).mean()  # beside its ICD codes
    titles = dict(zip(codes["ccs"], codes["ccs_title"], strict=True))
    x: list[float | None] = []
    y: list[float | None] = []
    for height, ccs in zip(left, codes["ccs"], strict=True):
        x += [0.44, 0.56, None]
        y += [height, float(right[ccs]), None]
    rows = zip(left, codes["code"], codes["title"], strict=True)
    texts = [(0.44, *row, "right", COLOURS[0]) for row in rows]
    for ccs, height in right.items():
        texts.append((0.56, float(height), f"CCS {ccs}", titles[ccs], "left", COLOURS[1]))
    boxes = []
    for at, height, name, title, anchor, colour in texts:
        lines = [f"<b>{escaped(name)}</b>", *map(escaped, textwrap.wrap(title, 21))]
        box = {"x": at, "y": height, "text": "<br>".join(lines), "xanchor": anchor}
        border = {"bordercolor": colour, "borderwidth": 1.5, "borderpad": 5}
        boxes.append(box | border | {"showarrow": False, "font": {"size": 12}})
    edges = go.Scatter(x=x, y=y, mode="lines", line={"color": GREY}, hoverinfo="skip")
    return lay_out(
        go.Figure(edges),
        "ICD codes and their CCS codes",
        100 + 84 * len(codes),
        annotations=boxes,
        showlegend=False,
        margin={"l": 8, "r": 8, "b": 8},
        xaxis={"visible": False, "range": [0, 1], "fixedrange": True},
        yaxis={"visible": False, "range": [left[-1] - 0.5, 0.5], "fixedrange": True},
    )


def note_lengths(lengths: Mapping[str, ArrayLike]) -> go.Figure:
    """Draw how long the notes are, and what share of them has more than 512 words.

    BERT reads 512 word pieces. The last bar is of notes with 4,000 words, where MARN truncates, or
    more.

    Args:
        lengths: name of a corpus or split -> (N,) int, words per note before truncation.

    Raises:
        MarnError: there is no note.

    References:
        Fig. 3: 96.3 % (full) and 97.2 % (top 50) of the notes exceed 512 words.
    """
    starts = np.arange(0, 4001, 200.0)
    labels = [f"{start:,.0f} to {start + 200:,.0f}" for start in starts[:-1]] + ["from 4,000"]
    traces = []
    for i, (name, values) in enumerate(lengths.items()):
        words = np.asarray(values)
        if len(words) == 0:
            raise MarnError(f"lengths of {name!r} must have at least one note, but got none")
        share = np.histogram(words, [*starts, np.inf])[0] / len(words)
        trace = go.Bar(
            x=rounded(starts + 100),
            y=rounded(share),
            width=192.0,
            name=f"{escaped(name)}: {(words > 512).mean():.1%} over 512 words",
            marker={"color": COLOURS[i % len(COLOURS)]},
            opacity=1 if len(lengths) == 1 else 0.6,
            customdata=labels,
            hovertemplate="%{customdata} words: %{y:.1%}<extra></extra>",
        )
        traces.append(trace)
    figure = lay_out(
        go.Figure(traces),
        "Length of the notes",
        barmode="overlay",
        showlegend=True,
        xaxis={
            "title": "words",
            "tickvals": [0, 1000, 2000, 3000, 4000],
            "ticktext": ["0", "1,000", "2,000", "3,000", "4,000+"],
        },
        yaxis={"title": "share of notes", "tickformat": ".0%"},
    )
    figure.add_vline(x=512, line={"dash": "dash"}, annotation={"text": "512", "yanchor": "bottom"})
    return figure.update_layout(margin={"t": 66})  # room for the annotation above the bars
