"""Heads: features in, linear map out, solved at once. They never call autograd."""

from .head import Fit, Head
from .logistic import Logistic
from .ridge import Ridge
from .svm import SVM

__all__ = ["SVM", "Fit", "Head", "Logistic", "Ridge"]
