"""Meta-gradient estimators: how dphi/dmeta is applied to a vector. They import only core."""

from ..core.curvature import Curvature, FiniteDifference, ForwardOverReverse, ReverseOverReverse
from ..core.linear import ConjugateGradient, LinearSolver, Neumann
from .annealing import FirstOrderFirst
from .batching import mean_gradient, split
from .evolution import EvolutionStrategies
from .hessian_free import HessianFree
from .implicit import Implicit
from .reptile import Reptile
from .sweep import Adjoint, FirstOrder, Sweep, Turns
from .unrolled import Unrolled

__all__ = [
    "Adjoint",
    "ConjugateGradient",
    "Curvature",
    "EvolutionStrategies",
    "FiniteDifference",
    "FirstOrder",
    "FirstOrderFirst",
    "ForwardOverReverse",
    "HessianFree",
    "Implicit",
    "LinearSolver",
    "Neumann",
    "Reptile",
    "ReverseOverReverse",
    "Sweep",
    "Turns",
    "Unrolled",
    "mean_gradient",
    "split",
]
