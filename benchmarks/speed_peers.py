"""The peers: exact MAML written as each project's own documentation does.

Where a project loops over tasks, so does this: one backward pass per task, gradients accumulated in
`.grad`, so that only one task's graph is alive.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed_engines import LOSSES, Engine, four
from speed_rows import Row, Unavailable
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from innerloop import Task

OneTask = tuple[Tensor, Tensor, Tensor, Tensor]


def _accumulated(model: nn.Module, tasks: Task, query_loss: Callable[[OneTask], Tensor]) -> Engine:
    """Loop over tasks, back-propagate each task's query loss, take the gradients."""
    each = list(zip(*four(tasks), strict=True))

    def run() -> list[Tensor]:
        for task in each:
            (query_loss(task) / len(each)).backward()
        grads = [p.grad for p in model.parameters()]
        model.zero_grad()
        return grads

    return run


def higher(model: nn.Module, row: Row, tasks: Task) -> Engine:
    """`higher.innerloop_ctx` on the model itself, every step tracked."""
    package, loss = _package("higher"), LOSSES[row.loss]
    optimizer = torch.optim.SGD(model.parameters(), lr=row.lr)

    def query_loss(task: OneTask) -> Tensor:
        xs, ys, xq, yq = task
        with package.innerloop_ctx(
            model, optimizer, copy_initial_weights=False, track_higher_grads=True
        ) as (adapted, inner):
            for _ in range(row.steps):
                inner.step(loss(adapted(xs), ys))
            return loss(adapted(xq), yq)

    return _accumulated(model, tasks, query_loss)


def torchopt(model: nn.Module, row: Row, tasks: Task) -> Engine:
    """`torchopt.MetaSGD`; the network is put back after each task."""
    package, loss = _package("torchopt"), LOSSES[row.loss]
    optimizer = package.MetaSGD(model, lr=row.lr)
    start = package.extract_state_dict(model, by="reference", detach_buffers=True)
    first = package.extract_state_dict(optimizer, by="reference")

    def query_loss(task: OneTask) -> Tensor:
        xs, ys, xq, yq = task
        for _ in range(row.steps):
            optimizer.step(loss(model(xs), ys))
        found = loss(model(xq), yq)
        package.recover_state_dict(model, start)
        package.recover_state_dict(optimizer, first)
        return found

    return _accumulated(model, tasks, query_loss)


def learn2learn(model: nn.Module, row: Row, tasks: Task, folder: str | None) -> Engine:
    """`learn2learn.algorithms.MAML`: clone, adapt."""
    loss = LOSSES[row.loss]
    wrapped = _learn2learn_maml(folder)(model, lr=row.lr)

    def query_loss(task: OneTask) -> Tensor:
        xs, ys, xq, yq = task
        learner = wrapped.clone()
        for _ in range(row.steps):
            learner.adapt(loss(learner(xs), ys))
        return loss(learner(xq), yq)

    return _accumulated(model, tasks, query_loss)


def vmapped(model: nn.Module, row: Row, tasks: Task, *, compiled: bool = False) -> Engine:
    """The `vmap(grad)` idiom: per task an inner `grad`, `vmap` over tasks, a `grad` around it."""
    loss = LOSSES[row.loss]
    start = {k: p.detach() for k, p in model.named_parameters()}

    def task_loss(weights: dict[str, Tensor], xs: Tensor, ys: Tensor, *query: Tensor) -> Tensor:
        def inner(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return loss(functional_call(model, weights, x), y)

        for _ in range(row.steps):
            grads = grad(inner)(weights, xs, ys)
            weights = {k: w - row.lr * grads[k] for k, w in weights.items()}
        return inner(weights, *query)

    def mean_loss(weights: dict[str, Tensor], *data: Tensor) -> Tensor:
        return vmap(task_loss, in_dims=(None, 0, 0, 0, 0))(weights, *data).mean()

    gradient: Any = grad(mean_loss)
    gradient = torch.compile(gradient, fullgraph=True) if compiled else gradient
    data = four(tasks)
    return lambda: list(gradient(start, *data).values())


def jax_jit(model: nn.Module, row: Row, tasks: Task) -> Engine:
    """The same in JAX under `jit`, for networks of linear layers and ReLU (the sine row)."""
    jax, jnp = _package("jax"), _package("jax.numpy")
    jax.config.update("jax_enable_x64", next(model.parameters()).dtype == torch.float64)
    start = [jnp.asarray(p.detach().numpy()) for p in model.parameters()]
    data = [jnp.asarray(t.numpy()) for t in four(tasks)]

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        for matrix, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            x = jax.nn.relu(x @ matrix.T + bias)
        return jnp.mean((x @ weights[-2].T + weights[-1] - y) ** 2)

    def task_loss(weights: list[Any], xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        for _ in range(row.steps):
            grads = jax.grad(loss)(weights, xs, ys)
            weights = [w - row.lr * g for w, g in zip(weights, grads, strict=True)]
        return loss(weights, xq, yq)

    def mean_loss(weights: list[Any], *data: Any) -> Any:
        return jax.vmap(task_loss, in_axes=(None, 0, 0, 0, 0))(weights, *data).mean()

    gradient = jax.jit(jax.grad(mean_loss))

    return lambda: jax.block_until_ready(gradient(start, *data))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{error}; pip install 'innerloop[benchmark]'") from error


def _learn2learn_maml(folder: str | None) -> Any:
    """Its MAML class, from an unpacked source: the package as a whole builds on old Pythons only.

    `algorithms/maml.py` needs two pure Python files beside it. Empty packages with the right
    folders stand in for the two `__init__.py`, which import all that needs Cython and gym.
    """
    if folder is None:
        raise Unavailable("give the unpacked source with --learn2learn PATH")
    if not (Path(folder) / "learn2learn" / "algorithms" / "maml.py").is_file():
        raise Unavailable(f"{folder} holds no learn2learn/algorithms/maml.py")
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(folder, *name.split(".")))]
        sys.modules[name] = package
    return importlib.import_module("learn2learn.algorithms.maml").MAML
