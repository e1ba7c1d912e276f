"""The outer objective at one point, with its two gradients: what every adjoint begins with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core import path as loop
from ..core import trees
from ..core.contract import Learner, Objective, Point
from ..core.types import Params, Task


class Judged(NamedTuple):
    """The outer objective at a point: losses (T,) before any weight, its gradient lam in phi and
    its direct gradient in meta, both of the weighted losses, and what is told of the tasks."""

    losses: Tensor
    lam: Params
    direct: Params
    stats: Params


def judge(
    learner: Learner,
    objective: Objective,
    meta: Params,
    point: Point,
    tasks: Task,
    weight: Tensor | None,
) -> Judged:
    """The outer losses at a point, multiplied by `weight` (T,) or a number, and their gradients.

    What they do not depend on is left out.
    """
    inputs = trees.join(phi=trees.leaves(point.phi), meta=meta)
    with torch.enable_grad():
        at = point._replace(phi=trees.part("phi", inputs))
        outcome = objective.losses(learner, meta, at, tasks)
        losses = outcome.losses if weight is None else outcome.losses * weight
        found = trees.gradient(losses, inputs)
    stats = loop.summary(objective, outcome, tasks)
    return Judged(
        outcome.losses.detach(), trees.part("phi", found), trees.part("meta", found), stats
    )
