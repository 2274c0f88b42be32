"""Figures of code vectors in the plane of their principal components."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from marn.errors import MarnError
from marn.figures.style import COLOURS, GREY, check_lengths, dots, lay_out, rounded, wrapped


def code_clusters(
    icd_points: ArrayLike,
    ccs_points: ArrayLike,
    *,
    icd_names: Sequence[str],
    ccs_names: Sequence[str],
    explained: ArrayLike,
) -> go.Figure:
    """Draw ICD and CCS codes in the plane of their first two principal components.

    Args:
        icd_points: (C_icd, 2) float, see `marn.analysis.joint_pca`.
        ccs_points: (C_ccs, 2) float.
        icd_names: (C_icd,) code and title, shown on hover.
        ccs_names: (C_ccs,) the same for the CCS codes.
        explained: (2,) shares of variance, for the axes.

    Raises:
        MarnError: the lengths differ.

    References:
        Fig. 9 of the journal version (Fig. 8 of the preprint).
    """
    icd, ccs = np.asarray(icd_points, dtype=float), np.asarray(ccs_points, dtype=float)
    check_lengths(icd_points=icd, icd_names=icd_names)
    check_lengths(ccs_points=ccs, ccs_names=ccs_names)
    # SVG is slow beyond this; one kind for both, since WebGL is always drawn on top of SVG
    kind = go.Scattergl if max(len(icd), len(ccs)) > 3000 else go.Scatter
    small = {"color": COLOURS[0], "size": 5, "opacity": 0.9}
    large = {"color": COLOURS[1], "size": 8, "opacity": 0.9, "symbol": "diamond"}
    traces = [
        dots(icd, f"{len(icd):,} ICD codes", icd_names, kind, **small),
        dots(ccs, f"{len(ccs):,} CCS codes", ccs_names, kind, **large),
    ]
    first, second = np.asarray(explained)
    return lay_out(
        go.Figure(traces),
        "ICD and CCS codes in one plane",
        520,
        xaxis={"title": f"first component ({first:.0%} of variance)", "zeroline": False},
        yaxis={"title": f"second component ({second:.0%} of variance)", "zeroline": False},
    )


def ccs_neighbourhoods(
    icd_points: ArrayLike,
    ccs_points: ArrayLike,
    parent: ArrayLike,
    panels: Mapping[int, str],
    radius: float,
    *,
    icd_names: Sequence[str],
) -> go.Figure:
    """Draw some CCS codes, the ICD codes that map to each, and the circle that the test counts in.

    Args:
        icd_points: (C_icd, 2) float.
        ccs_points: (C_ccs, 2) float.
        parent: (C_icd,) int, row of `ccs_points` of each ICD code, -1 for none.
        panels: row of `ccs_points` -> title of its panel, two panels side by side.
        radius: radius of the circles, in the units of the points; the paper's is a tenth of
            `marn.analysis.diameter(icd_points)`.
        icd_names: (C_icd,) code and title, shown on hover for the ICD codes of a panel.

    Raises:
        MarnError: `icd_points` and `parent` differ in length, or a panel is not a row of
            `ccs_points`.

    References:
        Fig. 10 of the journal version (Fig. 9 of the preprint): CCS 3, 11, 195 and 223.
    """
    icd, ccs, owner = np.asarray(icd_points), np.asarray(ccs_points), np.asarray(parent)
    check_lengths(icd_points=icd, parent=owner)
    rows = -(-len(panels) // 2)
    titles = wrapped(list(panels.values()), 24)
    spaces = {"horizontal_spacing": 0.03, "vertical_spacing": 0.22 / rows}
    figure = make_subplots(rows=rows, cols=2, subplot_titles=titles, **spaces)
    lay_out(figure, "ICD codes around their CCS code", 150 + 240 * rows)
    figure.update_layout(margin={"t": 84, "l": 8, "r": 8, "b": 8})
    # one point per cell of a fine grid: closer points look like one, and each panel draws them all
    low, span = icd.min(axis=0), np.ptp(icd, axis=0).max() or 1.0
    cloud = low + np.unique(np.rint((icd - low) / span * 80), axis=0) * span / 80
    look = {"color": COLOURS[1], "size": 11, "symbol": "diamond"}
    for i, column in enumerate(panels):
        if not 0 <= column < len(ccs):
            raise MarnError(f"panels must be rows from 0 to {len(ccs) - 1}, but got {column}")
        place = {"row": i // 2 + 1, "col": i % 2 + 1}
        centre, own = ccs[column], (owner == column).nonzero()[0]
        names = [icd_names[j] for j in own]
        inside = np.count_nonzero(np.hypot(*(icd[own] - centre).T) <= radius)
        found = [f"{inside} of {len(own)} inside the circle"]
        for trace in (
            dots(cloud, "other ICD codes", None, color=GREY, size=5),
            dots(icd[own], "ICD codes of this CCS code", names, color=COLOURS[0], size=7),
            dots(centre[None], "the CCS code", found, **look),
        ):
            figure.add_trace(trace.update(showlegend=i == 0), **place)
        (x0, y0), (x1, y1) = rounded(centre - radius), rounded(centre + radius)
        circle = {"type": "circle", "x0": x0, "y0": y0, "x1": x1, "y1": y1}
        figure.add_shape(circle, line={"color": COLOURS[1]}, **place)
        # one scale for both axes, so that a circle is round
        figure.update_yaxes(scaleanchor=f"x{i + 1 if i else ''}", **place)
    figure.update_xaxes(showticklabels=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, zeroline=False)
    return figure.update_annotations(font_size=12)
