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
from innerloop.objective import MultiStep, Proximal, Query
from innerloop.solve import GradientDescent, PerLayerPerStep


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
    learner = GradientLearner(net(), GradientDescent(rate or 0.3, steps))
    return Method(
        learner, MultiStep(Query(), until=until), estimator or Adjoint(), name="multi", chunk=chunk
    )


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
    weights = MultiStep(Query(), until=0.1).weights(steps, epoch / 100)
    expected = torch.tensor(authors_weights(epoch, 10, steps), dtype=torch.float64)
    torch.testing.assert_close(weights, expected)
    assert abs(float(weights.sum()) - 1) < 1e-12


def test_afterwards_the_last_step_alone_counts():
    tasks, annealed = draw(), method()
    assert annealed.objective.weights(4, 0.5) is None
    plain = methods.maml(net(), lr=0.3, steps=4)
    found, expected = annealed.meta_gradient(tasks, progress=0.5), plain.meta_gradient(tasks)
    torch.testing.assert_close(found.grads, expected.grads)
    torch.testing.assert_close(found.stats["query_loss"], expected.stats["loss"])
    earlier = annealed.meta_gradient(tasks, progress=0.2)  # a resumed run may start earlier
    assert not torch.allclose(earlier.loss, expected.loss)


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
    early = (1 - fraction / 0.5) / 4
    loss, grads = by_hand(net(), tasks, [early, early, early, 1 - 3 * early], 0.3)
    found = ours.meta_gradient(tasks, progress=fraction)
    torch.testing.assert_close(found.loss, loss)
    torch.testing.assert_close(list(found.grads.values()), grads, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.stats["loss"].mean(), loss)
    assert not torch.allclose(found.stats["query_loss"], found.stats["loss"])


@pytest.mark.parametrize("rate", [None, "learned"])
def test_first_order_against_a_plain_loop(rate):
    """With a fixed rate the sweep passes lam on unchanged, with a learned one it makes each step"""
    tasks = draw()
    ours = method(FirstOrder(), rate=PerLayerPerStep(0.3) if rate else None)
    early = (1 - 0.1 / 0.5) / 4
    _, grads = by_hand(net(), tasks, [early, early, early, 1 - 3 * early], 0.3, first_order=True)
    found = ours.meta_gradient(tasks, progress=0.1).grads
    found = [g for k, g in found.items() if "model" in k]
    torch.testing.assert_close(found, grads, rtol=1e-10, atol=1e-12)


def test_central_differences_in_every_meta_parameter():
    class Later(MultiStep):
        """At a fifth of the training, where the weights are not all alike."""

        def weights(self, steps: int, progress: float) -> Tensor | None:
            return super().weights(steps, 0.2)

    learner = GradientLearner(net(), GradientDescent(PerLayerPerStep(0.3), 3))
    ours = Method(learner, Later(Query(), until=0.5))
    dense = central_differences(ours, draw())
    torch.testing.assert_close(flat_gradient(ours, draw(), Adjoint()), dense, rtol=1e-6, atol=1e-9)


def test_a_tolerance_that_ends_the_loop_early_leaves_the_weights_to_the_last_point():
    def make(estimator):
        solver = GradientDescent(0.3, 6, tolerance=1e6)  # no task moves at all
        learner = GradientLearner(net(), solver)
        return Method(learner, MultiStep(Query()), estimator, name="still")

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
        tasks = draw(seed=i % 2)
        found, expected = (m.meta_gradient(tasks, progress=fraction) for m in (traced, eager))
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
        found, expected = (m.meta_gradient(draw(), progress=fraction) for m in (traced, eager))
        torch.testing.assert_close(found.grads, expected.grads, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.loss, expected.loss)


def test_the_order_of_derivatives_changes_at_its_fraction():
    tasks = draw()
    annealed = methods.maml(net(), lr=0.3, estimator=FirstOrderFirst(until=0.25))
    for fraction, estimator in ((0.0, FirstOrder()), (0.24, FirstOrder()), (0.25, Adjoint())):
        plain = methods.maml(net(), lr=0.3, estimator=estimator)
        torch.testing.assert_close(
            annealed.meta_gradient(tasks, progress=fraction).grads,
            plain.meta_gradient(tasks).grads,
            rtol=0,
            atol=0,
        )
    assert "first order until 25%" in annealed.describe()["estimator"]


def test_what_knows_the_last_loss_only_is_refused():
    for estimator in (Reptile(), EvolutionStrategies(), Implicit()):
        learner = GradientLearner(
            net(), GradientDescent(0.3, 4), inner=["cross_entropy", Proximal(1.0)]
        )
        name = type(estimator).__name__
        for chosen, progress in ((estimator, 0.0), (FirstOrderFirst(estimator, until=0.01), 0.05)):
            told = Method(learner, MultiStep(Query()), chosen)
            with pytest.raises(ValueError, match=rf"`{name}` looks at phi_K only.*Adjoint"):
                told.meta_gradient(draw(), progress=progress)


def test_bad_numbers_are_refused():
    for make in (lambda: MultiStep(Query(), until=0.0), lambda: FirstOrderFirst(until=0.0)):
        with pytest.raises(ValueError, match="fraction 0 < until <= 1"):
            make()
    with pytest.raises(ValueError, match=r"floor in \[0, 1\]"):
        MultiStep(Query(), floor=2)
    with pytest.raises(ValueError, match=r"fraction 0 <= progress <= 1, got progress=1\.5"):
        method().meta_gradient(draw(), progress=1.5)
    with pytest.raises(ValueError, match="expected the objective to change"):
        MultiStep("cross_entropy")  # type: ignore[arg-type]


def test_one_objective_serves_learners_of_any_number_of_steps():
    shared, tasks = MultiStep(Query()), draw()
    for steps in (2, 4):
        learner = GradientLearner(net(), GradientDescent(0.3, steps))
        found = Method(learner, shared).meta_gradient(tasks)
        loss, grads = by_hand(net(), tasks, [1 / steps] * steps, 0.3)
        torch.testing.assert_close(found.loss, loss)
        torch.testing.assert_close(list(found.grads.values()), grads, rtol=1e-10, atol=1e-12)


def test_one_step_is_plain_maml():
    tasks = draw()
    found = method(steps=1).meta_gradient(tasks)
    expected = methods.maml(net(), lr=0.3, steps=1).meta_gradient(tasks)
    torch.testing.assert_close(found.grads, expected.grads, rtol=0, atol=0)
