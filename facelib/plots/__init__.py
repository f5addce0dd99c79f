"""Every plot: ROC, DET, score histograms, training curves, hardest pairs, embedding maps, contact sheets, sweeps.

Matplotlib is imported when something is drawn, on the Agg canvas: no window and no global pyplot state.
"""

from facelib.plots.evaluation import (
    plot_det,
    plot_embedding_map,
    plot_roc,
    plot_score_histograms,
    plot_training_curves,
    plot_worst_pairs,
)

__all__ = [
    "plot_det",
    "plot_embedding_map",
    "plot_roc",
    "plot_score_histograms",
    "plot_training_curves",
    "plot_worst_pairs",
]
