"""innerloop's own engines, and the float64 reference that every gradient is compared with.

An engine is made from a model, its row and its tasks; called, it computes one meta-gradient: the
mean query loss over the tasks differentiated in the initial weights, one tensor per parameter, in
the order of `model.parameters()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from speed_rows import Row
from torch import Tensor, nn
from torch.func import functional_call

from innerloop import Method, Task, methods
from innerloop.core.types import to
from innerloop.estimate import Unrolled
from innerloop.train.ranks import Ranks

Engine = Callable[[], list[Any]]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
}


def adjoint(model: nn.Module, row: Row, tasks: Task) -> Engine:
    """The default: the sweep, eager."""
    return _gradients(methods.maml(model, **_settings(row)), tasks)


def traced(model: nn.Module, row: Row, tasks: Task) -> Engine:
    """The sweep, recorded and replayed."""
    return _gradients(methods.maml(model, **_settings(row)).use("traced"), tasks)


def compiled(model: nn.Module, row: Row, tasks: Task) -> Engine:
    """The sweep, recorded and compiled."""
    return _gradients(methods.maml(model, **_settings(row)).use("compiled"), tasks)


def first_order(model: nn.Module, row: Row, tasks: Task) -> Engine:
    """FOMAML, which computes another gradient: for the price of exactness."""
    return _gradients(methods.fomaml(model, **_settings(row)), tasks)


def unrolled(model: nn.Module, row: Row, tasks: Task) -> Engine:
    """Plain autograd through the whole adaptation, as the peers do it."""
    return _gradients(methods.maml(model, estimator=Unrolled(), **_settings(row)), tasks)


def shared(model: nn.Module, row: Row, tasks: Task, ranks: Ranks) -> Engine:
    """The default with its tasks over the processes of `ranks`, and one all-reduce."""
    method, own, count = methods.maml(model, **_settings(row)), ranks.own(tasks), len(tasks[0].x)

    def run() -> list[Tensor]:
        found = ranks.mean(method.meta_gradient(own), count)
        return list(found.grads.values())

    return run


def reference(row: Row, model: nn.Module, tasks: Task) -> list[Tensor]:
    """The gradient in float64 by innerloop's unrolled estimator, one task after another."""
    exact = to(tasks, torch.float64)
    method = methods.maml(model.double(), estimator=Unrolled(), chunk=1, **_settings(row))
    return list(method.meta_gradient(exact).grads.values())


def plain(row: Row, model: nn.Module, tasks: Task) -> list[Tensor]:
    """The same in float64 by plain autograd alone: what `reference` is checked against."""
    model, loss = model.double(), LOSSES[row.loss]
    names, start = zip(*model.named_parameters(), strict=True)
    total = torch.zeros((), dtype=torch.float64)
    xs, ys, xq, yq = four(to(tasks, torch.float64))
    for t in range(len(xs)):
        phi = start
        for _ in range(row.steps):
            inner = loss(functional_call(model, dict(zip(names, phi, strict=True)), xs[t]), ys[t])
            grads = torch.autograd.grad(inner, phi, create_graph=True)
            phi = tuple(p - row.lr * g for p, g in zip(phi, grads, strict=True))
        total = total + loss(
            functional_call(model, dict(zip(names, phi, strict=True)), xq[t]), yq[t]
        )
    return list(torch.autograd.grad(total / len(xs), start))


def four(tasks: Task) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support inputs and labels, query inputs and labels; the examples all count alike."""
    return tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y


def relative_error(found: list[Any], truth: list[Tensor]) -> float:
    """||found - truth|| / ||truth|| over all parameters together; `found` may be JAX's arrays."""
    one = [t.cpu() if isinstance(t, Tensor) else torch.tensor(np.asarray(t)) for t in found]
    a, b = (torch.cat([t.double().flatten() for t in ts]) for ts in (one, truth))
    return float((a - b).norm() / b.norm())


def _gradients(method: Method, tasks: Task) -> Engine:
    return lambda: list(method.meta_gradient(tasks).grads.values())


def _settings(row: Row) -> dict[str, Any]:
    return {"lr": row.lr, "steps": row.steps, "loss": row.loss}
