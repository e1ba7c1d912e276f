"""Learners: adapt on support -> predict on query."""

from .gradient import GradientLearner
from .losses import Loss, as_loss, per_task
from .model_call import ModelCall, differentiable_kernels
from .proto import ProtoClassifier, ProtoLearner

__all__ = [
    "GradientLearner",
    "Loss",
    "ModelCall",
    "ProtoClassifier",
    "ProtoLearner",
    "as_loss",
    "differentiable_kernels",
    "per_task",
]
