"""The learner that adapts a model's weights step by step: solver x scope on any `nn.Module`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import vmap

from ..call.model import ModelCall
from ..core import path as loop
from ..core import streams
from ..core.contract import Around, IterativeLearner, Outcome
from ..core.types import Batch, Params, Task
from ..objective.losses import Loss, LossLike, as_loss
from ..objective.multi_step import MultiStep
from ..scope import All, Scope
from ..solve import Fixed, GradientDescent, Proximal, Solver


class GradientLearner(IterativeLearner):
    """phi_0 from the scope, then phi_{t+1} = solver step along the support gradient.

    The inner objective is loss(support) + penalty(phi, phi_0) + regulariser(weights); the outer one
    is loss(query). `batch_size` draws the support in shuffled mini-batches, one per step, without
    replacement until all were seen (Reptile). `norm` is the normalisation policy (see
    `innerloop.call.policy`); `regulariser` maps one task's weights (a dict by name) to a scalar.
    `multi_step` weighs outer losses at every step (MAML++); the loss at phi_K is then in `stats`
    as `query_loss`.
    """

    def __init__(
        self,
        model: nn.Module,
        solver: Solver,
        scope: Scope | None = None,
        *,
        loss: LossLike | Loss = "cross_entropy",
        norm: str | None = None,
        penalty: Proximal | None = None,
        regulariser: Callable[[Params], Tensor] | None = None,
        batch_size: int | None = None,
        multi_step: MultiStep | None = None,
    ):
        super().__init__()
        self.call = ModelCall(model, norm)
        self.model = model
        self.solver = solver
        self.penalty = penalty
        self.scope = scope or All()
        self.loss = as_loss(loss)
        self.kind = self.loss.kind
        self.regulariser = regulariser
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"expected batch_size >= 1 or None, got {batch_size!r}")
        if batch_size is not None and solver.tolerance is not None:
            raise ValueError(
                "a gradient tolerance needs one inner objective, but mini-batches change it at "
                "every step: use tolerance=None or batch_size=None"
            )
        self.batch_size = batch_size
        params: Params = dict(model.named_parameters())
        self.names = self._adapted(params)
        if not self.names:
            raise ValueError(
                f"the scope `{self.scope.describe()}` leaves no trainable parameter to adapt; the "
                f"model has {', '.join(params)}"
            )
        self._stacked = set(self.names)
        first = params[self.names[0]]
        self.solver.bind({k: params[k].shape for k in self.names}, first.dtype)
        if penalty is not None:
            penalty.bind(first.dtype)
        self.multi_step = multi_step
        if multi_step is not None:
            multi_step.bind(self.steps, first)
        self.to(first.device)

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.solver.steps

    @property
    def tolerance(self) -> float | None:  # type: ignore[override]
        return self.solver.tolerance

    @property
    def stationary(self) -> str | None:  # type: ignore[override]
        if self.penalty is None:
            return (
                f"`{type(self.solver).__name__}` without a penalty: phi is not a stationary point "
                "of anything. Add `penalty=Proximal(lam)`"
            )
        if self.solver.restless is not None:
            return (
                f"`{type(self.solver).__name__}`: {self.solver.restless}. Use `GradientDescent` or "
                "`NewtonCG`"
            )
        if self.batch_size is not None:
            return (
                "a mini-batched support: each step has another objective, so phi is stationary "
                "for none of them. Use `batch_size=None`"
            )
        return None

    @property
    def plain(self) -> bool:  # type: ignore[override]
        ours = type(self).step is GradientLearner.step  # a subclass may step as it likes
        return ours and type(self.solver) is GradientDescent and type(self.solver.rate) is Fixed

    @property
    def persistent(self) -> bool:  # type: ignore[override]
        return self.solver.persistent

    @property
    def searches(self) -> bool:  # type: ignore[override]
        return self.solver.searches

    @property
    def varies(self) -> str | None:  # type: ignore[override]
        if self.batch_size is not None:
            return "each call draws other mini-batches"
        return self.solver.varies

    @property
    def phase(self) -> object:
        return self.multi_step is not None and self.multi_step.over

    def outer_weights(self) -> Tensor | None:
        if self.multi_step is None or self.multi_step.over or self.steps < 2:
            return None
        return self.multi_step.weights

    def start(self, meta: Params, support: Batch) -> Params:
        return self.scope.start(_under("model.", meta), self.names, len(support.x))

    def initial_state(self, meta: Params, phi: Params) -> Params:
        return self.solver.init(phi)

    def inner_losses(self, meta: Params, t: int, phi: Params, support: Batch) -> Tensor:
        batch = self._minibatch(t, support)
        weights = {**_under("model.", meta), **phi}
        outputs = self.call(weights, self._stacked, batch.x, self._stream(t), None)
        losses = self.loss(outputs, batch.y)
        if self.penalty is not None:
            anchor = self.start(meta, support)
            losses = losses + self.penalty.losses(_under("penalty.", meta), phi, anchor)
        if self.regulariser is not None:
            axes = {k: 0 if k in self._stacked else None for k in weights}
            extra = vmap(self.regulariser, in_dims=(axes,))(weights)
            if extra.shape != losses.shape:
                raise ValueError(
                    f"the regulariser gave shape {tuple(extra.shape[1:])} for one task, expected a "
                    "scalar: sum over the weights"
                )
            losses = losses + extra
        return losses

    def step(
        self, meta: Params, t: int, phi: Params, grad: Params, losses: Tensor, state: Params
    ) -> tuple[Params, Params]:
        return self.solver.step(_under("solver.", meta), t, phi, grad, losses, state)

    def search(
        self, meta: Params, t: int, phi: Params, grad: Params, losses: Tensor, around: Around
    ) -> Params:
        return self.solver.search(_under("solver.", meta), t, phi, grad, losses, around)

    def adapt(self, meta: Params, support: Batch) -> Params:
        if torch.is_grad_enabled():
            return loop.unroll(self, meta, support)
        return loop.last(self, meta, support).phi

    def predict(self, meta: Params, phi: Params, x: Tensor, support: Batch) -> Tensor:
        weights = {**_under("model.", meta), **phi}
        return self.call(weights, self._stacked, x, "query", support.x)

    def outer(self, meta: Params, phi: Params, task: Task) -> Outcome:
        outputs = self.predict(meta, phi, task.query.x, task.support)
        losses = self.loss(outputs, task.query.y)
        stats = {} if self.multi_step is None else {"query_loss": losses.detach()}
        return Outcome(losses, outputs, stats)

    def materialise(self, phi: Params, support: Batch) -> nn.Module:
        """The adapted model of one task as a plain module."""
        return self.call.materialise(
            {k: v.squeeze(0) for k, v in phi.items()}, support.x.squeeze(0)
        )

    def remember(self, state: Params) -> None:
        self.solver.keep(state)

    def describe(self) -> dict[str, str]:
        solver = self.solver.describe()
        if self.penalty is not None:
            solver += f", {self.penalty.describe()}"
        if self.batch_size is not None:
            solver += f", mini-batches of {self.batch_size}"
        return {
            "scope": self.scope.describe(),
            "solver": solver,
            "norm": self.call.policy if self.call.normalises else "none in the model",
            "loss": self.loss.name + ("" if self.multi_step is None else ", multi-step"),
        }

    def _adapted(self, params: Params) -> list[str]:
        """The names of what the solver moves."""
        return self.scope.names(params)

    def _stream(self, t: int) -> str:
        """Fresh dropout masks at every step, but one mask where phi seeks a stationary point."""
        one_objective = self.penalty is not None or self.tolerance is not None
        return "support" if one_objective else f"support {t}"

    def _minibatch(self, t: int, support: Batch) -> Batch:
        n = support.x.shape[1]
        size = self.batch_size
        if size is None or size >= n:
            return support
        first, stop = t * size, (t + 1) * size
        passes = [
            torch.randperm(
                n, generator=streams.generator(streams.current(), "minibatch", epoch), device="cpu"
            )
            for epoch in range(first // n, (stop - 1) // n + 1)
        ]
        chosen = torch.cat(passes)[first % n :][:size].to(support.x.device)
        return Batch(support.x[:, chosen], support.y[:, chosen])


def _under(prefix: str, meta: Params) -> Params:
    return {k.removeprefix(prefix): v for k, v in meta.items() if k.startswith(prefix)}
