"""Figures, drawn with matplotlib's Agg canvas and without its global state."""

from .curves import learning_curves, score_by_step, score_histogram
from .episodes import episodes
from .parameters import layer_changes, parameter_plane
from .regression import fitted_curves
from .style import save, to_png, to_svg

__all__ = [
    "episodes",
    "fitted_curves",
    "layer_changes",
    "learning_curves",
    "parameter_plane",
    "save",
    "score_by_step",
    "score_histogram",
    "to_png",
    "to_svg",
]
