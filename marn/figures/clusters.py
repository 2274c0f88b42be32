"""Figures of code vectors in the plane of their principal components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from marn.errors import MarnError
from marn.figures.style import (
    COLOURS,
    GREY,
    check_lengths,
    dots,
    lay_out,
    new_figure,
    rounded,
    wrapped,
)


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
        icd_names: (C_icd,) code and title, shown on hover.
        ccs_names: (C_ccs,) likewise.
        explained: (2,) shares of variance, for the axes.

    Raises:
        MarnError: if the lengths differ.

    References:
        Fig. 9 of the journal version (Fig. 8 of the preprint).
    """
    clouds = [np.asarray(points, dtype=float) for points in (icd_points, ccs_points)]
    # SVG is slow beyond this; one kind for both, since WebGL is always drawn on top of SVG
    kind = go.Scattergl if max(map(len, clouds)) > 3000 else go.Scatter
    traces = []
    for i, (cloud, names) in enumerate(zip(clouds, (icd_names, ccs_names), strict=True)):
        if names is not None:
            check_lengths(points=cloud, names=names)
        title = f"{len(cloud):,} {('ICD', 'CCS')[i]} codes"
        look = ({"size": 5, "opacity": 0.5}, {"size": 8, "opacity": 0.9, "symbol": "diamond"})[i]
        traces.append(dots(cloud, title, names, kind, color=COLOURS[i], **look))
    axes = ["first component", "second component"]
    if explained is not None:
        shares = np.asarray(explained)
        axes = [f"{axis} ({s:.0%} of variance)" for axis, s in zip(axes, shares, strict=True)]
    figure = new_figure("ICD and CCS codes in one plane", *axes, height=520, traces=traces)
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
        radius: radius of the circles, in the units of the points; the paper's is a tenth of
            `marn.analysis.diameter(icd_points)`.
        icd_names: (C_icd,) code and title, shown on hover for the ICD codes of a panel.

    Raises:
        MarnError: if the lengths differ or a panel is not a row of `ccs_points`.

    References:
        Fig. 10 of the journal version (Fig. 9 of the preprint): CCS 3, 11, 195 and 223.
    """
    icd, ccs = np.asarray(icd_points, dtype=float), np.asarray(ccs_points, dtype=float)
    owner = np.asarray(parent)
    check_lengths(icd_points=icd, parent=owner)
    for column in panels:
        if not 0 <= column < len(ccs):
            raise MarnError(f"panels must be rows from 0 to {len(ccs) - 1}, but got {column}")
    rows = -(-len(panels) // 2)
    figure = make_subplots(
        rows=rows,
        cols=2,
        horizontal_spacing=0.03,
        vertical_spacing=0.22 / rows,
        subplot_titles=wrapped(list(panels.values()), 24),
    )
    lay_out(figure, "ICD codes around their CCS code", 150 + 240 * rows)
    figure.update_layout(margin={"t": 84, "l": 8, "r": 8, "b": 8})
    cloud = _thinned(icd)
    for i, column in enumerate(panels):
        _add_panel(figure, i, cloud, icd, ccs[column], owner == column, radius, icd_names)
    figure.update_xaxes(showticklabels=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, zeroline=False)
    figure.update_annotations(font_size=12)
    return figure


def _thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep one point per cell of a fine grid: more cannot be told apart, and each panel has all."""
    low, span = points.min(axis=0), np.ptp(points, axis=0).max() or 1.0
    return low + np.unique(np.rint((points - low) / span * 80), axis=0) * span / 80


def _add_panel(
    figure: go.Figure,
    i: int,
    cloud: NDArray[np.float64],
    icd: NDArray[np.float64],
    centre: NDArray[np.float64],
    own: NDArray[np.bool_],
    radius: float,
    icd_names: Sequence[str] | None,
) -> None:
    """Draw panel i: the cloud of all codes, those of one CCS code, that code and its circle."""
    place = {"row": i // 2 + 1, "col": i % 2 + 1}
    names = None if icd_names is None else [icd_names[int(j)] for j in own.nonzero()[0]]
    inside = own & (np.hypot(*(icd - centre).T) <= radius)
    found = [f"{inside.sum()} of {own.sum()} inside the circle"]
    look = {"color": COLOURS[1], "size": 11, "symbol": "diamond"}
    for trace in (
        dots(cloud, "other ICD codes", None, color=GREY, size=3, opacity=0.75),
        dots(icd[own], "ICD codes of this CCS code", names, color=COLOURS[0], size=7),
        dots(centre[None], "the CCS code", found, **look),
    ):
        figure.add_trace(trace.update(showlegend=i == 0), **place)
    x0, y0, x1, y1 = rounded([*(centre - radius), *(centre + radius)])
    circle = {"type": "circle", "x0": x0, "y0": y0, "x1": x1, "y1": y1}
    figure.add_shape(circle, line={"color": COLOURS[1]}, **place)
    # one scale for both axes, so that a circle is round
    figure.update_yaxes(scaleanchor=f"x{i + 1 if i else ''}", **place)
