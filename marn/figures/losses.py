"""Figures of the losses: the focal loss, the output that it asks for, and the loss of each code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from marn import analysis
from marn.errors import MarnError
from marn.figures.style import COLOURS, GREY, check_columns, curve, new_figure, rounded

_READINGS = ("paper", "released")


def focal_curves(gammas: Sequence[float] = (0, 0.5, 1, 2, 5)) -> go.Figure:
    """Draw the loss of a present code against the probability that the model gives it.

    Args:
        gammas: focusing exponents, one curve each; 0 is cross-entropy.

    References:
        Eq. 16 without alpha, which only rescales.
    """
    p = np.linspace(0.01, 1, 100)
    traces = [
        curve(p, analysis.focal_term(p, gamma), f"γ = {gamma:g}", "p = %{x}: %{y:.3f} nats")
        for gamma in gammas
    ]
    title, x = "Focal loss (1 − p)^γ · (−log p)", "predicted probability p of a present code"
    return new_figure(title, x, "loss (nats)", traces=traces)


def focal_optimum(
    alpha: float = 0.999,
    gammas: Sequence[float] = (0, 0.5, 1, 2, 3, 5),
    readings: Sequence[str] = _READINGS,
) -> go.Figure:
    """Draw the output that each reading of the focal loss asks for, against the true probability.

    Args:
        alpha: weight of Eq. 16; the point 1 - alpha is marked.
        gammas: focusing exponents; more than one gives a slider, which starts at 2 if it has it.
        readings: any of "paper" and "released", see `marn.analysis.focal_optimum`.

    References:
        Eq. 16.
    """
    start = list(gammas).index(2) if 2 in gammas else 0
    figure = new_figure(
        "Best output under the focal loss",
        "true probability of a code",
        "best output",
        height=460,
        traces=_optimum_curves(alpha, gammas[start], readings),
    )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(type="log", range=[-4, 0], tickvals=[0.0001, 0.001, 0.01, 0.1, 1])
    figure.update_xaxes(ticktext=["0.01%", "0.1%", "1%", "10%", "100%"])
    figure.update_yaxes(range=[-0.02, 1.02], dtick=0.25, tickformat=".0%")
    figure.add_hline(y=0.5, line={"dash": "dot", "color": GREY})
    if "paper" in readings:
        figure.add_vline(x=1 - alpha, line={"dash": "dot", "color": COLOURS[0]})
        figure.add_annotation(
            x=round(float(np.log10(1 - alpha)), 4),  # annotations on a log axis take logarithms
            y=0.98,
            text=f"1 − α = {1 - alpha:.3g}",
            font={"color": COLOURS[0]},
            showarrow=False,
            xanchor="right",
            yanchor="top",
        )
    if len(gammas) > 1:
        _add_slider(figure, alpha, gammas, readings, start)
    return figure


def _optimum_curves(alpha: float, gamma: float, readings: Sequence[str]) -> list[go.Scatter]:
    truth = 1 / (1 + np.exp(-np.linspace(-9.2, 9.2, 93)))  # 0.0001 to 0.9999, even in log-odds
    names = {"paper": f"Eq. 16, α = {alpha:g}", "released": "released code"}
    return [
        curve(
            truth,
            analysis.focal_optimum(truth, alpha, gamma, reading),
            names[reading],
            "true %{x}: best output %{y:.3f}",
            line={"color": COLOURS[_READINGS.index(reading)]},
        )
        for reading in readings
    ]


def _add_slider(
    figure: go.Figure, alpha: float, gammas: Sequence[float], readings: Sequence[str], start: int
) -> None:
    """Add one frame per gamma, which holds only what changes: the heights of the curves."""
    figure.frames = [
        go.Frame(
            name=f"{gamma:g}",
            data=[{"y": trace.y} for trace in _optimum_curves(alpha, gamma, readings)],
        )
        for gamma in gammas
    ]
    options = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}}
    steps = [
        {"label": f"{gamma:g}", "method": "animate", "args": [[f"{gamma:g}"], options]}
        for gamma in gammas
    ]
    slider = {"active": start, "steps": steps, "currentvalue": {"prefix": "γ = "}}
    figure.update_layout(sliders=[slider | {"y": -0.24, "pad": {"t": 0}}], margin={"b": 170})


def loss_by_frequency(losses: Mapping[str, pd.DataFrame], *, points: int = 300) -> go.Figure:
    """Draw the normalised cross-entropy of each code, most frequent first, for several models.

    Args:
        losses: name of the training loss -> frame of `marn.analysis.loss_per_code`, all with the
            same codes in the same order.
        points: with more codes than this, each point is the median of a run of neighbouring codes;
            single codes scatter too much to compare two curves.

    Raises:
        MarnError: if the frames have different codes.

    References:
        Fig. 11 of the journal version (Fig. 10 of the preprint).
    """
    frames = list(losses.values())
    for name, frame in losses.items():
        check_columns(name, frame, ("code", "frequency", "loss"))
        if not np.array_equal(frame["code"], frames[0]["code"]):
            raise MarnError(f"{name!r} must have the codes of the other losses, in the same order")
    codes = len(frames[0])
    runs = np.array_split(np.arange(codes), min(points, codes))
    middle = [int(run[len(run) // 2]) for run in runs]
    heights = {
        name: [float(np.median(frame["loss"].to_numpy()[run])) for run in runs]
        for name, frame in losses.items()
    }
    traces = [
        curve(
            np.array(middle) + 1,
            heights[name],
            name,
            "rank %{x}, %{customdata} notes: %{y:.3~g}",
            customdata=rounded(frame["frequency"].to_numpy()[middle]),
        )
        for name, frame in losses.items()
    ]
    title, x = "Normalised loss of each code", "codes, from frequent to rare"
    figure = new_figure(title, x, "BCE / (frequency · notes)", traces=traces)
    drawn = [height for values in heights.values() for height in values if height > 0]
    decades = np.log10(max(drawn) / min(drawn)) if drawn else 0
    # ticks at powers of ten, where there are enough of them
    figure.update_yaxes(type="log", exponentformat="power", dtick=1 if decades > 2 else None)
    figure.update_layout(showlegend=True)
    return figure
