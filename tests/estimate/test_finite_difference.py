"""The error of finite-difference products: V-shaped in the displacement, as theory says."""

from __future__ import annotations

import torch
from torch import nn

from innerloop import Batch, Method, Task
from innerloop.estimate import Adjoint, FiniteDifference
from innerloop.learn import GradientLearner
from innerloop.objective import Query
from innerloop.solve import GradientDescent


def gradient(estimator: Adjoint) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    y = torch.arange(6).remainder(3).expand(2, 6)
    tasks = Task(Batch(x, y), Batch(x + 0.1, y))
    learner = GradientLearner(model, GradientDescent(0.3, 2))
    found = Method(learner, Query(), estimator, name="fd").meta_gradient(tasks)
    return torch.cat([g.flatten() for g in found.grads.values()])


def test_the_error_falls_as_the_square_and_rises_as_rounding_over_displacement() -> None:
    exact = gradient(Adjoint())
    errors = [
        float((gradient(Adjoint(FiniteDifference(r))) - exact).norm() / exact.norm())
        for r in (1e-1, 1e-2, 1e-3, 1e-5, 1e-9, 1e-11)
    ]
    assert 50 < errors[0] / errors[1] < 200
    assert 50 < errors[1] / errors[2] < 200
    assert min(errors) == errors[3] < 1e-8
    assert errors[4] > 10 * errors[3]
    assert errors[5] > 10 * errors[4]


def test_the_default_displacement_is_near_the_minimum() -> None:
    exact = gradient(Adjoint())
    error = (gradient(Adjoint(FiniteDifference())) - exact).norm() / exact.norm()
    assert float(error) < 1e-8


def test_a_task_with_a_zero_direction_has_a_zero_product() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64)
    y = model(x).detach()
    learner = GradientLearner(model, GradientDescent(0.1, 2), inner="mse")
    method = Method(learner, Query("mse"), Adjoint(FiniteDifference()), name="zero")
    found = method.meta_gradient(Task(Batch(x, y), Batch(x, y)))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in found.grads.values())
