"""Bilevel problems: outer parameters of any kind, through an inner training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from ..call.policy import Policy
from ..core.checks import one_of
from ..core.contract import Estimator, Metric
from ..core.types import Batch
from ..estimate import Adjoint
from ..learn import GradientLearner, InOrder
from ..method import Method
from ..objective import Computed, ComputedQuery
from ..scope import All, Carried, Drawn, Scope
from ..solve import Solver
from .registry import Chunk

Start = Literal["drawn", "carried", "learned"]


def bilevel(
    model: nn.Module,
    hyper: nn.Module,
    *,
    inner: Callable[[nn.Module, Batch, nn.Module], Tensor],
    outer: Callable[[nn.Module, Batch], Tensor],
    solver: Solver,
    start: Start = "drawn",
    draw: Callable[[nn.Module], None] | None = None,
    batch_size: int | None = None,
    scope: Scope | None = None,
    estimator: Estimator | None = None,
    metric: str | Metric | None = None,
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """min_eta outer(phi_K(eta)), where phi is trained on inner(phi, batch_t, eta), t = 0 … K-1.

    `hyper` is a module with the outer parameters eta: weights of examples, a learned loss or
    augmentation, strengths of penalties, data that are distilled. `inner(model, batch, hyper)` and
    `outer(model, batch)` return a scalar by any differentiable code.

    phi_0 is "drawn" anew at every call (by `draw(model)`, by default every layer's
    `reset_parameters`), "carried" on from where the last call ended (a truncated window of one long
    run), or "learned" as in MAML. The support set of a task is the stream of inner examples: step t
    sees the `batch_size` next ones (all of them by default); the query set is what `outer` sees.
    With a solver that has a tolerance, `Implicit()` needs no penalty: the inner problem must then
    be convex, or solved to that tolerance at a minimum.

    The gradient is in `hyper.parameters()` after `method.loss(tasks).backward()`; give these to an
    optimiser. The model's own weights are neither trained nor changed, but for start="learned".

    >>> import torch
    >>> from innerloop import Batch, Task, bilevel
    >>> from innerloop.solve import GradientDescent
    >>> decay = torch.nn.ParameterDict({"log": torch.nn.Parameter(torch.tensor(-2.0))})
    >>> def inner(model, batch, hyper):
    ...     penalty = sum(p.square().sum() for p in model.parameters())
    ...     return (model(batch.x) - batch.y).square().mean() + hyper["log"].exp() * penalty
    >>> def outer(model, batch):
    ...     return (model(batch.x) - batch.y).square().mean()
    >>> method = bilevel(
    ...     torch.nn.Linear(2, 1), decay, inner=inner, outer=outer, solver=GradientDescent(0.1, 20)
    ... )
    >>> x = torch.randn(1, 8, 2)
    >>> method.loss(Task(Batch(x, x.sum(2, True)), Batch(x, x.sum(2, True)))).backward()
    >>> decay["log"].grad.shape
    torch.Size([])

    Source: Franceschi et al. 2018 (bilevel programming for hyper-parameters and meta-learning).
    """
    one_of("start", start, Start)
    if draw is not None and start != "drawn":
        raise ValueError(f'draw=... goes with start="drawn", got start={start!r}')
    adapted = scope or All()
    if start == "drawn":
        adapted = Drawn(adapted, draw)
    elif start == "carried":
        adapted = Carried(adapted)
    learner = GradientLearner(
        model,
        solver,
        adapted,
        inner=Computed(inner, hyper),
        norm=norm,
        examples=None if batch_size is None else InOrder(batch_size),
    )
    objective = ComputedQuery(outer, metric=metric)
    return Method(learner, objective, estimator or Adjoint(), name="bilevel", chunk=chunk)
