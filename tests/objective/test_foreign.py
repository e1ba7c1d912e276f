"""Losses and regularisers that a user writes: random ones, unmappable ones, ones that read
tensors from outside; each against a plain loop."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop import Batch, Method, Task
from innerloop.estimate import Adjoint, Unrolled
from innerloop.learn import GradientLearner
from innerloop.objective import Query, Regulariser, Weighted
from innerloop.solve import GradientDescent

RATE, STEPS = 0.3, 2


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def draw() -> Task:
    torch.manual_seed(1)
    x, q = torch.randn(2, 3, 6, 2, dtype=torch.float64)
    y, z = torch.randn(2, 3, 6, 1, dtype=torch.float64)
    return Task(Batch(x, y), Batch(q, z))


def positive_ones(outputs: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(outputs[y > 0], y[y > 0])


def dropped(outputs: Tensor, y: Tensor) -> Tensor:
    return ((outputs - y).square() * (torch.rand(len(y), 1) < 0.5)).mean()


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_loss_that_cannot_be_mapped_runs_task_by_task_and_says_so_once(chunk, caplog) -> None:
    model, tasks = net(), draw()
    learner = GradientLearner(model, GradientDescent(RATE, STEPS), inner=positive_ones)
    method = Method(learner, Query("mse"), chunk=chunk)
    with caplog.at_level(logging.WARNING, "innerloop"):
        found = method.meta_gradient(tasks)
        method.meta_gradient(tasks)
    told = [r for r in caplog.records if "one after another" in r.getMessage()]
    assert len(told) == (chunk > 1)

    names = [k for k, _ in model.named_parameters()]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        phi = [p * 1 for p in model.parameters()]
        for _ in range(STEPS):
            outputs = functional_call(
                model, dict(zip(names, phi, strict=True)), (tasks.support.x[i],)
            )
            loss = positive_ones(outputs, tasks.support.y[i])
            grads = torch.autograd.grad(loss, phi, create_graph=True)
            phi = [p - RATE * g for p, g in zip(phi, grads, strict=True)]
        outputs = functional_call(model, dict(zip(names, phi, strict=True)), (tasks.query.x[i],))
        total = total + F.mse_loss(outputs, tasks.query.y[i]) / 3
    wanted = torch.autograd.grad(total, list(model.parameters()))
    for name, grad in zip(names, wanted, strict=True):
        torch.testing.assert_close(found.grads[f"learner.model.{name}"], grad)


def penalty(weights: dict[str, Tensor]) -> Tensor:
    return sum(((w * torch.rand_like(w)) ** 2).sum() for w in weights.values())


@pytest.mark.parametrize("inner", [dropped, ["mse", Regulariser(penalty)]])
def test_random_losses_draw_the_same_numbers_at_every_evaluation(inner) -> None:
    """Central differences of the method's own value, at one seed."""
    tasks, found = draw(), []
    for estimator in (Adjoint(), Unrolled()):
        for chunk in (1, 3):
            model = net()
            learner = GradientLearner(model, GradientDescent(RATE, STEPS), inner=inner)
            method = Method(learner, Query(dropped), estimator, chunk=chunk)
            torch.manual_seed(3)
            found.append(method.meta_gradient(tasks).grads["learner.model.0.weight"])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    weight, differences = model[0].weight, torch.zeros_like(model[0].weight)
    for i in range(weight.numel()):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[i] += sign * 1e-6
            torch.manual_seed(3)
            ends.append(method.value(tasks).loss)
            with torch.no_grad():
                weight.view(-1)[i] -= sign * 1e-6
        with torch.no_grad():
            differences.view(-1)[i] = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(found[0], differences, atol=1e-7, rtol=1e-6)


def test_random_losses_draw_anew_at_every_step_and_leave_the_generator_alone() -> None:
    drawn = []

    def noted(outputs: Tensor, y: Tensor) -> Tensor:
        drawn.append(float(noise := torch.rand(())))
        return F.mse_loss(outputs, y) * noise

    tasks = draw()
    one = Task(*(Batch(b.x[:1], b.y[:1]) for b in tasks))
    method = Method(GradientLearner(net(), GradientDescent(0.1, 3), inner=noted), Query("mse"))
    method.value(one)  # looks at the loss
    drawn.clear()
    torch.manual_seed(4)
    method.value(one)
    assert len(set(drawn)) == 3
    after = torch.rand(())
    torch.manual_seed(4)
    torch.randint(2**62, ())  # the seed of the call
    assert after == torch.rand(())


def test_outside_tensors_that_want_a_gradient_are_refused() -> None:
    tasks, model = draw(), net()
    factor = nn.Parameter(torch.ones(1, dtype=torch.float64))
    solver = GradientDescent(0.1, 1)

    def scaled(outputs: Tensor, y: Tensor) -> Tensor:
        return (factor * (outputs - y) ** 2).mean()

    with pytest.raises(ValueError, match=r"the loss scaled computes with a tensor of shape \(1,\)"):
        Method(GradientLearner(model, solver, inner=scaled), Query("mse")).value(tasks)
    with pytest.raises(ValueError, match="requires a gradient"):
        Method(GradientLearner(model, solver, inner="mse"), Query(scaled)).meta_gradient(tasks)
    outside = Regulariser(lambda weights: (factor * weights["0.bias"] ** 2).sum())
    with pytest.raises(ValueError, match="requires a gradient"):
        Method(GradientLearner(model, solver, inner=["mse", outside]), Query("mse")).value(tasks)

    def of_model(model: nn.Module, batch: Batch) -> Tensor:
        return scaled(model(batch.x), batch.y)

    computed = Method.of(model, inner=of_model, outer=of_model, solver=solver)
    with pytest.raises(ValueError, match="the function of_model computes with a tensor"):
        computed.meta_gradient(tasks)
    factor.requires_grad_(False)
    Method(GradientLearner(model, solver, inner=scaled), Query("mse")).value(tasks)


def test_learned_weights_of_examples_may_have_dropout() -> None:
    tasks, found = draw(), []
    torch.manual_seed(5)
    weigh = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5)).double()
    for estimator in (Adjoint(), Unrolled()):
        learner = GradientLearner(net(), GradientDescent(RATE, 3), inner=Weighted(weigh, "mse"))
        torch.manual_seed(6)
        found.append(Method(learner, Query("mse"), estimator).meta_gradient(tasks).grads)
    for name, grad in found[1].items():
        torch.testing.assert_close(found[0][name], grad)
