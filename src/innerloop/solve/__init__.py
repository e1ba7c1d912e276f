"""Inner solvers: gradient in, step out; and heads: features in, linear map out.

They never call autograd.
"""

from .descent import Adam, GradientDescent, Momentum
from .head import Fit, Head
from .logistic import Logistic
from .meta_lstm import MetaLSTM
from .newton import NewtonCG
from .penalty import Proximal
from .rates import Fixed, PerLayer, PerLayerPerStep, PerParameter, Rate, Scalar, as_rate
from .ridge import Ridge
from .solver import Solver
from .svm import SVM
from .transform import DropGrad, MetaCurvature, Sign, Transformed

__all__ = [
    "SVM",
    "Adam",
    "DropGrad",
    "Fit",
    "Fixed",
    "GradientDescent",
    "Head",
    "Logistic",
    "MetaCurvature",
    "MetaLSTM",
    "Momentum",
    "NewtonCG",
    "PerLayer",
    "PerLayerPerStep",
    "PerParameter",
    "Proximal",
    "Rate",
    "Ridge",
    "Scalar",
    "Sign",
    "Solver",
    "Transformed",
    "as_rate",
]
