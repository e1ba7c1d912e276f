"""BatchNorm with its own scale and shift at every inner step."""

from __future__ import annotations

import logging
from collections.abc import Hashable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core import trees
from ..core.contract import Point
from ..core.types import Params
from .names import Scope, Within

log = logging.getLogger("innerloop")


class PerStep(Within):
    """`scope`, with a BatchNorm scale and shift for every inner step.

    Step t runs the support set with gamma_t, beta_t, t = 0 … K-1, and the query at phi_{t+1} sees
    those of step t, the last one made (at phi_0: of step 0). They are meta-learned and not adapted,
    whatever `scope` says. The model's own weight and bias are those of step 0, where all steps
    start; `later` holds the others, (K-1, channels) under the parameter's name with `.` as `/`.
    Steps past the last trained one reuse its values, and the log says so once.

    What is divided by are batch statistics, or what `norm` says, at every step anew. The authors'
    layers also average statistics step by step (BNRS), but are always called in training mode: no
    output depends on these averages, and none are kept here.

    Source: Antoniou et al. 2019 (MAML++), section 4 (BNWB; of BNRS see above) and code.
    """

    def __init__(self, scope: Scope):
        super().__init__(scope)
        self.later = nn.ParameterDict()
        self._rows: dict[str, str] = {}
        self._trained = 0
        self._told = False

    def names(self, params: Params) -> list[str]:
        return [k for k in self.scope.names(params) if k not in self._rows]

    def bind(self, model: nn.Module, steps: int) -> list[str]:
        rows = {k: trees.slot(k) for k in _affine(model)}
        if self._rows and (rows != self._rows or steps != self._trained):
            raise ValueError(
                "this PerStep already belongs to another learner; give each learner its own"
            )
        if not self._rows:
            self._rows, self._trained = rows, steps
            params = dict(model.named_parameters())
            self.later = nn.ParameterDict(
                {
                    key: nn.Parameter(params[k].detach().repeat(steps - 1, 1))
                    for k, key in rows.items()
                    if steps > 1
                }
            )
        return super().bind(model, steps)

    def weights(
        self, params: Params, own: Params, names: list[str], point: Point, role: str
    ) -> tuple[Params, set[str]]:
        weights, stacked = super().weights(params, own, names, point, role)
        row = point.t if role == "support" else max(point.t - 1, 0)
        if row >= self._trained > 0 and not self._told:
            self._told = True
            log.warning(
                "inner step %d was not trained: it reuses the normalisation of step %d",
                row + 1,
                self._trained,
            )
        row = min(row, self._trained - 1)
        if row < 1:
            return weights, stacked
        later = {k: own[f"later.{key}"][row - 1] for k, key in self._rows.items()}
        return {**weights, **later}, stacked

    def key(self, t: int) -> Hashable:
        return t

    def describe(self) -> str:
        return f"{self.scope.describe()}, BatchNorm's scale and shift per step"


def _affine(model: nn.Module) -> list[str]:
    """The names of the trainable weights and biases of BatchNorm layers.

    Raises ValueError if the model has none.
    """
    owned = {
        id(p)
        for layer in model.modules()
        if isinstance(layer, _BatchNorm)
        for p in layer.parameters(recurse=False)
        if p.requires_grad
    }
    names = [k for k, p in model.named_parameters() if id(p) in owned]
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no BatchNorm layer with a trainable weight or bias, so "
            "there is nothing to keep per step; use per_step_norm=False, or leave out PerStep"
        )
    return names
