"""What adapted weights are judged by, inside (terms) and outside (objectives), with metrics."""

from ..core.contract import Metric, Objective, Outcome
from .bootstrapped import Bootstrapped
from .discriminator import Discriminator
from .losses import Loss, as_loss, per_task
from .metrics import accuracy, as_metric, bit_accuracy, mae, mse
from .multi_step import MultiStep
from .query import ComputedQuery, Query, Wrapped
from .terms import Computed, Decay, Fit, Proximal, Regulariser, Situation, Term, Weighted

__all__ = [
    "Bootstrapped",
    "Computed",
    "ComputedQuery",
    "Decay",
    "Discriminator",
    "Fit",
    "Loss",
    "Metric",
    "MultiStep",
    "Objective",
    "Outcome",
    "Proximal",
    "Query",
    "Regulariser",
    "Situation",
    "Term",
    "Weighted",
    "Wrapped",
    "accuracy",
    "as_loss",
    "as_metric",
    "bit_accuracy",
    "mae",
    "mse",
    "per_task",
]
