"""Figures of training and results: curves over epochs, and bars of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from marn.figures.style import (
    COLOURS,
    GREY,
    check_columns,
    curve,
    escaped,
    lay_out,
    new_figure,
    rounded,
    wrapped,
)


def training_curves(
    history: pd.DataFrame,
    scores: Sequence[str] = ("dev/icd/micro_f1", "dev/icd/macro_f1_caml"),
    *,
    best_epoch: int | None = None,
) -> go.Figure:
    """Draw the training loss above and scores below, epoch by epoch.

    Args:
        history: `Run.history`: one row per epoch with the columns `epoch`, `loss` (mean over the
            epoch's batches) and those named in `scores` (fractions).
        scores: columns drawn in the lower panel, such as "dev/icd/micro_f1".
        best_epoch: epoch marked in both panels, whose weights were kept.

    Raises:
        MarnError: if a column is missing.
    """
    check_columns("history", history, ("epoch", "loss", *scores))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    lay_out(figure, "Training" + (f" (best: epoch {best_epoch})" if best_epoch else ""), 520)
    for i, column in enumerate(("loss", *scores)):
        name = "training loss" if column == "loss" else _label(column)
        look = {"mode": "lines+markers", "line": {"color": COLOURS[i % len(COLOURS)]}}
        trace = curve(history["epoch"], history[column], name, "epoch %{x}: %{y:.4~g}", **look)
        figure.add_trace(trace, row=1 if column == "loss" else 2, col=1)
    figure.update_xaxes(title_text="epoch", row=2)
    figure.update_xaxes(tickformat="d")
    figure.update_yaxes(title_text="loss (nats)", row=1)
    figure.update_yaxes(title_text="score", tickformat=".0%", row=2)
    if best_epoch is not None:
        figure.add_vline(x=best_epoch, line={"dash": "dot", "color": GREY})
    return figure


def _label(column: str) -> str:
    """Return "dev ICD, micro F1" for the column "dev/icd/micro_f1"."""
    *where, score = column.split("/")
    name = score.replace("_", " ").replace("f1", "F1").replace("auc", "AUC")
    name = name.replace(" caml", " (CAML)").replace(" all", " (all codes)")
    place = " ".join(part.upper() if part in ("icd", "ccs") else part for part in where)
    return f"{place}, {name}" if place else name


def score_bars(
    scores: pd.DataFrame, *, metric: str = "macro F1", start: float = 0.0, title: str = ""
) -> go.Figure:
    """Draw one bar per system with its interval, and the published score as a diamond.

    Args:
        scores: one row per bar, from top to bottom, with the columns `name` (str) and `mean`
            (fraction); optionally `low` and `high` (ends of the interval), `published` (fraction)
            and `part` (str: bars of one name side by side, as in Fig. 8). NaN in an optional
            column draws nothing.
        metric: name of the score, for the axis.
        start: where the axis begins, as a fraction. Bars mislead unless it is 0; Fig. 8 of the
            paper begins near 0.45.
        title: title of the figure; by default the metric.

    Raises:
        MarnError: if a column is missing.

    References:
        Fig. 8, Tables 1 to 6.
    """
    check_columns("scores", scores, ("name", "mean"))
    parts = list(dict.fromkeys(scores["part"])) if "part" in scores else [None]
    names = list(dict.fromkeys(scores["name"]))
    height = 150 + 26 * max(len(scores), 3) + 10 * len(names)
    height += 26 * len(parts) if "part" in scores else 0
    figure = new_figure(title or metric[:1].upper() + metric[1:], metric, height=height)
    step = 0.8 / len(parts)
    place = np.zeros(len(scores))  # numbers, not names, so that all marks of a row align
    for i, part in enumerate(parts):
        here = np.ones(len(scores), bool) if part is None else (scores["part"] == part).to_numpy()
        rows = scores[here]
        place[here] = rows["name"].map(names.index) + (i - (len(parts) - 1) / 2) * step
        figure.add_bar(
            x=rounded(rows["mean"].to_numpy(dtype=float)),
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
        _add_intervals(figure, scores, place)
    if "published" in scores and scores["published"].notna().any():
        _add_diamonds(figure, scores, place)
    figure.update_layout(barmode="overlay", showlegend=len(figure.data) > 1)
    drawn = scores[[c for c in ("mean", "high", "published") if c in scores]].max().max()
    end = min(1.0, round(float(drawn) * 1.05 + 0.005, 2))  # a little past everything drawn
    figure.update_xaxes(tickformat=".0%", range=[start, end])
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=wrapped(names, 18))
    figure.update_yaxes(range=[len(names) - 0.4, -0.6])
    return figure


def _add_intervals(figure: go.Figure, scores: pd.DataFrame, place: NDArray[Any]) -> None:
    x: list[Any] = []
    y: list[Any] = []
    for low, high, at in zip(scores["low"], scores["high"], place, strict=True):
        if low == low:  # not NaN: one seed has no interval
            x += [*rounded([low, high]), None]
            y += [*rounded([at, at]), None]
    for width, colour in ((6, "#ffffff"), (2.5, "#24292f")):  # legible on light, dark and bars
        line = {"color": colour, "width": width}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, showlegend=False, hoverinfo="skip")


def _add_diamonds(figure: go.Figure, scores: pd.DataFrame, place: NDArray[Any]) -> None:
    outline = {"color": "#24292f", "width": 1.5}
    figure.add_scatter(
        x=rounded(scores["published"].to_numpy(dtype=float)),
        y=rounded(place),
        mode="markers",
        name="published",
        marker={"symbol": "diamond", "size": 10, "color": "#ffffff", "line": outline},
        hovertemplate="published: %{x:.1%}<extra></extra>",
    )
