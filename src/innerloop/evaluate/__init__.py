"""Scoring and comparing a trained method. Needs no trainer and no configuration."""

from .compare import Comparison, compare
from .diagnose import LayerChange, Plane, layer_changes, parameter_plane
from .ensemble import Ensemble
from .result import EvaluationResult, with_interval
from .run import Evaluable, evaluate

__all__ = [
    "Comparison",
    "Ensemble",
    "Evaluable",
    "EvaluationResult",
    "LayerChange",
    "Plane",
    "compare",
    "evaluate",
    "layer_changes",
    "parameter_plane",
    "with_interval",
]
