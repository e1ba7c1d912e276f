"""The conformance suite: every composition of pieces against the true meta-gradient.

Shipped with the package, so that a new solver, rate, scope or layer can be held to the same rules:

>>> from innerloop.solve import GradientDescent
>>> from innerloop.testing import Case, check_case, models
>>> case = Case("mine", models.FLAT["LayerNorm"], lambda: GradientDescent(0.3, 2))
>>> check_case(case).failures()
[]
"""

from . import models
from .case import Case, FeatureCase
from .cases import cases
from .conformance import BOUNDS, EXACT, Conformance, check_case
from .feature_cases import feature_cases

__all__ = [
    "BOUNDS",
    "EXACT",
    "Case",
    "Conformance",
    "FeatureCase",
    "cases",
    "check_case",
    "feature_cases",
    "models",
]
