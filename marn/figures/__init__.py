"""The book's figures: arrays and frames in, a plotly `Figure` out.

No figure computes a result: see `marn.analysis`. `marn.figures.style` has what they share.
"""

from marn.figures.clusters import ccs_neighbourhoods, code_clusters
from marn.figures.corpus import code_frequency, code_tree, note_lengths
from marn.figures.losses import focal_curves, focal_optimum, loss_by_frequency
from marn.figures.style import COLOURS, GREY, lay_out
from marn.figures.training import score_bars, training_curves

__all__ = [
    "COLOURS",
    "GREY",
    "ccs_neighbourhoods",
    "code_clusters",
    "code_frequency",
    "code_tree",
    "focal_curves",
    "focal_optimum",
    "lay_out",
    "loss_by_frequency",
    "note_lengths",
    "score_bars",
    "training_curves",
]
