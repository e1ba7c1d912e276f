"""Scoring, comparing, drawing and using a trained method. Needs no trainer and no configuration."""

from .adapt import AdaptReport, adapt_images, load_adapted
from .compare import Comparison, compare
from .diagnose import LayerChange, Plane, layer_changes, parameter_plane
from .ensemble import Ensemble
from .report import write_report
from .result import EvaluationResult, with_interval
from .run import Evaluable, evaluate
from .sheet import Prediction, contact_sheet

__all__ = [
    "AdaptReport",
    "Comparison",
    "Ensemble",
    "Evaluable",
    "EvaluationResult",
    "LayerChange",
    "Plane",
    "Prediction",
    "adapt_images",
    "compare",
    "contact_sheet",
    "evaluate",
    "layer_changes",
    "load_adapted",
    "parameter_plane",
    "with_interval",
    "write_report",
]
