"""Figures that show words of a note, and so ask whether they may."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from marn.errors import MarnError
from marn.figures.style import escaped, new_figure, rounded, wrapped
from marn.privacy import check_may_show


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
        words: (T,) the words; a few dozen at most can be read.
        codes: (C,) the codes.
        open_text: whether the words are open: `corpus.is_open`.
        title: title of the figure.
        show_credentialed_text: show the words although they are not open.

    Raises:
        MarnError: if the words may not be shown, or the shapes do not fit.

    References:
        Eq. 12.
    """
    check_may_show(open_text, show_credentialed_text)
    values = np.asarray(weights, dtype=float)
    if values.shape != (len(codes), len(words)):
        raise MarnError(
            f"weights must have shape ({len(codes)}, {len(words)}), but got {values.shape}; give "
            "one row per code and one column per word"
        )
    shown = [escaped(word) for word in words]
    heatmap = go.Heatmap(
        z=[rounded(row, 3) for row in values],
        customdata=[shown] * len(codes),
        zmin=0,
        # transparent at 0: the page's own background shows, light or dark
        colorscale=[[0, "rgba(245,133,24,0)"], [1, "rgba(245,133,24,1)"]],
        colorbar={"thickness": 10, "outlinewidth": 0, "tickformat": ".0%"},
        xgap=1,
        ygap=1,
        hovertemplate="%{y}<br>%{customdata}: %{z:.1%}<extra></extra>",
    )
    figure = new_figure(title, height=170 + 30 * len(codes), traces=[heatmap])
    # numbers with labels, not categories: a word may occur twice
    figure.update_xaxes(tickvals=list(range(len(words))), ticktext=shown, tickangle=-90)
    figure.update_xaxes(tickfont={"size": 10}, showgrid=False, zeroline=False)
    figure.update_yaxes(tickvals=list(range(len(codes))), ticktext=wrapped(codes, 18))
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    return figure
