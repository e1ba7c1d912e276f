"""The baselines as named methods, with the keywords that a run may set."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from .. import methods
from ..call.policy import Policy
from ..data.source import Source, Splits
from ..train.baseline import AllClasses, Pooled, Pretrained


def pretrained(
    model: nn.Module,
    *,
    classes: int | None = None,
    lr: float = 0.01,
    steps: int = 10,
    loss: str | Callable[..., Tensor] = "cross_entropy",
    norm: Policy | None = None,
    chunk: int | Literal["auto"] = "auto",
) -> Pretrained:
    """Trained on all training data at once, then fine-tuned on a support set by gradient descent.

    With `classes` the network is trained under a head of that many outputs, and fine-tuned with the
    trained body under a head of zeros.

    Source: Finn et al. 2017, figure 2 and table 1: "pretrained" and "fine-tuning baseline".
    """
    wide = model
    if classes is not None:
        wide = copy.copy(model)
        wide._modules = dict(model._modules)
        head = dict(model.named_children()).get("head")
        if not isinstance(head, nn.Linear):
            raise ValueError(f"pre-training needs a model with a linear `head`, got {head!r}")
        wide.head = nn.Linear(head.in_features, classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    joint = methods.fomaml(wide, lr=lr, steps=0, loss=loss, norm=norm, chunk=chunk)
    tune = methods.fomaml(model, lr=lr, steps=steps, loss=loss, norm=norm, chunk=chunk)
    return Pretrained(joint, tune)


def joint_source(splits: Splits) -> Source:
    """The training source of `pretrained`: every class or every curve at once."""
    if splits.train.spec.kind == "regression":
        return Pooled(splits.train)
    return AllClasses(splits.train)
