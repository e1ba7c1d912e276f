"""Learners on the features of a model: its weights are meta-learned and shared by all tasks."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from torch import Tensor, nn

from ..call import ModelCall
from ..core import trees
from ..core.contract import Learner, Network, Program, Refusal
from ..core.types import Params, Tree

V = TypeVar("V")


class FeatureLearner(Learner):
    """What learners on features share: the model maps inputs to features (n, d).

    Each task has its own batch statistics, under the normalisation policy `norm`.
    """

    def __init__(self, model: nn.Module, *, norm: str | None):
        super().__init__()
        self.call = ModelCall(model, norm)
        self.model = model

    @abstractmethod
    def fitted_by(self) -> str:
        """What finds phi, in a few words."""

    def calls(self) -> list[Network]:
        return [self.call]

    def offer(self, view: type[V]) -> V | Refusal:
        if view is Program:
            return Refusal(
                "labels name classes, and the operations depend on their number",
                'Use engine="eager"',
            )
        return super().offer(view)

    def describe(self) -> dict[str, str]:
        return {
            "scope": "none",
            "solver": self.fitted_by(),
            "norm": self.call.policy if self.call.normalises else "none in the model",
        }

    def features(self, meta: Params, x: Tree, support: Tree | None) -> Tensor:
        """(T, n, d) of x (T, n, ...); `support` is given for queries, None for the support set."""
        weights = trees.under("model.", meta)
        stream = "support" if support is None else "query"
        found = self.call(weights, set(), x, stream, support)
        if not isinstance(found, Tensor) or found.dim() != 3:
            raise ValueError(
                f"expected features (n, d), the model gave {_told(found)}; flatten or "
                "pool its outputs"
            )
        return found


def _told(found: Tree) -> str:
    return str(tuple(found.shape[1:])) if isinstance(found, Tensor) else type(found).__name__
