"""What meta-learning has to beat, as named methods."""

from __future__ import annotations

from torch import nn

from ..call.policy import Policy
from ..estimate import FirstOrder
from ..learn import GradientLearner
from ..method import Method
from ..objective import Loss, Query
from ..objective.losses import LossLike
from ..solve import GradientDescent
from .registry import Chunk, named

__all__ = ["scratch"]


@named(papers=())
def scratch(
    model: nn.Module,
    *,
    lr: float = 0.01,
    steps: int = 100,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """The same network, random weights, trained on the support set alone by gradient descent."""
    learner = GradientLearner(model, GradientDescent(lr, steps), inner=loss, norm=norm)
    return Method(learner, Query(loss), FirstOrder(), name="scratch", chunk=chunk)
