"""Inner solvers: gradient in, step out. They never call autograd."""

from .descent import Adam, AdamW, GradientDescent, Momentum
from .meta_lstm import MetaLSTM
from .newton import NewtonCG
from .rates import Fixed, PerLayer, PerLayerPerStep, PerParameter, Rate, Scalar, as_rate
from .solver import Solver
from .transform import Clip, DropGrad, MetaCurvature, Sign, Transformed

__all__ = [
    "Adam",
    "AdamW",
    "Clip",
    "DropGrad",
    "Fixed",
    "GradientDescent",
    "MetaCurvature",
    "MetaLSTM",
    "Momentum",
    "NewtonCG",
    "PerLayer",
    "PerLayerPerStep",
    "PerParameter",
    "Rate",
    "Scalar",
    "Sign",
    "Solver",
    "Transformed",
    "as_rate",
]
