"""HF-MAML: three batches, on quadratics where every term is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from innerloop import Batch, Method, Task
from innerloop.estimate import Adjoint, FiniteDifference, HessianFree
from innerloop.estimate.hessian_free import split_support
from innerloop.learn import GradientLearner
from innerloop.methods import hf_maml
from innerloop.models import mlp
from innerloop.objective import Query
from innerloop.solve import GradientDescent

LR = 0.1


def linear_tasks():
    torch.manual_seed(3)
    x = torch.randn(3, 3, 8, 4, dtype=torch.float64)
    y = torch.randn(3, 3, 8, 1, dtype=torch.float64)
    return Task(Batch(x[0], y[0]), Batch(x[1], y[1]))


def hessian(x):
    return 2 * x.mT @ x / x.shape[1]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_papers_three_batches_on_linear_models(steps):
    """v <- v - alpha H_h v, K times, where phi came from the other half: no term is approximate."""
    torch.manual_seed(0)
    model, task = nn.Linear(4, 1, bias=False).double(), linear_tasks()
    w = model.weight.detach().T
    (sx, sy, _), (qx, qy, _) = task
    phi = w.expand(3, 4, 1)
    for _ in range(steps):
        phi = phi - LR * 2 / 6 * sx[:, :6].mT @ (sx[:, :6] @ phi - sy[:, :6])
    v = 2 / 8 * qx.mT @ (qx @ phi - qy)
    for _ in range(steps):
        v = v - LR * hessian(sx[:, 6:]) @ v
    learner = GradientLearner(model, GradientDescent(LR, steps), inner="mse")
    found = (
        Method(learner, Query("mse"), HessianFree(held=0.25), name="hf").meta_gradient(task).grads
    )
    torch.testing.assert_close(found["learner.model.weight"].T, v.mean(0), rtol=1e-7, atol=1e-9)


def test_with_equal_halves_it_is_the_finite_difference_sweep():
    torch.manual_seed(0)
    model, task = mlp(2, 3, (4,), activation="tanh").double(), episodes()
    twice = Task(Batch(*(torch.cat([t, t], 1) for t in task.support[:2])), task.query)
    halves = split_support(twice.support, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(halves[0][:2], halves[1][:2], strict=True))
    learner = GradientLearner(model, GradientDescent(LR, 2))
    once = Task(halves[0], task.query)
    expected = Method(learner, Query(), Adjoint(FiniteDifference()), name="fd").meta_gradient(once)
    found = Method(learner, Query(), HessianFree(), name="hf").meta_gradient(twice)
    torch.testing.assert_close(found.loss, expected.loss)
    for k, v in expected.grads.items():
        torch.testing.assert_close(found.grads[k], v, rtol=1e-6, atol=1e-9)


def episodes(shot=4):
    torch.manual_seed(1)
    y = torch.stack([torch.randperm(3 * shot) % 3 for _ in range(2)])
    x = torch.randn(2, 3 * shot, 2, dtype=torch.float64)
    return Task(Batch(x, y), Batch(x.flip(1), y.flip(1)))


def test_classes_are_shared_out_evenly_and_nothing_is_lost():
    support = episodes().support
    first, rest = split_support(support, 0.25)
    for y, count in ((first.y, 3), (rest.y, 1)):
        assert all((row == k).sum() == count for row in y for k in range(3))
    for i in range(2):
        rows = torch.cat([first.x[i], rest.x[i]]).tolist()
        assert sorted(rows) == sorted(support.x[i].tolist())
    pairs = {tuple(x): y for x, y in zip(support.x[0].tolist(), support.y[0].tolist(), strict=True)}
    assert all(
        pairs[tuple(x)] == y for x, y in zip(rest.x[0].tolist(), rest.y[0].tolist(), strict=True)
    )


def test_adapting_takes_the_whole_support_set():
    torch.manual_seed(0)
    task = episodes()
    method = hf_maml(mlp(2, 3, (4,)).double(), lr=LR)
    learner = GradientLearner(method.learner.model, GradientDescent(LR, 1))
    expected = Method(learner, Query(), Adjoint(), name="maml").query_outputs(task)
    torch.testing.assert_close(method.query_outputs(task), expected)
    assert all(torch.isfinite(g).all() for g in method.meta_gradient(task).grads.values())


def test_images_and_values_are_parted_as_well():
    x, y = torch.randn(2, 6, 1, 3, 3), torch.randn(2, 6, 2)
    first, rest = split_support(Batch(x, y), 0.5)
    assert torch.equal(torch.cat([first.x, rest.x], 1), x)
    assert torch.equal(torch.cat([first.y, rest.y], 1), y)


@pytest.mark.parametrize("held", [0.0, 1.0])
def test_a_fraction_is_needed(held):
    with pytest.raises(ValueError, match="held"):
        HessianFree(held=held)


def test_one_example_cannot_be_split_support():
    with pytest.raises(ValueError, match="more shots"):
        split_support(Batch(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.int64)), 0.5)


@pytest.mark.parametrize(("shot", "held"), [(1, 0.5), (2, 0.2), (4, 0.1)])
def test_each_class_is_needed_in_both_parts(shot, held):
    with pytest.raises(ValueError, match=r"leaves a class out.*at least 2 shots"):
        split_support(episodes(shot).support, held)
