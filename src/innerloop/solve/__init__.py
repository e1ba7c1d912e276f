"""Inner solvers: gradient in, step out. They never call autograd."""

from .descent import Adam, GradientDescent, Momentum, Solver
from .penalty import Proximal
from .rates import Fixed, PerLayer, PerLayerPerStep, PerParameter, Rate, Scalar, as_rate

__all__ = [
    "Adam",
    "Fixed",
    "GradientDescent",
    "Momentum",
    "PerLayer",
    "PerLayerPerStep",
    "PerParameter",
    "Proximal",
    "Rate",
    "Scalar",
    "Solver",
    "as_rate",
]
