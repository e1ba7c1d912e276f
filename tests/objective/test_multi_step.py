"""The multi-step loss and its schedule: against plain loops, under every engine."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from innerloop import Batch, Method, Task, methods
from innerloop.doctor import central_differences
from innerloop.doctor.gradient import flat_gradient
from innerloop.estimate import (
    Adjoint,
    EvolutionStrategies,
    FirstOrder,
    FirstOrderFirst,
    ForwardOverReverse,
    Implicit,
    Reptile,
    Unrolled,
)
from innerloop.learn import GradientLearner
from innerloop.objective import MultiStep
from innerloop.solve import GradientDescent, PerLayerPerStep, Proximal


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def draw(tasks: int = 3, seed: int = 0) -> Task:
    g = torch.Generator().manual_seed(seed)

    def batch(n: int) -> Batch:
        x = torch.randn(tasks, n, 3, generator=g, dtype=torch.float64)
        return Batch(x, torch.arange(n).remainder(2).expand(tasks, n).contiguous())

    return Task(batch(4), batch(6))


def method(estimator=None, *, steps: int = 4, until: float = 0.5, rate=None, chunk="auto"):
    learner = GradientLearner(
        net(), GradientDescent(rate or 0.3, steps), multi_step=MultiStep(until=until)
    )
    return Method("multi", learner, estimator or Adjoint(), chunk=chunk)


def by_hand(
    model: nn.Module, tasks: Task, weights: list[float], lr: float, *, first_order: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """The objective and its gradient: one task after another, weights handed on by name."""
    params = dict(model.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(tasks.support.x)):
        phi = params
        for weight in weights:
            out = torch.func.functional_call(model, phi, (tasks.support.x[i],))
            inner = nn.functional.cross_entropy(out, tasks.support.y[i])
            grads = torch.autograd.grad(inner, list(phi.values()), create_graph=not first_order)
            phi = {k: v - lr * g for (k, v), g in zip(phi.items(), grads, strict=True)}
            out = torch.func.functional_call(model, phi, (tasks.query.x[i],))
            total = total + weight * nn.functional.cross_entropy(out, tasks.query.y[i])
    total = total / len(tasks.support.x)
    return total.detach(), list(torch.autograd.grad(total, list(params.values())))


def authors_weights(epoch: int, epochs: int, steps: int) -> list[float]:
    """The rule of the released code, said once more."""
    decay = 1 / steps / epochs
    low = 0.03 / steps
    early = [max(1 / steps - epoch * decay, low) for _ in range(steps - 1)]
    return [*early, min(1 / steps + epoch * (steps - 1) * decay, 1 - (steps - 1) * low)]


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("epoch", range(10))
def test_weights_are_those_of_the_authors_at_every_epoch(epoch, steps):
    learner = method(steps=steps, until=0.1).learner
    learner.multi_step.at_progress(epoch / 100)
    expected = torch.tensor(authors_weights(epoch, 10, steps), dtype=torch.float64)
    torch.testing.assert_close(learner.outer_weights(), expected)
    assert abs(float(learner.outer_weights().sum()) - 1) < 1e-12


def test_afterwards_the_last_step_alone_counts():
    tasks, annealed = draw(), method()
    annealed.progress(0.5)
    assert annealed.learner.outer_weights() is None
    plain = methods.maml(net(), lr=0.3, steps=4)
    found, expected = annealed.meta_gradient(tasks), plain.meta_gradient(tasks)
    torch.testing.assert_close(found.grads, expected.grads)
    torch.testing.assert_close(found.stats["query_loss"], expected.stats["loss"])
    annealed.progress(0.2)  # a resumed run may start earlier
    assert annealed.learner.outer_weights() is not None


@pytest.mark.parametrize("fraction", [0.0, 0.3])
@pytest.mark.parametrize(
    "estimator",
    [
        Unrolled(),
        Adjoint(),
        Adjoint(ForwardOverReverse()),
        Adjoint(store_every=3),
        Adjoint(last=9),
    ],
)
def test_exact_estimators_against_a_plain_loop(estimator, fraction):
    tasks, ours = draw(), method(estimator)
    ours.progress(fraction)
    early = (1 - fraction / 0.5) / 4
    loss, grads = by_hand(net(), tasks, [early, early, early, 1 - 3 * early], 0.3)
    found = ours.meta_gradient(tasks)
    torch.testing.assert_close(found.loss, loss)
    torch.testing.assert_close(list(found.grads.values()), grads, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.stats["loss"].mean(), loss)
    assert not torch.allclose(found.stats["query_loss"], found.stats["loss"])


@pytest.mark.parametrize("rate", [None, "learned"])
def test_first_order_against_a_plain_loop(rate):
    """With a fixed rate the sweep passes lam on unchanged, with a learned one it makes each step"""
    tasks = draw()
    ours = method(FirstOrder(), rate=PerLayerPerStep(0.3) if rate else None)
    ours.progress(0.1)
    early = (1 - 0.1 / 0.5) / 4
    _, grads = by_hand(net(), tasks, [early, early, early, 1 - 3 * early], 0.3, first_order=True)
    found = ours.meta_gradient(tasks).grads
    found = [g for k, g in found.items() if "model" in k]
    torch.testing.assert_close(found, grads, rtol=1e-10, atol=1e-12)


def test_central_differences_in_every_meta_parameter():
    ours = method(rate=PerLayerPerStep(0.3), steps=3)
    ours.progress(0.2)
    dense = central_differences(ours, draw())
    torch.testing.assert_close(flat_gradient(ours, draw(), Adjoint()), dense, rtol=1e-6, atol=1e-9)


def test_a_tolerance_that_ends_the_loop_early_leaves_the_weights_to_the_last_point():
    def make(estimator):
        solver = GradientDescent(0.3, 6, tolerance=1e6)  # no task moves at all
        learner = GradientLearner(net(), solver, multi_step=MultiStep())
        return Method("still", learner, estimator)

    tasks = draw()
    swept, unrolled = make(Adjoint()), make(Unrolled())
    a, b = swept.meta_gradient(tasks), unrolled.meta_gradient(tasks)
    torch.testing.assert_close(a.grads, b.grads)
    torch.testing.assert_close(a.loss, b.loss)
    dense = central_differences(swept, tasks)
    torch.testing.assert_close(flat_gradient(swept, tasks, Adjoint()), dense, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("chunk", ["auto", 2])
def test_a_record_follows_the_weights(chunk):
    """Weights are inputs of a record; when they end, and when the order changes, another begins."""
    eager = method(FirstOrderFirst(until=0.3), rate=PerLayerPerStep(0.3), chunk=chunk, steps=2)
    traced = copy.deepcopy(eager).use("traced")
    previous = None
    for i, fraction in enumerate((0.0, 0.2, 0.3, 0.4, 0.5, 0.1)):
        for m in (eager, traced):
            m.progress(fraction)
        tasks = draw(seed=i % 2)
        found, expected = traced.meta_gradient(tasks), eager.meta_gradient(tasks)
        torch.testing.assert_close(found.grads, expected.grads, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.stats, expected.stats)
        current = torch.cat([g.flatten() for g in found.grads.values()])
        assert previous is None or not torch.allclose(previous, current)
        previous = current
    assert len(traced._recorder._records) == 3 * (2 if chunk == 2 else 1)


def test_a_record_of_many_steps():
    """An engine that records one step for all of them must know of the losses at every one."""
    eager = method(FirstOrder(), steps=9)
    traced = copy.deepcopy(eager).use("traced")
    for fraction in (0.0, 0.3, 0.5):
        for m in (eager, traced):
            m.progress(fraction)
        found, expected = traced.meta_gradient(draw()), eager.meta_gradient(draw())
        torch.testing.assert_close(found.grads, expected.grads, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.loss, expected.loss)


def test_the_order_of_derivatives_changes_at_its_fraction():
    tasks = draw()
    annealed = methods.maml(net(), lr=0.3, estimator=FirstOrderFirst(until=0.25))
    for fraction, estimator in ((0.0, FirstOrder()), (0.24, FirstOrder()), (0.25, Adjoint())):
        annealed.progress(fraction)
        plain = methods.maml(net(), lr=0.3, estimator=estimator)
        torch.testing.assert_close(
            annealed.meta_gradient(tasks).grads, plain.meta_gradient(tasks).grads, rtol=0, atol=0
        )
    assert "first order until 25%" in annealed.describe()["estimator"]


def test_what_knows_the_last_loss_only_is_refused():
    for estimator in (Reptile(), EvolutionStrategies(), Implicit()):
        learner = GradientLearner(
            net(), GradientDescent(0.3, 4), penalty=Proximal(1.0), multi_step=MultiStep()
        )
        with pytest.raises(ValueError, match=r"outer loss at the last inner step only.*Adjoint"):
            Method("multi", learner, estimator)
        with pytest.raises(ValueError, match="last inner step only"):
            Method("multi", learner, FirstOrderFirst(estimator))


def test_bad_numbers_and_a_second_learner_are_refused():
    for make in (MultiStep, FirstOrderFirst):
        with pytest.raises(ValueError, match="fraction 0 < until <= 1"):
            make(until=0.0)
    with pytest.raises(ValueError, match=r"floor in \[0, 1\]"):
        MultiStep(floor=2)
    with pytest.raises(ValueError, match=r"fraction of the training in \[0, 1\]"):
        method().progress(1.5)
    shared = MultiStep()
    GradientLearner(net(), GradientDescent(0.1, 2), multi_step=shared)
    with pytest.raises(ValueError, match="give each learner its own"):
        GradientLearner(net(), GradientDescent(0.1, 3), multi_step=shared)


def test_a_forgotten_call_is_said_once(caplog):
    tasks = draw()
    silent = methods.maml(net(), lr=0.3)
    silent.meta_gradient(tasks)
    told = method()
    told.progress(0.0)
    told.meta_gradient(tasks)
    assert not caplog.records
    forgotten = method()
    for _ in range(2):
        forgotten.meta_gradient(tasks)
    assert [r.message for r in caplog.records].count(caplog.records[0].message) == 1
    assert "method.progress(fraction)" in caplog.text


def test_one_step_is_plain_maml():
    tasks = draw()
    found = method(steps=1).meta_gradient(tasks)
    expected = methods.maml(net(), lr=0.3, steps=1).meta_gradient(tasks)
    torch.testing.assert_close(found.grads, expected.grads, rtol=0, atol=0)
