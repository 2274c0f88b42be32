"""Share layout, colours, rounding and checks of input among all figures.

A figure leaves the colours of text, grid and background to the page that shows it (template
"none"), is legible on a phone, and holds plain lists rounded to four digits, so that its JSON is
small and the same on every machine.
"""

import functools
import html
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from numpy.typing import ArrayLike, NDArray

from marn.errors import MarnError

COLOURS: Final = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2")
"""Colours of traces, legible on white and on near-black."""

GREY: Final = "#8b949e"
"""Colour of lines and points in the background."""

_HERE: Final = {"displaylogo": False, "showSendToCloud": False}


def _keep_figures_here() -> None:
    """Remove plotly's button that uploads a figure, note text included, wherever one is shown.

    This applies to every plotly figure of the process, not only to ours: in a notebook (`marn`
    imports this module in a kernel), in a browser and on an exported page.
    """
    for name in plotly.io.renderers:
        renderer = plotly.io.renderers[name]
        if hasattr(renderer, "config"):
            renderer.config = {**(renderer.config or {}), **_HERE}
    for name in ("to_html", "write_html"):
        setattr(plotly.io, name, _exporting(getattr(plotly.io, name)))


def _exporting(export: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(export)
    def exported(*args: Any, **options: Any) -> Any:
        bound = inspect.signature(export).bind(*args, **options)
        bound.arguments["config"] = {**_HERE, **(bound.arguments.get("config") or {})}
        return export(*bound.args, **bound.kwargs)

    return exported


_keep_figures_here()


def lay_out(figure: go.Figure, title: str, height: int = 420, **layout: Any) -> go.Figure:
    """Apply the house layout in place: title wrapped for a phone, legend below.

    Args:
        figure: the figure, which is also returned.
        title: plain text; it is escaped.
        height: in pixels.
        layout: other arguments of `update_layout`, such as `xaxis_title="epoch"`.
    """
    lines = textwrap.wrap(title, 42)
    figure.update_layout(
        template="none",
        colorway=COLOURS,
        title={"text": "<br>".join(map(escaped, lines)), "font": {"size": 15}},
        title_x=0.02,
        title_xanchor="left",
        title_yref="container",
        title_y=round(1 - 12 / height, 4),
        title_yanchor="top",
        height=height,
        margin={"l": 60, "r": 16, "t": 28 + 20 * len(lines), "b": 56},
        legend={"orientation": "h", "x": 0, "xanchor": "left"},
        legend_yref="container",
        legend_y=0.01,
        legend_yanchor="bottom",
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure.update_layout(**layout)


def rounded(values: ArrayLike, digits: int = 4) -> list[Any]:
    """Return numbers rounded to `digits` significant digits, None for those that are not finite.

    Integers are returned unchanged.

    Example:
        >>> rounded([1 / 3, float("nan"), 12345.6])
        [0.3333, None, 12350.0]
    """
    array = np.asarray(values)
    if np.issubdtype(array.dtype, np.integer):
        return array.tolist()
    return [float(f"{x:.{digits}g}") if np.isfinite(x) else None for x in array.tolist()]


def escaped(text: object) -> str:
    """Escape text for plotly, which would read the "<500g" of a title as a tag."""
    return html.escape(str(text), quote=False)


def wrapped(texts: Sequence[object], width: int = 40) -> list[str]:
    """Return texts escaped and broken into lines of at most `width` characters."""
    return ["<br>".join(map(escaped, textwrap.wrap(str(text), width))) for text in texts]


def curve(x: ArrayLike, y: ArrayLike, name: object, hover: str, **options: Any) -> go.Scatter:
    """Return a line through points, with the text shown on hover."""
    options = {"mode": "lines", "hovertemplate": hover, **options}
    return go.Scatter(x=rounded(x), y=rounded(y), name=escaped(name), **options)


def dots(
    points: NDArray[Any],
    name: object,
    texts: Sequence[object] | None,
    kind: Any = go.Scatter,
    **marker: Any,
) -> Any:
    """Return a trace of (n, 2) points; `texts` appear on hover, and None turns hovering off."""
    text = None if texts is None else wrapped(texts)
    hover = "skip" if texts is None else "text"
    x, y = rounded(points[:, 0], 3), rounded(points[:, 1], 3)
    return kind(x=x, y=y, name=name, text=text, hoverinfo=hover, mode="markers", marker=marker)


def check_lengths(**arrays: Any) -> None:
    """Raise MarnError for arrays of different lengths."""
    lengths = [len(array) for array in arrays.values()]
    if len(set(lengths)) > 1:
        found = " and ".join(map(str, lengths))
        raise MarnError(f"{' and '.join(arrays)} must have the same length, but got {found}")


def check_columns(name: str, frame: pd.DataFrame, needed: Sequence[str]) -> None:
    """Raise MarnError for a frame without the columns that a figure needs."""
    missing = [column for column in needed if column not in frame]
    if missing:
        raise MarnError(f"{name} lacks the columns {missing}; it has {list(frame.columns)}")
