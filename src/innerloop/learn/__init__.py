"""Learners: adapt on support -> predict on query."""

from .bootstrap import BootstrappedLearner
from .features import FeatureLearner
from .gradient import GradientLearner
from .head import HeadLearner
from .losses import Loss, as_loss, per_task
from .matching import FullContext, MatchingClassifier, MatchingLearner
from .model_call import ModelCall, differentiable_kernels
from .multi_step import MultiStep
from .per_step_norm import PerStepNorm
from .proto import ProtoClassifier, ProtoLearner
from .prototype_start import PrototypeStart

__all__ = [
    "BootstrappedLearner",
    "FeatureLearner",
    "FullContext",
    "GradientLearner",
    "HeadLearner",
    "Loss",
    "MatchingClassifier",
    "MatchingLearner",
    "ModelCall",
    "MultiStep",
    "PerStepNorm",
    "ProtoClassifier",
    "ProtoLearner",
    "PrototypeStart",
    "as_loss",
    "differentiable_kernels",
    "per_task",
]
