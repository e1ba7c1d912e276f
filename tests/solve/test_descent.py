"""Solvers that step along the gradient, against torch's own optimisers on one task at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop import Batch, Method, Task
from innerloop.doctor import central_differences
from innerloop.doctor.gradient import flat_gradient
from innerloop.estimate import Adjoint, ForwardOverReverse, Unrolled
from innerloop.learn import GradientLearner
from innerloop.objective import Query
from innerloop.solve import Adam, AdamW, Clip, GradientDescent, Momentum, PerLayerPerStep, Solver

TASKS, N, STEPS, LR = 3, 6, 5, 0.1


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def draw() -> Task:
    torch.manual_seed(1)
    y = torch.arange(N).remainder(3).expand(TASKS, N)
    x = torch.randn(2, TASKS, N, 2, dtype=torch.float64)
    return Task(Batch(x[0], y), Batch(x[1], y))


def method(solver: Solver, estimator=None) -> Method:
    return Method(GradientLearner(net(), solver), Query(), estimator or Adjoint())


def trained(
    make: Callable[..., torch.optim.Optimizer], x: Tensor, y: Tensor, bound: float | None = None
) -> nn.Module:
    model = net()
    optimizer = make(model.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if bound is not None:
            nn.utils.clip_grad_norm_(model.parameters(), bound)
        optimizer.step()
    return model


SOLVERS = {
    "descent": (lambda: GradientDescent(LR, STEPS), lambda p: torch.optim.SGD(p, LR)),
    "momentum": (
        lambda: Momentum(LR, STEPS, beta=0.8),
        lambda p: torch.optim.SGD(p, LR, momentum=0.8),
    ),
    "Nesterov": (
        lambda: Momentum(LR, STEPS, beta=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, LR, momentum=0.8, nesterov=True),
    ),
    "Adam": (
        lambda: Adam(LR, STEPS, betas=(0.8, 0.95), eps=1e-12),
        lambda p: torch.optim.Adam(p, LR, betas=(0.8, 0.95), eps=1e-12),
    ),
    "AdamW": (
        lambda: AdamW(LR, STEPS, decay=0.2, eps=1e-12),
        lambda p: torch.optim.AdamW(p, LR, weight_decay=0.2, eps=1e-12),
    ),
    "AdamW without decay": (
        lambda: AdamW(LR, STEPS, decay=0.0, eps=1e-12),
        lambda p: torch.optim.Adam(p, LR, eps=1e-12),
    ),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_task_is_adapted_as_torch_trains(name) -> None:
    ours, theirs = SOLVERS[name]
    (x, y, _), _ = draw()
    for i in range(TASKS):
        found, expected = method(ours()).adapt(x[i], y[i]), trained(theirs, x[i], y[i])
        for a, b in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bound", [0.05, 0.3, 100.0])
def test_clipped_steps_are_those_of_clip_grad_norm(bound) -> None:
    """0.05 bites always, 0.3 sometimes, 100 never; torch adds 1e-6 to the norm."""
    (x, y, _), _ = draw()
    bites = []
    for i in range(TASKS):
        found = method(Clip(GradientDescent(LR, STEPS), bound)).adapt(x[i], y[i])
        expected = trained(lambda p: torch.optim.SGD(p, LR), x[i], y[i], bound)
        free = trained(lambda p: torch.optim.SGD(p, LR), x[i], y[i])
        for a, b in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        bites.append(not torch.allclose(found[0].weight, free[0].weight, rtol=1e-4, atol=1e-6))
    assert all(bites) if bound == 0.05 else not any(bites) if bound == 100.0 else any(bites)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamW(LR, 3, decay=0.2),
        lambda: AdamW(PerLayerPerStep(LR), 3, decay=0.2),
        lambda: Clip(GradientDescent(LR, 3), 0.3),
        lambda: Clip(Momentum(PerLayerPerStep(LR), 3), 0.2),
    ],
    ids=["AdamW", "AdamW, rates", "Clip", "Clip, momentum"],
)
def test_their_meta_gradient_is_exact(make) -> None:
    tasks = draw()
    reference = flat_gradient(method(make()), tasks, Unrolled())
    dense = central_differences(method(make()), tasks)
    torch.testing.assert_close(reference, dense, rtol=1e-6, atol=1e-8)
    for estimator in (Adjoint(), Adjoint(ForwardOverReverse()), Adjoint(store_every=2)):
        found = flat_gradient(method(make()), tasks, estimator)
        torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-12)


def test_a_clipped_gradient_of_zero_stays_zero() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64)
    batch = Batch(x, model(x).detach())
    learner = GradientLearner(model, Clip(GradientDescent(LR, 2), 1.0), inner="mse")
    found = Method(learner, Query("mse")).meta_gradient(Task(batch, batch))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in found.grads.values())


def test_a_solver_may_be_copied_for_another_learner() -> None:
    solver = AdamW(PerLayerPerStep(LR), 2)
    GradientLearner(net(), solver)
    with pytest.raises(ValueError, match=r"already adapts.*copy\.deepcopy\(solver\)"):
        GradientLearner(nn.Linear(2, 2), solver)
    GradientLearner(net(), copy.deepcopy(solver))


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: AdamW(LR, 1, decay=-0.1), "weight decay >= 0.*got decay=-0.1"),
        (lambda: AdamW(LR, 1, decay=float("inf")), "weight decay"),
        (lambda: Clip(GradientDescent(LR, 1), 0.0), "largest gradient norm > 0, got bound=0.0"),
        (lambda: Clip(GradientDescent(LR, 1), float("nan")), "largest gradient norm"),
        (lambda: Clip(0.1, 1.0), r"write e\.g\. Clip\(GradientDescent"),
    ],
)
def test_bad_numbers_are_refused(build, word) -> None:
    with pytest.raises(ValueError, match=word):
        build()


def test_words() -> None:
    assert AdamW(LR, 2, decay=0.2).describe().endswith("weight decay 0.2")
    clipped = Clip(GradientDescent(LR, 2), 0.5).describe()
    assert clipped == "gradient descent, 2 steps, rate fixed 0.1, gradient norm at most 0.5"
