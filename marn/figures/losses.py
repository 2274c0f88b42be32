"""Figures of the losses: the focal loss, the output that minimises it, and the loss per code."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from marn import analysis
from marn.errors import MarnError
from marn.figures.style import COLOURS, GREY, check_columns, curve, lay_out, rounded

_READINGS = ("paper", "released")
_POINTS = 300  # points of a curve over codes; single codes scatter too much to compare curves


def focal_curves() -> go.Figure:
    """Draw the focal loss of a present code against its predicted probability.

    References:
        Eq. 16 without alpha, which only rescales; gamma 0 is cross-entropy.
    """
    p = np.linspace(0.01, 1, 100)
    traces = [
        curve(p, analysis.focal_term(p, gamma), f"γ = {gamma:g}", "p = %{x}: %{y:.3f} nats")
        for gamma in (0, 0.5, 1, 2, 5)
    ]
    return lay_out(
        go.Figure(traces),
        "Focal loss (1 − p)^γ · (−log p)",
        xaxis_title="predicted probability p of a present code",
        yaxis_title="loss (nats)",
    )


def focal_optimum(
    alpha: float = 0.999,
    gammas: Sequence[float] = (0, 0.5, 1, 2, 3, 5),
    readings: Sequence[str] = _READINGS,
) -> go.Figure:
    """Draw the output that minimises each reading of the focal loss, against the true probability.

    Args:
        alpha: weight of Eq. 16; the point 1 - alpha is marked.
        gammas: focusing exponents; more than one gives a slider, which starts at 2 if that is
            among them.
        readings: any of "paper" and "released", see `marn.analysis.focal_optimum`.

    Raises:
        MarnError: alpha or a gamma is out of range, or a reading is unknown.

    References:
        Eq. 16.
    """
    truth = 1 / (1 + np.exp(-np.linspace(-9.2, 9.2, 93)))  # 0.0001 to 0.9999, even in log-odds
    names = {"paper": f"Eq. 16, α = {alpha:g}", "released": "released code"}
    hover = "true %{x}: best output %{y:.3f}"

    def curves(gamma: float) -> list[go.Scatter]:
        best = {r: analysis.focal_optimum(truth, alpha, gamma, r) for r in readings}
        lines = {r: {"color": COLOURS[_READINGS.index(r)]} for r in readings}
        return [curve(truth, best[r], names[r], hover, line=lines[r]) for r in readings]

    start = list(gammas).index(2) if 2 in gammas else 0
    figure = lay_out(
        go.Figure(curves(gammas[start])),
        "Best output under the focal loss",
        525,
        showlegend=True,
        xaxis={
            "title": "true probability of a code",
            "type": "log",
            "range": [-4, 0],
            "tickvals": [0.0001, 0.001, 0.01, 0.1, 0.5],
            "ticktext": ["0.01%", "0.1%", "1%", "10%", "50%"],
        },
        yaxis={"title": "best output", "range": [-0.02, 1.02], "dtick": 0.25, "tickformat": ".0%"},
    )
    figure.add_hline(y=0.5, line={"dash": "dot", "color": GREY})
    if "paper" in readings:
        figure.add_vline(x=1 - alpha, line={"dash": "dot", "color": COLOURS[0]})
        x = round(float(np.log10(1 - alpha)), 4)  # annotations on a log axis take logarithms
        side = "left" if x < -2 else "right"  # within the axis
        label = {"text": f"1 − α = {1 - alpha:.3g}", "xanchor": side, "yanchor": "top"}
        figure.add_annotation(label, x=x, y=0.98, showarrow=False)
    if len(gammas) > 1:
        # frames hold only what changes: the heights of the curves
        figure.frames = [
            go.Frame(name=f"{gamma:g}", data=[{"y": trace.y} for trace in curves(gamma)])
            for gamma in gammas
        ]
        options = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}}
        steps = [
            {"label": frame.name, "method": "animate", "args": [[frame.name], options]}
            for frame in figure.frames
        ]
        slider = {"active": start, "steps": steps, "currentvalue": {"prefix": "γ = "}}
        figure.update_layout(sliders=[slider | {"y": -0.24, "pad": {"t": 0}}], margin={"b": 235})
    return figure


def loss_by_frequency(losses: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Draw the normalised cross-entropy of each code, most frequent first, for several models.

    With more than 300 codes, each point is the median of a run of neighbouring codes.

    Args:
        losses: name of the training loss -> frame of `marn.analysis.loss_per_code`, all with the
            same codes in the same order.

    Raises:
        MarnError: the frames have different codes.

    References:
        Fig. 11 of the journal version (Fig. 10 of the preprint).
    """
    first = next(iter(losses.values()))
    runs = np.array_split(np.arange(len(first)), min(_POINTS, len(first)))
    middle = np.array([run[len(run) // 2] for run in runs])
    traces, heights = [], []
    for name, frame in losses.items():
        check_columns(name, frame, ("code", "frequency", "loss"))
        if not np.array_equal(frame["code"], first["code"]):
            raise MarnError(f"{name!r} must have the codes of the other losses, in the same order")
        loss, notes = frame["loss"].to_numpy(), frame["frequency"].to_numpy()[middle]
        heights += (medians := [float(np.median(loss[run])) for run in runs])
        hover = "rank %{x}, %{customdata} notes: %{y:.3~g}"
        traces.append(curve(middle + 1, medians, name, hover, customdata=rounded(notes)))
    drawn = [height for height in heights if height > 0] or [1]
    low, high = np.floor(np.log10([min(drawn), max(drawn)])).astype(int)
    axis: dict[str, Any] = {"type": "log", "exponentformat": "power", "dtick": 1}
    if high - low < 3:  # too few powers of ten to read a height by
        ticks = [step * 10.0**power for power in range(low, high + 1) for step in (1, 2, 5)]
        axis |= {"tickvals": rounded(ticks), "tickformat": "~r"}
    return lay_out(
        go.Figure(traces),
        "Normalised loss of each code",
        showlegend=True,
        xaxis_title="codes, from frequent to rare",
        yaxis={"title": "BCE / (frequency · notes)", **axis},
    )
