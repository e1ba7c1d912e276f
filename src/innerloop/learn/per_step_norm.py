"""BatchNorm with its own scale and shift at every inner step."""

from __future__ import annotations

import logging

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core import trees
from ..core.types import Batch, Params
from ..objective.losses import Loss, LossLike
from ..objective.multi_step import MultiStep
from ..scope import Scope
from ..solve import Solver
from .gradient import GradientLearner

log = logging.getLogger("innerloop")


class PerStepNorm(GradientLearner):
    """A `GradientLearner` whose BatchNorm layers have a scale and shift for every inner step.

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

    def __init__(
        self,
        model: nn.Module,
        solver: Solver,
        scope: Scope | None = None,
        *,
        loss: LossLike | Loss = "cross_entropy",
        norm: str | None = None,
        batch_size: int | None = None,
        multi_step: MultiStep | None = None,
    ):
        self._own = _affine(model)
        super().__init__(
            model,
            solver,
            scope,
            loss=loss,
            norm=norm,
            batch_size=batch_size,
            multi_step=multi_step,
        )
        self._stacked |= set(self._own)
        self._told = False
        params = dict(model.named_parameters())
        self.later = nn.ParameterDict(
            {
                key: nn.Parameter(params[k].detach().repeat(self.steps - 1, 1))
                for k, key in self._own.items()
                if self.steps > 1
            }
        )

    @property
    def plain(self) -> bool:  # type: ignore[override]
        return False

    def start(self, meta: Params, support: Batch) -> Params:
        return super().start(meta, support) | self._rows(meta, 0, len(support.x))

    def initial_state(self, meta: Params, phi: Params) -> Params:
        return super().initial_state(meta, self._moved(phi))

    def inner_losses(self, meta: Params, t: int, phi: Params, support: Batch) -> Tensor:
        rows = self._rows(meta, t, len(support.x))
        return super().inner_losses(meta, t, {**phi, **rows}, support)

    def step(
        self, meta: Params, t: int, phi: Params, grad: Params, losses: Tensor, state: Params
    ) -> tuple[Params, Params]:
        after, state = super().step(meta, t, self._moved(phi), self._moved(grad), losses, state)
        return after | self._rows(meta, t, len(losses)), state

    def describe(self) -> dict[str, str]:
        told = super().describe()
        return {**told, "norm": f"{told['norm']}, scale and shift per step"}

    def _adapted(self, params: Params) -> list[str]:
        return [k for k in self.scope.names(params) if k not in self._own]

    def _moved(self, tree: Params) -> Params:
        """The part that the solver knows."""
        return {k: tree[k] for k in self.names}

    def _rows(self, meta: Params, t: int, tasks: int) -> Params:
        """Scale and shift of step t for every task: leaves (T, channels)."""
        if t >= self.steps > 0 and not self._told:
            self._told = True
            log.warning(
                "inner step %d was not trained: it reuses the normalisation of step %d",
                t + 1,
                self.steps,
            )
        row = min(t, self.steps - 1)
        if row < 1:
            return {k: trees.expand(meta[f"model.{k}"], tasks) for k in self._own}
        return {
            k: trees.expand(meta[f"later.{key}"][row - 1], tasks) for k, key in self._own.items()
        }


def _affine(model: nn.Module) -> dict[str, str]:
    """The trainable weights and biases of BatchNorm layers, and their names in a ParameterDict.

    Raises ValueError if the model has none.
    """
    owned = {
        id(p)
        for layer in model.modules()
        if isinstance(layer, _BatchNorm)
        for p in layer.parameters(recurse=False)
        if p.requires_grad
    }
    names = {k: k.replace(".", "/") for k, p in model.named_parameters() if id(p) in owned}
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no BatchNorm layer with a trainable weight or bias, so "
            "there is nothing to keep per step; use per_step_norm=False, or GradientLearner"
        )
    return names
