"""Figures of a corpus: how often codes occur, how they are grouped, how long notes are."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

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
    new_figure,
    rounded,
    wrapped,
)


def code_frequency(
    frequency: ArrayLike, *, names: Sequence[str] | None = None, system: str = "ICD"
) -> go.Figure:
    """Draw how many notes have each code, most frequent first.

    Args:
        frequency: (C,) int, notes per code.
        names: (C,) code and title, shown on hover. Without names only the corners of the curve are
            kept: the same curve from a fraction of the numbers.
        system: "ICD" or "CCS", for the title and the axis.

    Returns:
        A figure with buttons for a linear and a logarithmic axis.

    Raises:
        MarnError: if the lengths differ.

    References:
        Figs. 1a (ICD) and 1b (CCS) of the journal version.
    """
    counts = np.asarray(frequency)
    order = np.argsort(-counts, kind="stable")
    heights = counts[order]
    if names is None:
        turns = np.flatnonzero(np.diff(heights, prepend=-1, append=-1))  # first of each run
        kept = np.unique(np.concatenate([turns[:-1], turns[1:] - 1]))
        text = None
    else:
        check_lengths(frequency=counts, names=names)
        kept = np.arange(len(counts))
        text = wrapped([names[i] for i in order])
    trace = go.Scatter(
        x=rounded(kept + 1),
        y=rounded(heights[kept]),
        text=text,
        mode="lines",
        fill="tozeroy",
        hovertemplate=("%{text}<br>" if text else "") + "rank %{x}: %{y} notes<extra></extra>",
    )
    title, axis = f"Notes per {system} code", f"{system} codes, from frequent to rare"
    figure = new_figure(title, axis, "notes", height=360, traces=[trace])
    figure.update_yaxes(rangemode="tozero")
    buttons = [
        {"label": scale, "method": "relayout", "args": [{"yaxis.type": scale}]}
        for scale in ("linear", "log")
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "showactive": True}
    corner = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "top"}
    figure.update_layout(updatemenus=[menu | corner])
    return figure


def code_tree(codes: pd.DataFrame, *, title: str = "ICD codes and their CCS codes") -> go.Figure:
    """Draw ICD codes on the left, and on the right the CCS codes that they map to.

    Args:
        codes: one row per ICD code, in the order drawn, with the columns `code`, `title`, `ccs`
            and `ccs_title` (all str).
        title: title of the figure.

    Raises:
        MarnError: if a column is missing or there is no code.

    References:
        Fig. 2: 427.31 and 427.89 both map to CCS 106.
    """
    check_columns("codes", codes, ("code", "title", "ccs", "ccs_title"))
    if codes.empty:
        raise MarnError("codes must have at least one row, but got none")
    left = -np.arange(len(codes), dtype=float)
    right = pd.Series(left).groupby(codes["ccs"].to_numpy()).mean()
    titles = dict(zip(codes["ccs"], codes["ccs_title"], strict=True))
    x: list[float | None] = []
    y: list[float | None] = []
    for height, ccs in zip(left, codes["ccs"], strict=True):
        x += [0.44, 0.56, None]
        y += [height, float(right[ccs]), None]
    lines = go.Scatter(x=x, y=y, mode="lines", line={"color": GREY}, hoverinfo="skip")
    figure = new_figure(title, height=100 + 84 * len(codes), traces=[lines])
    boxes = [
        _box(0.44, height, code, text, COLOURS[0])
        for height, code, text in zip(left, codes["code"], codes["title"], strict=True)
    ]
    boxes += [
        _box(0.56, float(height), f"CCS {ccs}", titles[ccs], COLOURS[1])
        for ccs, height in right.items()
    ]
    figure.update_layout(annotations=boxes, showlegend=False, margin={"l": 8, "r": 8, "b": 8})
    figure.update_xaxes(visible=False, range=[0, 1], fixedrange=True)
    figure.update_yaxes(visible=False, range=[left[-1] - 0.5, 0.5], fixedrange=True)
    return figure


def _box(x: float, y: float, name: str, text: str, colour: str) -> dict[str, Any]:
    lines = [f"<b>{escaped(name)}</b>", *map(escaped, textwrap.wrap(text, 21))]
    return {
        "x": x,
        "y": y,
        "text": "<br>".join(lines),
        "showarrow": False,
        "xanchor": "right" if x < 0.5 else "left",
        "bordercolor": colour,
        "borderwidth": 1.5,
        "borderpad": 5,
        "font": {"size": 12},
    }


def note_lengths(
    lengths: Mapping[str, ArrayLike], *, mark: int = 512, longest: int = 4000
) -> go.Figure:
    """Draw how long the notes are, and what share of them is longer than `mark`.

    Args:
        lengths: name of a corpus or split -> (N,) int, tokens per note before truncation.
        mark: length marked, in tokens; BERT reads 512 at once.
        longest: notes of this many tokens and more share the last bar; MARN truncates at 4,000.

    Raises:
        MarnError: if there is no note.

    References:
        Fig. 3: 96.3 % (full) and 97.2 % (top 50) of the notes exceed 512 tokens.
    """
    width = longest / 20
    edges = np.append(np.arange(21) * width, np.inf)
    middles = edges[:-1] + width / 2
    labels = [f"{low:,.0f} to {low + width:,.0f}" for low in edges[:-2]] + [f"from {longest:,}"]
    traces = []
    for i, (name, values) in enumerate(lengths.items()):
        tokens = np.asarray(values)
        if len(tokens) == 0:
            raise MarnError(f"lengths of {name!r} must have at least one note, but got none")
        share = np.histogram(tokens, edges)[0] / len(tokens)
        traces.append(
            go.Bar(
                x=rounded(middles),
                y=rounded(share),
                width=width * 0.96,
                name=f"{escaped(name)}: {(tokens > mark).mean():.1%} over {mark} tokens",
                marker={"color": COLOURS[i % len(COLOURS)]},
                opacity=1 if len(lengths) == 1 else 0.6,
                customdata=labels,
                hovertemplate="%{customdata} tokens: %{y:.1%}<extra></extra>",
            )
        )
    figure = new_figure("Length of the notes", "tokens", "share of notes", traces=traces)
    figure.update_layout(barmode="overlay", showlegend=True)
    ticks = np.arange(0, longest + 1, longest // 4)
    names = [f"{tick:,}" for tick in ticks[:-1]] + [f"{longest:,}+"]
    figure.update_xaxes(tickvals=rounded(ticks), ticktext=names)
    figure.update_yaxes(tickformat=".0%")
    text = {"text": f"{mark}", "font": {"color": COLOURS[3]}}
    figure.add_vline(x=mark, line={"dash": "dash", "color": COLOURS[3]}, annotation=text)
    return figure
