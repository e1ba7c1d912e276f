"""A plain loop over tasks, as in a textbook, to compare with."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop import Batch, Task, methods

T, N = 3, 6


def classes(tasks: int = T) -> Task:
    """Inputs (T, N, 4), three classes."""
    generator = torch.Generator().manual_seed(1)
    x, q = torch.randn(2, tasks, N, 4, dtype=torch.float64, generator=generator)
    y = torch.stack([torch.randperm(N, generator=generator) % 3 for _ in range(tasks)])
    return Task(Batch(x, y), Batch(q, y))


def tokens() -> Task:
    """Inputs (T, N, 4) of six words, three classes."""
    task, generator = classes(), torch.Generator().manual_seed(2)
    x, q = torch.randint(0, 6, (2, T, N, 4), generator=generator)
    return Task(Batch(x, task.support.y), Batch(q, task.query.y))


def plain(
    model: nn.Module,
    task: Task,
    *,
    lr: float = 0.4,
    steps: int = 3,
    call: Callable[[dict[str, Tensor], Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The meta-gradient of MAML by autograd through everything, one task after another."""
    call = call or (lambda phi, x: functional_call(model, phi, (x,)))
    meta = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for (sx, sy), (qx, qy) in zip(
        zip(*task.support[:2], strict=True), zip(*task.query[:2], strict=True), strict=True
    ):
        phi = meta
        for _ in range(steps):
            loss = F.cross_entropy(call(phi, sx), sy)
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {k: v - lr * g for (k, v), g in zip(phi.items(), grads, strict=True)}
        total = total + F.cross_entropy(call(phi, qx), qy) / len(task.support.x)
    found = torch.autograd.grad(total, list(meta.values()))
    return dict(zip(meta, found, strict=True))


def equal(
    model: nn.Module,
    task: Task,
    expected: dict[str, Tensor],
    *,
    lr: float = 0.4,
    steps: int = 3,
    chunk: int | str = "auto",
) -> None:
    """The library's meta-gradient of `model` is the expected one, to 1e-10."""
    method = methods.maml(model, lr=lr, steps=steps, chunk=chunk)
    same(method.meta_gradient(task).grads, expected)


def same(grads: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    found = torch.cat([grads[f"learner.model.{k}"].flatten() for k in expected])
    wanted = torch.cat([g.flatten() for g in expected.values()])
    assert wanted.norm() > 1e-6
    assert float((found - wanted).norm() / wanted.norm()) < 1e-10
