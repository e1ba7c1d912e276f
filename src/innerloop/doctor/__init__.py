"""Looks at a user's model before training does: which layer would fail, and what to do."""

from .examine import check
from .gradient import ESTIMATORS, GradientRow, central_differences, check_gradient
from .report import CheckReport, Row

__all__ = [
    "ESTIMATORS",
    "CheckReport",
    "GradientRow",
    "Row",
    "central_differences",
    "check",
    "check_gradient",
]
