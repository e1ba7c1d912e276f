"""Learners: adapt on support -> predict on query."""

from .bootstrap import BootstrappedLearner
from .features import FeatureLearner
from .gradient import GradientLearner
from .head import HeadLearner
from .matching import FullContext, MatchingClassifier, MatchingLearner
from .per_step_norm import PerStepNorm
from .proto import ProtoClassifier, ProtoLearner
from .prototype_start import PrototypeStart

__all__ = [
    "BootstrappedLearner",
    "FeatureLearner",
    "FullContext",
    "GradientLearner",
    "HeadLearner",
    "MatchingClassifier",
    "MatchingLearner",
    "PerStepNorm",
    "ProtoClassifier",
    "ProtoLearner",
    "PrototypeStart",
]
