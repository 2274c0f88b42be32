"""The book's figures: arrays and frames in, a plotly `Figure` out.

Every figure leaves colours of text, grid and background to the page that shows it (template
"none"), reads on a phone, and holds plain lists rounded to four digits, so that its JSON is small
and the same on every machine. No figure computes a result: see `marn.analysis`.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from marn import analysis
from marn.errors import MarnError
from marn.privacy import check_may_show

__all__ = [
    "attention_heatmap",
    "ccs_neighbourhoods",
    "code_clusters",
    "code_frequency",
    "code_tree",
    "f1_by_frequency",
    "focal_curves",
    "focal_optimum",
    "loss_by_frequency",
    "note_lengths",
    "score_bars",
    "training_curves",
]

# Legible on white and on near-black.
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2")
GREY = "#8b949e"


def _figure(
    title: str, x: str = "", y: str = "", *, height: int = 420, traces: Sequence[Any] = ()
) -> go.Figure:
    """Return a figure with the house layout: title wrapped for a phone, legend below."""
    figure = go.Figure(list(traces))
    _lay_out(figure, title, height)
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    return figure


def _lay_out(figure: go.Figure, title: str, height: int) -> None:
    lines = textwrap.wrap(title, 42)
    figure.update_layout(
        template="none",
        colorway=COLOURS,
        title={
            "text": "<br>".join(map(_escape, lines)),
            "font": {"size": 15},
            "x": 0.02,
            "xanchor": "left",
            "yref": "container",
            "y": round(1 - 12 / height, 4),
            "yanchor": "top",
        },
        height=height,
        margin={"l": 60, "r": 16, "t": 28 + 20 * len(lines), "b": 56},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0.01,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
        },
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)


def _round(values: ArrayLike, digits: int = 4) -> list[Any]:
    """Return `values` as a list of numbers with so many significant digits, None for NaN."""
    array = np.asarray(values)
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        return array.tolist()
    return [
        None if not np.isfinite(value) else float(f"{value:.{digits}g}") for value in array.tolist()
    ]


def _escape(text: str) -> str:
    """Keep plotly from reading "<500g" in a code's title as a tag."""
    return html.escape(str(text), quote=False)


def _hover(names: Sequence[str], width: int = 40) -> list[str]:
    return ["<br>".join(map(_escape, textwrap.wrap(str(name), width))) for name in names]


def _same_length(**arrays: Any) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise MarnError(
            "Expected arrays of one length, but got "
            + ", ".join(f"{size} for `{name}`" for name, size in lengths.items())
            + "."
        )


# -- the data -------------------------------------------------------------------------------------


def code_frequency(
    frequency: ArrayLike, *, names: Sequence[str] | None = None, system: str = "ICD"
) -> go.Figure:
    """Draw how many notes have each code, most frequent first.

    Args:
        frequency: (C,) int, notes with each code.
        names: (C,) code and title, shown under the pointer. Without names, only the points where
            the curve turns are kept: the same curve from a fraction of the numbers.
        system: "ICD" or "CCS", for the title and the axis.

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
        _same_length(frequency=counts, names=names)
        kept = np.arange(len(counts))
        text = _hover([names[i] for i in order])
    trace = go.Scatter(
        x=_round(kept + 1),
        y=_round(heights[kept]),
        text=text,
        mode="lines",
        fill="tozeroy",
        hovertemplate=("%{text}<br>" if text else "") + "rank %{x}: %{y} notes<extra></extra>",
    )
    figure = _figure(
        f"Notes per {system} code",
        f"{system} code, by rank of frequency",
        "notes",
        height=360,
        traces=[trace],
    )
    figure.update_yaxes(rangemode="tozero")
    buttons = [
        {"label": scale, "method": "relayout", "args": [{"yaxis.type": scale}]}
        for scale in ("linear", "log")
    ]
    figure.update_layout(
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "buttons": buttons,
                "x": 1,
                "xanchor": "right",
                "y": 1,
                "yanchor": "top",
                "showactive": True,
            }
        ]
    )
    return figure


def code_tree(codes: pd.DataFrame, *, title: str = "ICD codes and their CCS codes") -> go.Figure:
    """Draw ICD codes on the left, the CCS codes they map to on the right.

    Args:
        codes: one row per ICD code, in the order drawn, with the columns `code`, `title`, `ccs`
            and `ccs_title` (all str).
        title: of the figure.

    Raises:
        MarnError: if a column is missing or there is no code.

    References:
        Fig. 2: 427.31 and 427.89 both map to CCS 106.
    """
    _columns("codes", codes, ("code", "title", "ccs", "ccs_title"))
    if codes.empty:
        raise MarnError("Expected `codes` to have at least one row.")
    left = -np.arange(len(codes), dtype=float)
    right = pd.Series(left).groupby(codes["ccs"].to_numpy()).mean()
    titles = dict(zip(codes["ccs"], codes["ccs_title"], strict=True))
    x: list[float | None] = []
    y: list[float | None] = []
    for height, ccs in zip(left, codes["ccs"], strict=True):
        x += [0.44, 0.56, None]
        y += [height, float(right[ccs]), None]
    figure = _figure(
        title,
        height=100 + 84 * len(codes),
        traces=[go.Scatter(x=x, y=y, mode="lines", line={"color": GREY}, hoverinfo="skip")],
    )

    def box(x: float, y: float, name: str, text: str, colour: str) -> dict[str, Any]:
        lines = [f"<b>{_escape(name)}</b>", *map(_escape, textwrap.wrap(text, 21))]
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

    boxes = [
        box(0.44, height, code, text, COLOURS[0])
        for height, code, text in zip(left, codes["code"], codes["title"], strict=True)
    ]
    boxes += [
        box(0.56, float(height), f"CCS {ccs}", titles[ccs], COLOURS[1])
        for ccs, height in right.items()
    ]
    figure.update_layout(annotations=boxes, showlegend=False)
    figure.update_layout(margin={"l": 8, "r": 8, "b": 8})
    figure.update_xaxes(visible=False, range=[0, 1], fixedrange=True)
    figure.update_yaxes(visible=False, range=[left[-1] - 0.5, 0.5], fixedrange=True)
    return figure


def note_lengths(
    lengths: Mapping[str, ArrayLike], *, mark: int = 512, longest: int = 4000
) -> go.Figure:
    """Draw how long the notes are, and which share of them is longer than `mark`.

    Args:
        lengths: corpus or split name -> (N,) int, tokens of each note before truncation.
        mark: length marked, in tokens; 512 is what BERT reads at once.
        longest: notes of this many tokens and more share the last bar; 4,000 is where MARN cuts.

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
            raise MarnError(f"Expected `lengths` of at least one note for {name!r}, but got none.")
        share = np.histogram(tokens, edges)[0] / len(tokens)
        traces.append(
            go.Bar(
                x=_round(middles),
                y=_round(share),
                width=width * 0.96,
                name=f"{_escape(name)}: {(tokens > mark).mean():.1%} over {mark} tokens",
                marker={"color": COLOURS[i % len(COLOURS)]},
                opacity=1 if len(lengths) == 1 else 0.6,
                customdata=labels,
                hovertemplate="%{customdata} tokens: %{y:.1%}<extra></extra>",
            )
        )
    figure = _figure("Length of the notes", "tokens", "share of notes", traces=traces)
    figure.update_layout(barmode="overlay", showlegend=True)
    ticks = np.arange(0, longest + 1, longest // 4)
    figure.update_xaxes(
        tickvals=_round(ticks), ticktext=[f"{tick:,}" for tick in ticks[:-1]] + [f"{longest:,}+"]
    )
    figure.update_yaxes(tickformat=".0%")
    figure.add_vline(
        x=mark,
        line={"dash": "dash", "color": COLOURS[3]},
        annotation={"text": f"{mark}", "font": {"color": COLOURS[3]}},
    )
    return figure


# -- the focal loss -------------------------------------------------------------------------------


def focal_curves(gammas: Sequence[float] = (0, 0.5, 1, 2, 5)) -> go.Figure:
    """Draw the loss of a present code against the probability the model gives it.

    Args:
        gammas: focusing exponents, one curve each; 0 is cross-entropy.

    References:
        Eq. 16 without alpha, which only rescales.
    """
    p = np.linspace(0.01, 1, 100)
    traces = [
        go.Scatter(
            x=_round(p),
            y=_round(analysis.focal_term(p, gamma)),
            mode="lines",
            name=f"γ = {gamma:g}",
            hovertemplate="p = %{x}: %{y:.3f} nats",
        )
        for gamma in gammas
    ]
    return _figure(
        "Focal loss (1 − p)^γ · (−log p)",
        "probability p given to a present code",
        "loss (nats)",
        traces=traces,
    )


def focal_optimum(
    alpha: float = 0.999,
    gammas: Sequence[float] = (0, 0.5, 1, 2, 3, 5),
    readings: Sequence[str] = ("paper", "released"),
) -> go.Figure:
    """Draw the output that each reading of the focal loss asks for, against the true probability.

    Args:
        alpha: weight of Eq. 16; the point 1 - alpha is marked.
        gammas: focusing exponents; more than one gives a slider, which starts at 2 if it is there.
        readings: of "paper" and "released", see `marn.analysis.focal_optimum`.

    References:
        Eq. 16.
    """
    truth = 1 / (1 + np.exp(-np.linspace(-9.2, 9.2, 93)))  # 0.0001 to 0.9999, even in log odds
    start = list(gammas).index(2) if 2 in gammas else 0

    def curves(gamma: float) -> list[go.Scatter]:
        return [
            go.Scatter(
                x=_round(truth),
                y=_round(analysis.focal_optimum(truth, alpha, gamma, reading)),
                mode="lines",
                name={"paper": f"Eq. 16, α = {alpha:g}", "released": "released code"}[reading],
                line={"color": COLOURS[("paper", "released").index(reading)]},
                hovertemplate="true %{x}: best output %{y:.3f}",
            )
            for reading in readings
        ]

    figure = _figure(
        "Best output under the focal loss",
        "true probability of a code",
        "best output",
        height=460,
        traces=curves(gammas[start]),
    )
    figure.update_xaxes(type="log", tickvals=[0.0001, 0.001, 0.01, 0.1, 1], range=[-4, 0])
    figure.update_xaxes(ticktext=["0.01%", "0.1%", "1%", "10%", "100%"])
    figure.update_yaxes(range=[-0.02, 1.02])
    figure.add_hline(y=0.5, line={"dash": "dot", "color": GREY})
    if "paper" in readings:
        figure.add_vline(
            x=1 - alpha,
            line={"dash": "dot", "color": COLOURS[0]},
        )
        figure.add_annotation(  # a note on a log axis stands at the logarithm
            x=round(float(np.log10(1 - alpha)), 4),
            y=0.98,
            text=f"1 − α = {1 - alpha:.3g}",
            font={"color": COLOURS[0]},
            showarrow=False,
            xanchor="right",
            yanchor="top",
        )
    if len(gammas) > 1:
        figure.frames = [
            # only what changes: the heights
            go.Frame(name=f"{gamma:g}", data=[{"y": trace.y} for trace in curves(gamma)])
            for gamma in gammas
        ]
        steps = [
            {
                "label": f"{gamma:g}",
                "method": "animate",
                "args": [
                    [f"{gamma:g}"],
                    {"mode": "immediate", "frame": {"duration": 0, "redraw": False}},
                ],
            }
            for gamma in gammas
        ]
        slider = {"active": start, "steps": steps, "currentvalue": {"prefix": "γ = "}, "y": -0.24}
        figure.update_layout(sliders=[slider | {"pad": {"t": 0}}], margin={"b": 170})
    figure.update_layout(showlegend=True)
    return figure


# -- training and results -------------------------------------------------------------------------


def training_curves(
    history: pd.DataFrame,
    scores: Sequence[str] = ("dev/icd/micro_f1", "dev/icd/macro_f1"),
    *,
    best_epoch: int | None = None,
) -> go.Figure:
    """Draw the training loss above and scores below, epoch by epoch.

    Args:
        history: one row per epoch with the columns `epoch`, `loss` (mean over the epoch's
            batches) and those named in `scores` (fractions).
        scores: columns drawn in the lower panel.
        best_epoch: epoch marked in both panels, the one whose weights were kept.

    Raises:
        MarnError: if a column is missing.
    """
    _columns("history", history, ("epoch", "loss", *scores))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    _lay_out(figure, "Training", 520)
    for i, column in enumerate(("loss", *scores)):
        figure.add_scatter(
            x=_round(history["epoch"].to_numpy()),
            y=_round(history[column].to_numpy()),
            mode="lines+markers",
            name="training loss" if column == "loss" else column,
            line={"color": COLOURS[i % len(COLOURS)]},
            hovertemplate="epoch %{x}: %{y:.4~g}",
            row=1 if column == "loss" else 2,
            col=1,
        )
    figure.update_xaxes(title_text="epoch", row=2)
    figure.update_xaxes(tickformat="d")
    figure.update_yaxes(title_text="loss (nats)", row=1)
    figure.update_yaxes(title_text="score", tickformat=".0%", row=2)
    if best_epoch is not None:
        figure.add_vline(x=best_epoch, line={"dash": "dot", "color": GREY})
        figure.layout.title.text += f" (best: epoch {best_epoch})"
    return figure


def score_bars(
    scores: pd.DataFrame, *, metric: str = "macro F1", start: float = 0.0, title: str = ""
) -> go.Figure:
    """Draw one bar per system with its interval, and the published score as a diamond.

    Args:
        scores: one row per bar, in the order drawn from the top, with the columns `name` (str)
            and `mean` (fraction); optionally `low` and `high` (ends of the interval), `published`
            (fraction) and `part` (str: bars of one name side by side, as in Fig. 8). NaN in an
            optional column draws nothing.
        metric: name of the score, for the axis.
        start: where the axis begins, as a fraction. Bars mislead unless it is 0; Fig. 8 of the
            paper begins near 0.45.
        title: of the figure; by default the metric.

    Raises:
        MarnError: if a column is missing.

    References:
        Fig. 8, Tables 1 to 6.
    """
    _columns("scores", scores, ("name", "mean"))
    parts = list(dict.fromkeys(scores["part"])) if "part" in scores else [None]
    names = list(dict.fromkeys(scores["name"]))
    step = 0.8 / len(parts)
    figure = _figure(
        title or metric[:1].upper() + metric[1:],
        metric,
        height=150 + 26 * max(len(scores), 3) + 10 * len(names),
    )
    if "part" in scores:
        figure.update_layout(height=figure.layout.height + 26 * len(parts))
    place = np.zeros(len(scores))
    for i, part in enumerate(parts):
        here = np.ones(len(scores), bool) if part is None else (scores["part"] == part).to_numpy()
        rows = scores[here]
        # numbers, not names, on the axis: bars, intervals and diamonds share one place
        place[here] = rows["name"].map(names.index) + (i - (len(parts) - 1) / 2) * step
        figure.add_bar(
            x=_round(rows["mean"].to_numpy(dtype=float)),
            y=_round(place[here]),
            orientation="h",
            width=round(step * 0.92, 4),
            name=_escape(part or "ours"),
            marker={"color": COLOURS[i % len(COLOURS)]},
            text=_hover([f"{name} · {part}" if part else name for name in rows["name"]]),
            textposition="none",
            hovertemplate="%{text}: %{x:.1%}<extra></extra>",
        )
    if "low" in scores and "high" in scores:
        x: list[Any] = []
        y: list[Any] = []
        for low, high, at in zip(scores["low"], scores["high"], place, strict=True):
            if low == low:  # not NaN: one seed has no interval
                x += [*_round([low, high]), None]
                y += [*_round([at, at]), None]
        for width, colour in ((6, "#ffffff"), (2.5, "#24292f")):  # seen on light, dark and bars
            figure.add_scatter(
                x=x,
                y=y,
                mode="lines",
                line={"color": colour, "width": width},
                showlegend=False,
                hoverinfo="skip",
            )
    if "published" in scores and scores["published"].notna().any():
        figure.add_scatter(
            x=_round(scores["published"].to_numpy(dtype=float)),
            y=_round(place),
            mode="markers",
            name="published",
            marker={
                "symbol": "diamond",
                "size": 10,
                "color": "#ffffff",
                "line": {"color": "#24292f", "width": 1.5},
            },
            hovertemplate="published: %{x:.1%}<extra></extra>",
        )
    figure.update_layout(barmode="overlay", showlegend=len(figure.data) > 1)
    figure.update_xaxes(tickformat=".0%", range=[start, _top(scores)])
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=_hover(names, 18),
        range=[len(names) - 0.4, -0.6],
    )
    return figure


def _top(scores: pd.DataFrame) -> float:
    """End of a score axis: a little past everything drawn, but not past 1."""
    drawn = scores[[c for c in ("mean", "high", "published") if c in scores]].max().max()
    return min(1.0, round(float(drawn) * 1.05 + 0.005, 2))


def loss_by_frequency(losses: Mapping[str, pd.DataFrame], *, points: int = 300) -> go.Figure:
    """Draw the normalised cross-entropy of each code, most frequent first, for several models.

    Args:
        losses: name of the training loss -> frame of `marn.analysis.loss_per_code`, all with the
            same codes in the same order.
        points: with more codes than this, each point is the median of a run of neighbouring
            codes; single codes scatter too much to compare two curves.

    Raises:
        MarnError: if the frames differ in codes.

    References:
        Fig. 11 of the journal version (Fig. 10 of the preprint).
    """
    frames = list(losses.values())
    for name, frame in losses.items():
        _columns(name, frame, ("code", "frequency", "loss"))
        if not np.array_equal(frame["code"], frames[0]["code"]):
            raise MarnError(f"Expected {name!r} to have the codes of the other losses, in order.")
    codes = len(frames[0])
    runs = np.array_split(np.arange(codes), min(points, codes))
    middle = [int(run[len(run) // 2]) for run in runs]
    traces = [
        go.Scatter(
            x=_round(np.array(middle) + 1),
            y=_round([np.median(frame["loss"].to_numpy()[run]) for run in runs]),
            customdata=_round(frame["frequency"].to_numpy()[middle]),
            mode="lines",
            name=_escape(name),
            hovertemplate="rank %{x}, %{customdata} notes: %{y:.3~g}",
        )
        for name, frame in losses.items()
    ]
    figure = _figure(
        "Normalised loss of each code",
        "code, from frequent to rare",
        "BCE / (frequency · notes)",
        traces=traces,
    )
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    figure.update_layout(showlegend=True)
    return figure


def f1_by_frequency(
    frequency: ArrayLike, f1: Mapping[str, ArrayLike], *, groups: int = 8
) -> go.Figure:
    """Draw the F1 of each code against how often training showed it.

    The line joins means over groups of equally many codes. Codes that training never showed are
    left out, and the title counts them.

    Args:
        frequency: (C,) int, training notes with each code.
        f1: name of the system -> (C,) float, the F1 of each code in [0, 1].
        groups: of codes with neighbouring frequencies.

    Raises:
        MarnError: if the lengths differ or no code occurs.
    """
    counts = np.asarray(frequency)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    if len(order) == 0:
        raise MarnError("Expected `frequency` with at least one code that occurs.")
    runs = np.array_split(order, min(groups, len(order)))
    centres = [float(np.exp(np.log(counts[run]).mean())) for run in runs]
    unseen = len(counts) - len(order)
    figure = _figure(
        "F1 by frequency of the code" + (f" ({unseen:,} unseen codes left out)" if unseen else ""),
        "training notes with the code",
        "F1",
    )
    for i, (name, values) in enumerate(f1.items()):
        _same_length(frequency=counts, **{name: np.asarray(values)})
        score, colour = np.asarray(values, dtype=float), COLOURS[i % len(COLOURS)]
        if len(order) <= 500:  # beyond that the cloud hides the line and the page grows
            figure.add_scatter(
                x=_round(counts[order]),
                y=_round(score[order]),
                mode="markers",
                marker={"color": colour, "size": 6, "opacity": 0.4},
                legendgroup=str(i),
                showlegend=False,
                hovertemplate="%{x} notes: %{y:.1%}<extra></extra>",
            )
        figure.add_scatter(
            x=_round(centres),
            y=_round([score[run].mean() for run in runs]),
            customdata=[len(run) for run in runs],
            mode="lines+markers",
            line={"color": colour, "width": 3},
            legendgroup=str(i),
            name=_escape(name),
            hovertemplate="mean of %{customdata} codes: %{y:.1%}",
        )
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(tickformat=".0%", range=[-0.02, 1.02])
    figure.update_layout(showlegend=True)
    return figure


# -- the codes in the plane -----------------------------------------------------------------------


def code_clusters(
    icd_points: ArrayLike,
    ccs_points: ArrayLike,
    *,
    icd_names: Sequence[str] | None = None,
    ccs_names: Sequence[str] | None = None,
    explained: ArrayLike | None = None,
) -> go.Figure:
    """Draw ICD and CCS codes in the plane of their first two principal components.

    Args:
        icd_points: (C_icd, 2) float, see `marn.analysis.joint_pca`.
        ccs_points: (C_ccs, 2) float.
        icd_names: (C_icd,) code and title, shown under the pointer.
        ccs_names: (C_ccs,) likewise.
        explained: (2,) shares of variance, for the axes.

    References:
        Fig. 9 of the journal version (Fig. 8 of the preprint).
    """
    clouds = [np.asarray(points, dtype=float) for points in (icd_points, ccs_points)]
    # SVG is slow beyond; one kind for both, as WebGL always covers SVG
    kind = go.Scattergl if max(map(len, clouds)) > 3000 else go.Scatter
    traces = []
    for i, (cloud, names) in enumerate(zip(clouds, (icd_names, ccs_names), strict=True)):
        if names is not None:
            _same_length(points=cloud, names=names)
        traces.append(
            kind(
                x=_round(cloud[:, 0], 3),
                y=_round(cloud[:, 1], 3),
                text=None if names is None else _hover(names),
                mode="markers",
                name=f"{len(cloud):,} {('ICD', 'CCS')[i]} codes",
                marker={
                    "color": COLOURS[i],
                    "size": (5, 8)[i],
                    "opacity": (0.5, 0.9)[i],
                    "symbol": ("circle", "diamond")[i],
                },
                hoverinfo="skip" if names is None else "text",
            )
        )
    shares = (
        ["", ""]
        if explained is None
        else [f" ({s:.0%} of variance)" for s in np.asarray(explained)]
    )
    figure = _figure(
        "ICD and CCS codes in one plane",
        "first component" + shares[0],
        "second component" + shares[1],
        height=520,
        traces=traces,
    )
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(zeroline=False)
    return figure


def ccs_neighbourhoods(
    icd_points: ArrayLike,
    ccs_points: ArrayLike,
    parent: ArrayLike,
    panels: Mapping[int, str],
    radius: float,
    *,
    icd_names: Sequence[str] | None = None,
) -> go.Figure:
    """Draw some CCS codes, the ICD codes that map to each, and the circle of the test.

    Args:
        icd_points: (C_icd, 2) float.
        ccs_points: (C_ccs, 2) float.
        parent: (C_icd,) int, row of `ccs_points` of each ICD code, -1 for none.
        panels: row of `ccs_points` -> title of its panel, two panels side by side.
        radius: of the circles, in the units of the points; a tenth of
            `marn.analysis.diameter(icd_points)` in the paper.
        icd_names: (C_icd,) code and title, shown under the pointer for the ICD codes of a panel.

    Raises:
        MarnError: if the lengths differ or a panel is no row of `ccs_points`.

    References:
        Fig. 10 of the journal version (Fig. 9 of the preprint): CCS 3, 11, 195 and 223.
    """
    icd, ccs = np.asarray(icd_points, dtype=float), np.asarray(ccs_points, dtype=float)
    owner = np.asarray(parent)
    _same_length(icd_points=icd, parent=owner)
    for column in panels:
        if not 0 <= column < len(ccs):
            raise MarnError(f"Expected panels from 0 to {len(ccs) - 1}, but got {column}.")
    rows = -(-len(panels) // 2)
    figure = make_subplots(
        rows=rows,
        cols=2,
        horizontal_spacing=0.03,
        vertical_spacing=0.22 / rows,
        subplot_titles=["<br>".join(map(_escape, textwrap.wrap(t, 24))) for t in panels.values()],
    )
    _lay_out(figure, "ICD codes around their CCS code", 150 + 240 * rows)
    figure.update_layout(margin={"t": 84, "l": 8, "r": 8, "b": 8})
    # the grey cloud is drawn once a panel: one point a cell of a fine grid is all one can see
    low, span = icd.min(axis=0), np.ptp(icd, axis=0).max() or 1.0
    cloud = low + np.unique(np.rint((icd - low) / span * 80), axis=0) * span / 80
    for i, column in enumerate(panels):
        own = owner == column
        inside = own & (np.hypot(*(icd - ccs[column]).T) <= radius)
        place = {"row": i // 2 + 1, "col": i % 2 + 1}
        figure.add_scatter(
            x=_round(cloud[:, 0], 3),
            y=_round(cloud[:, 1], 3),
            mode="markers",
            name="other ICD codes",
            showlegend=i == 0,
            marker={"color": GREY, "size": 3, "opacity": 0.35},
            hoverinfo="skip",
            **place,
        )
        figure.add_scatter(
            x=_round(icd[own, 0]),
            y=_round(icd[own, 1]),
            text=None if icd_names is None else _hover([icd_names[j] for j in own.nonzero()[0]]),
            mode="markers",
            name="ICD codes of this CCS code",
            showlegend=i == 0,
            marker={"color": COLOURS[0], "size": 7},
            hoverinfo="skip" if icd_names is None else "text",
            **place,
        )
        figure.add_scatter(
            x=_round(ccs[[column], 0]),
            y=_round(ccs[[column], 1]),
            mode="markers",
            name="the CCS code",
            showlegend=i == 0,
            marker={"color": COLOURS[1], "size": 11, "symbol": "diamond"},
            text=[f"{inside.sum()} of {own.sum()} inside the circle"],
            hoverinfo="text",
            **place,
        )
        (x0, y0), (x1, y1) = ccs[column] - radius, ccs[column] + radius
        x0, y0, x1, y1 = _round([x0, y0, x1, y1])
        figure.add_shape(
            type="circle", x0=x0, y0=y0, x1=x1, y1=y1, line={"color": COLOURS[1]}, **place
        )
    for i in range(len(panels)):  # one scale for both axes, so that a circle is round
        place = {"row": i // 2 + 1, "col": i % 2 + 1}
        figure.update_yaxes(scaleanchor=f"x{i + 1 if i else ''}", **place)
    figure.update_xaxes(showticklabels=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, zeroline=False)
    figure.update_annotations(font_size=12)
    return figure


# -- attention ------------------------------------------------------------------------------------


def attention_heatmap(
    weights: ArrayLike,
    words: Sequence[str],
    codes: Sequence[str],
    *,
    open_text: bool,
    title: str = "Attention",
    show_credentialed_text: bool = False,
) -> go.Figure:
    """Draw where each code looks in a passage.

    Args:
        weights: (C, T) float >= 0, attention of each code over the words of the passage.
        words: (T,) the words, a few dozen at most if they are to be read.
        codes: (C,) the codes.
        open_text: whether anyone may read the words: `corpus.is_open`.
        title: of the figure.
        show_credentialed_text: shows the words although they are not open.

    Raises:
        MarnError: if the words may not be shown, or the shapes do not fit.

    References:
        Eq. 12.
    """
    check_may_show(open_text, show_credentialed_text)
    values = np.asarray(weights, dtype=float)
    if values.shape != (len(codes), len(words)):
        raise MarnError(
            f"Expected `weights` of shape ({len(codes)}, {len(words)}), but got {values.shape}."
        )
    figure = _figure(
        title,
        height=170 + 30 * len(codes),
        traces=[
            go.Heatmap(
                z=[_round(row, 3) for row in values],
                customdata=[[_escape(word) for word in words]] * len(codes),
                zmin=0,
                # clear at 0: the page's own background shows, light or dark
                colorscale=[[0, "rgba(245,133,24,0)"], [1, "rgba(245,133,24,1)"]],
                colorbar={"thickness": 10, "outlinewidth": 0, "tickformat": ".0%"},
                xgap=1,
                ygap=1,
                hovertemplate="%{y}<br>%{customdata}: %{z:.1%}<extra></extra>",
            )
        ],
    )
    figure.update_xaxes(
        tickvals=list(range(len(words))),
        ticktext=[_escape(word) for word in words],
        tickangle=-90,
        tickfont={"size": 10},
    )
    figure.update_yaxes(
        tickvals=list(range(len(codes))), ticktext=_hover(codes, 18), autorange="reversed"
    )
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure


def _columns(name: str, frame: pd.DataFrame, needed: Sequence[str]) -> None:
    missing = [column for column in needed if column not in frame]
    if missing:
        raise MarnError(
            f"Expected `{name}` to have the columns {missing}, but it has {list(frame.columns)}."
        )
