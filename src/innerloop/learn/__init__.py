"""Learners: adapt on support -> predict on query."""

from .examples import Collected, InOrder, MiniBatches, StepExamples
from .features import FeatureLearner
from .gradient import GradientLearner
from .head import HeadLearner
from .matching import FullContext, MatchingClassifier, MatchingLearner
from .proto import ProtoClassifier, ProtoLearner

__all__ = [
    "Collected",
    "FeatureLearner",
    "FullContext",
    "GradientLearner",
    "HeadLearner",
    "InOrder",
    "MatchingClassifier",
    "MatchingLearner",
    "MiniBatches",
    "ProtoClassifier",
    "ProtoLearner",
    "StepExamples",
]
