"""Inner solvers: gradient in, step out. They never call autograd."""

from .descent import Adam, GradientDescent, Momentum
from .meta_lstm import MetaLSTM
from .newton import NewtonCG
from .penalty import Proximal
from .rates import Fixed, PerLayer, PerLayerPerStep, PerParameter, Rate, Scalar, as_rate
from .solver import Solver
from .transform import DropGrad, MetaCurvature, Sign, Transformed

__all__ = [
    "Adam",
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
    "Proximal",
    "Rate",
    "Scalar",
    "Sign",
    "Solver",
    "Transformed",
    "as_rate",
]
