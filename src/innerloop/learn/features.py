"""Learners on the features of a model: its weights are meta-learned and shared by all tasks."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn
from torch.nn.functional import one_hot

from ..call.model import ModelCall
from ..core.contract import Learner, Outcome
from ..core.types import Batch, Params, Task
from ..objective.losses import Loss, LossLike, as_loss


class FeatureLearner(Learner):
    """What learners on features share: the model maps inputs to features (n, d).

    Each task has its own batch statistics, under the normalisation policy `norm`.
    """

    def __init__(self, model: nn.Module, *, loss: LossLike | Loss, norm: str | None):
        super().__init__()
        self.call = ModelCall(model, norm)
        self.model = model
        self.loss = as_loss(loss)
        self.kind = self.loss.kind

    @abstractmethod
    def materialise(self, phi: Params, support: Batch) -> nn.Module:
        """The adapted model of one task as a plain module."""

    @abstractmethod
    def solver(self) -> str:
        """What finds phi, in a few words."""

    def outer(self, meta: Params, phi: Params, task: Task) -> Outcome:
        outputs = self.predict(meta, phi, task.query.x, task.support)
        return Outcome(self.loss(outputs, task.query.y), outputs)

    def describe(self) -> dict[str, str]:
        return {
            "scope": "none",
            "solver": self.solver(),
            "norm": self.call.policy if self.call.normalises else "none in the model",
            "loss": self.loss.name,
        }

    def features(self, meta: Params, x: Tensor, support: Tensor | None) -> Tensor:
        """(T, n, d) of x (T, n, ...); `support` is given for queries, None for the support set."""
        weights = {k.removeprefix("model."): v for k, v in meta.items() if k.startswith("model.")}
        stream = "support" if support is None else "query"
        found = self.call(weights, set(), x, stream, support)
        if found.dim() != 3:
            raise ValueError(
                f"expected features (n, d), the model gave {tuple(found.shape[1:])}; flatten or "
                "pool its outputs"
            )
        return found


def membership(y: Tensor) -> Tensor:
    """(T, n, C) with a one where an example belongs to a class, for labels y (T, n) from 0 to C-1.

    Raises ValueError unless every class up to the largest label has an example in every task.
    """
    if y.is_floating_point() or y.dim() != 2 or int(y.min()) < 0:
        raise ValueError(
            f"expected class labels 0, 1, 2, ... of shape (T, n), got {y.dtype} of shape "
            f"{tuple(y.shape)}" + ("" if y.is_floating_point() else f", from {int(y.min())} up")
        )
    classes = int(y.max()) + 1
    member = one_hot(y.long(), classes)
    if not member.any(1).all():
        raise ValueError(
            f"a class among 0..{classes - 1} has no support example in some task; label the "
            "classes of each task 0, 1, 2, ... without gaps"
        )
    return member
