"""The support examples of each inner step: in order, shuffled, or collected."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop import Batch, Method, Task
from innerloop.core import streams
from innerloop.core.contract import Learner, Path, Point
from innerloop.core.types import Params
from innerloop.estimate import Adjoint, FirstOrder, Unrolled
from innerloop.learn import Collected, GradientLearner, InOrder, MiniBatches
from innerloop.objective import Query
from innerloop.solve import Adam, GradientDescent, Momentum

TASKS, N, LR = 2, 4, 0.3


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def draw() -> Task:
    torch.manual_seed(1)
    y = torch.tensor([[0, 1, 2, 0], [2, 1, 0, 1]])
    x = torch.randn(2, TASKS, N, 2, dtype=torch.float64)
    return Task(Batch(x[0], y), Batch(x[1], y.flip(1)))


def by_hand(tasks: Task, chosen, constant: bool = False) -> list[Tensor]:
    """MAML whose step t sees `chosen(t, x, phi)`: indices of the support, or examples."""
    model = net()
    params = dict(model.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for i in range(TASKS):
        phi = params
        for t, step in enumerate(chosen):
            x, y = tasks.support.x[i][step], tasks.support.y[i][step]
            loss = F.cross_entropy(functional_call(model, phi, (x,)), y)
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=not constant)
            phi = {k: v - LR * g for (k, v), g in zip(phi.items(), grads, strict=True)}
            assert t < len(chosen)
        out = functional_call(model, phi, (tasks.query.x[i],))
        total = total + F.cross_entropy(out, tasks.query.y[i]) / TASKS
    return list(torch.autograd.grad(total, list(params.values())))


@pytest.mark.parametrize(
    ("size", "steps", "chosen"),
    [
        (1, 6, [[0], [1], [2], [3], [0], [1]]),
        (3, 3, [[0, 1, 2], [3, 0, 1], [2, 3, 0]]),
        (4, 2, [[0, 1, 2, 3], [0, 1, 2, 3]]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2])
def test_a_support_set_is_read_in_order(size, steps, chosen, chunk) -> None:
    tasks = draw()
    learner = GradientLearner(net(), GradientDescent(LR, steps), examples=InOrder(size))
    expected = by_hand(tasks, chosen)
    for estimator in (Unrolled(), Adjoint(), Adjoint(store_every=2)):
        found = Method(learner, Query(), estimator, chunk=chunk).meta_gradient(tasks)
        for g, e in zip(found.grads.values(), expected, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)
    first = Method(learner, Query(), FirstOrder()).meta_gradient(tasks)
    for g, e in zip(first.grads.values(), by_hand(tasks, chosen, constant=True), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)
    assert f"{size} examples per step, in order" in learner.describe()["solver"]


def test_mini_batches_see_every_example_once_before_any_twice() -> None:
    support = Batch(torch.arange(6.0).view(1, 6, 1), torch.arange(6).view(1, 6))
    learner = GradientLearner(nn.Linear(1, 6), GradientDescent(0.1, 6), examples=MiniBatches(2))
    path = learner.offer(Path)
    assert isinstance(path, Path)
    with streams.common(3):
        seen = [path.data({}, Point(t, {}, {}), support).batch for t in range(6)]
        again = [path.data({}, Point(t, {}, {}), support).batch for t in range(6)]
    with streams.common(4):
        other = [path.data({}, Point(t, {}, {}), support).batch for t in range(6)]
    labels = [b.y.flatten().tolist() for b in seen]
    assert labels == [b.y.flatten().tolist() for b in again]
    assert labels != [b.y.flatten().tolist() for b in other]
    for epoch in (labels[:3], labels[3:]):
        assert sorted(k for batch in epoch for k in batch) == list(range(6))
    assert labels[:3] != labels[3:]
    for batch in seen:
        assert torch.equal(batch.x.flatten(), batch.y.flatten().float())


def test_mini_batches_larger_than_the_support_set_are_all_of_it() -> None:
    tasks = draw()
    whole = GradientLearner(net(), GradientDescent(LR, 2))
    large = whole.replace(examples=MiniBatches(9))
    found, expected = (Method(m, Query()).meta_gradient(tasks) for m in (large, whole))
    torch.testing.assert_close(found.grads, expected.grads, rtol=0, atol=0)


def noisy(learner: Learner, meta: Params, point: Point, support: Batch) -> Batch:
    """What a policy that the weights decide would see: inputs moved by the current outputs."""
    outputs = learner.predict(meta, point, support.x, support)
    return Batch(support.x + 0.1 * outputs[..., :2], support.y)


@pytest.mark.parametrize("estimator", [Unrolled(), Adjoint(), Adjoint(store_every=2)])
def test_collected_examples_are_constants(estimator) -> None:
    tasks, model = draw(), net()
    params = dict(model.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for i in range(TASKS):
        phi = params
        for _ in range(3):
            with torch.no_grad():
                x = tasks.support.x[i]
                x = x + 0.1 * functional_call(model, phi, (x,))[:, :2]
            loss = F.cross_entropy(functional_call(model, phi, (x,)), tasks.support.y[i])
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {k: v - LR * g for (k, v), g in zip(phi.items(), grads, strict=True)}
        out = functional_call(model, phi, (tasks.query.x[i],))
        total = total + F.cross_entropy(out, tasks.query.y[i]) / TASKS
    expected = torch.autograd.grad(total, list(params.values()))
    learner = GradientLearner(net(), GradientDescent(LR, 3), examples=Collected(noisy))
    found = Method(learner, Query(), estimator).meta_gradient(tasks)
    for g, e in zip(found.grads.values(), expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)
    assert "collected by noisy" in learner.describe()["solver"]


def test_collecting_something_else_is_refused() -> None:
    learner = GradientLearner(
        net(), GradientDescent(LR, 1), examples=Collected(lambda *given: given)
    )
    with pytest.raises(ValueError, match="expected a Batch of examples, got tuple"):
        Method(learner, Query()).meta_gradient(draw())


@pytest.mark.parametrize("examples", [InOrder(1), MiniBatches(2), Collected(noisy)])
def test_examples_that_change_have_no_single_objective_and_no_record(examples) -> None:
    with pytest.raises(ValueError, match="needs one inner objective"):
        GradientLearner(net(), Adam(0.1, 2, tolerance=0.1), examples=examples)
    learner = GradientLearner(net(), Momentum(0.1, 2), examples=examples)
    with pytest.raises(ValueError, match="cannot be recorded"):
        Method(learner, Query()).use("traced")


@pytest.mark.parametrize("make", [InOrder, MiniBatches])
def test_sizes_are_whole_numbers(make) -> None:
    for size in (0, 1.5):
        with pytest.raises(ValueError, match="whole number size of"):
            make(size)
