"""Figures of training and results: curves over epochs, and bars of scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from marn.figures.style import (
    COLOURS,
    GREY,
    check_columns,
    curve,
    escaped,
    lay_out,
    rounded,
    wrapped,
)


def training_curves(history: pd.DataFrame, scores: Sequence[str], *, best_epoch: int) -> go.Figure:
    """Draw the training loss above and scores below, epoch by epoch; mark the best one.

    Args:
        history: `Run.history`: one row per epoch with the columns `epoch`, `loss` (mean over the
            epoch's batches) and those named in `scores` (fractions).
        scores: columns drawn in the lower panel, such as "dev/icd/micro_f1".
        best_epoch: the epoch that is marked.

    Raises:
        MarnError: a column is missing.
    """
    check_columns("history", history, ("epoch", "loss", *scores))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for i, column in enumerate(("loss", *scores)):
        name = "training loss" if column == "loss" else _label(column)
        look = {"mode": "lines+markers", "line": {"color": COLOURS[i % len(COLOURS)]}}
        trace = curve(history["epoch"], history[column], name, "epoch %{x}: %{y:.4~g}", **look)
        figure.add_trace(trace, row=1 if column == "loss" else 2, col=1)
    ticks = {"tickformat": "d", "dtick": max(1, len(history) // 10)}  # epochs have no halves
    lay_out(
        figure,
        f"Training (best: epoch {best_epoch})",
        520,
        xaxis=ticks,
        xaxis2=ticks | {"title": "epoch"},
        yaxis_title="loss (nats)",
        yaxis2={"title": "score", "tickformat": ".0%"},
    )
    return figure.add_vline(x=best_epoch, line={"dash": "dot", "color": GREY})


def _label(column: str) -> str:
    """Return "dev ICD, micro-F1" for the column "dev/icd/micro_f1"."""
    *where, score = column.split("/")
    name = score.replace("_f1", "-F1").replace("_auc", "-AUC").replace("_", " ")
    name = name.replace(" caml", " (CAML)").replace(" all", " (all codes)")
    place = " ".join(part.upper() if part in ("icd", "ccs") else part for part in where)
    return f"{place}, {name}" if place else name


def score_bars(scores: pd.DataFrame, *, metric: str, title: str = "") -> go.Figure:
    """Draw one bar per system, with its interval.

    Args:
        scores: one row per bar, from top to bottom, with the columns `name` (str) and `mean`
            (fraction); optionally `low` and `high` (ends of the interval, NaN for none) and `part`
            (str: bars of one name side by side, as in Fig. 8).
        metric: name of the score, for the axis.
        title: title of the figure; by default the metric.

    Raises:
        MarnError: a column is missing.

    References:
        Fig. 8, whose axis begins near 0.45; here bars begin at 0, or they would mislead.
    """
    check_columns("scores", scores, ("name", "mean"))
    parts = list(dict.fromkeys(scores["part"])) if "part" in scores else [None]
    names = list(dict.fromkeys(scores["name"]))
    figure, step = go.Figure(), 0.8 / len(parts)
    place = np.zeros(len(scores))  # numbers, not names, so that all marks of a row align
    for i, part in enumerate(parts):
        here = np.ones(len(scores), bool) if part is None else (scores["part"] == part).to_numpy()
        rows = scores[here]
        place[here] = rows["name"].map(names.index) + (i - (len(parts) - 1) / 2) * step
        figure.add_bar(
            x=rounded(rows["mean"]),
            y=rounded(place[here]),
            orientation="h",
            width=round(step * 0.92, 4),
            name=escaped(part or "ours"),
            marker={"color": COLOURS[i % len(COLOURS)]},
            text=wrapped([f"{name} · {part}" if part else name for name in rows["name"]]),
            textposition="none",
            hovertemplate="%{text}: %{x:.1%}<extra></extra>",
        )
    if "low" in scores and "high" in scores:
        known = scores["low"].notna().to_numpy()  # one seed has no interval
        low, high, at = scores["low"][known], scores["high"][known], place[known]
        gap = np.full(len(at), np.nan)  # between two intervals
        x, y = (rounded(np.column_stack([*ends, gap]).ravel()) for ends in ((low, high), (at, at)))
        hidden = {"mode": "lines", "showlegend": False, "hoverinfo": "skip"}
        for width, colour in ((6, "#ffffff"), (2.5, "#24292f")):  # legible on light, dark and bars
            figure.add_scatter(x=x, y=y, line={"color": colour, "width": width}, **hidden)
    drawn = scores[[column for column in ("mean", "high") if column in scores]].max().max()
    end = min(1.0, round(float(drawn) * 1.05 + 0.005, 2))  # a little past everything drawn
    height = 150 + 26 * max(len(scores), 3) + 10 * len(names)
    return lay_out(
        figure,
        title or metric[:1].upper() + metric[1:],
        height + (26 * len(parts) if "part" in scores else 0),
        barmode="overlay",
        showlegend=len(figure.data) > 1,
        xaxis={"title": metric, "tickformat": ".0%", "range": [0.0, end]},
        yaxis={
            "tickvals": list(range(len(names))),
            "ticktext": wrapped(names, 18),
            "range": [len(names) - 0.4, -0.6],
        },
    )
