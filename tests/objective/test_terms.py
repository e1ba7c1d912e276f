"""Inner terms and computed losses, against plain loops of ordinary autograd, task by task."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop import Batch, Method, Task
from innerloop.estimate import Adjoint, FirstOrder, ForwardOverReverse, Implicit, Unrolled
from innerloop.learn import GradientLearner, ProtoLearner
from innerloop.objective import (
    Computed,
    ComputedQuery,
    Decay,
    Proximal,
    Query,
    Regulariser,
    Weighted,
)
from innerloop.scope import Only
from innerloop.solve import GradientDescent, Scalar

TASKS, N, LR, STEPS = 3, 6, 0.3, 3


def net(out: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, out)).double()


def draw() -> Task:
    torch.manual_seed(1)
    y = torch.arange(N).remainder(3).expand(TASKS, N)
    x = torch.randn(2, TASKS, N, 2, dtype=torch.float64)
    return Task(Batch(x[0], y), Batch(x[1], y))


def curves() -> Task:
    torch.manual_seed(1)
    x = torch.randn(2, TASKS, N, 2, dtype=torch.float64)
    y = x.prod(-1, keepdim=True)
    return Task(Batch(x[0], y[0]), Batch(x[1], y[1]))


Loss = Callable[[nn.Module, dict[str, Tensor], Tensor, Tensor], Tensor]


def by_hand(
    model: nn.Module, tasks: Task, inner: Loss, outer: Loss, learned: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Mean outer loss and its gradient in the model's weights and in what else is learned."""
    params = dict(model.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for i in range(TASKS):
        phi = params
        for _ in range(STEPS):
            value = inner(model, phi, tasks.support.x[i], tasks.support.y[i])
            grads = torch.autograd.grad(
                value, list(phi.values()), create_graph=True, allow_unused=True
            )
            phi = {
                k: v if g is None else v - LR * g
                for (k, v), g in zip(phi.items(), grads, strict=True)
            }
        total = total + outer(model, phi, tasks.query.x[i], tasks.query.y[i]) / TASKS
    found = torch.autograd.grad(total, [*params.values(), *(learned or [])], allow_unused=True)
    return total.detach(), [
        torch.zeros_like(p) if g is None else g
        for p, g in zip([*params.values(), *(learned or [])], found, strict=True)
    ]


def same(method: Method, tasks: Task, expected: tuple[Tensor, list[Tensor]]) -> None:
    found = method.meta_gradient(tasks)
    torch.testing.assert_close(found.loss, expected[0], rtol=1e-12, atol=0)
    for g, e in zip(found.grads.values(), expected[1], strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)


def cross_entropy(model: nn.Module, phi: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(functional_call(model, phi, (x,)), y)


ESTIMATORS = [Unrolled(), Adjoint(), Adjoint(ForwardOverReverse(), store_every=2)]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.describe())
@pytest.mark.parametrize("learned", [False, True])
def test_decay_is_towards_zero_and_its_strength_may_be_learned(learned, estimator) -> None:
    model, tasks = net(), draw()
    log = torch.tensor(math.log(0.3), dtype=torch.float64, requires_grad=True)

    def inner(model, phi, x, y):
        decay = 0.5 * log.exp() * sum(v.square().sum() for v in phi.values())
        return cross_entropy(model, phi, x, y) + decay

    expected = by_hand(model, tasks, inner, cross_entropy, [log] if learned else None)
    learner = GradientLearner(
        model, GradientDescent(LR, STEPS), inner=["cross_entropy", Decay(0.3, learned=learned)]
    )
    method = Method(learner, Query(), estimator)
    assert ("learner.inner.1.lam.log" in dict(method.named_parameters())) == learned
    same(method, tasks, expected)
    assert "weight decay lam 0.3" in method.describe()["solver"]


def test_decay_is_that_of_torchs_descent() -> None:
    model, tasks = net(), draw()
    x, y = tasks.support.x[0], tasks.support.y[0]
    learner = GradientLearner(
        copy.deepcopy(model), GradientDescent(LR, STEPS), inner=["cross_entropy", Decay(0.3)]
    )
    found = Method(learner, Query()).adapt(x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, weight_decay=0.3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    for a, b in zip(found.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("lam", [0.0, -1.0, math.inf])
def test_a_decay_is_above_zero(lam) -> None:
    with pytest.raises(ValueError, match=f"lam > 0, got lam={lam}"):
        Decay(lam)


def test_terms_add_up_and_only_a_proximal_one_makes_an_optimum() -> None:
    model, tasks = net(), draw()
    start = {k: v.detach().clone() for k, v in model.named_parameters()}

    def inner(model, phi, x, y):
        near = sum((phi[k] - p).square().sum() for k, p in model.named_parameters())
        small = sum(v.abs().pow(3).sum() for v in phi.values())
        return cross_entropy(model, phi, x, y) + 0.5 * 2.0 * near + 0.1 * small

    expected = by_hand(model, tasks, inner, cross_entropy)
    cubes = Regulariser(lambda w: 0.1 * sum(v.abs().pow(3).sum() for v in w.values()))
    learner = GradientLearner(
        model, GradientDescent(LR, STEPS), inner=["cross_entropy", Proximal(2.0), cubes]
    )
    same(Method(learner, Query()), tasks, expected)
    Method(learner, Query(), Implicit())
    assert all(torch.equal(v, start[k]) for k, v in model.named_parameters())
    with pytest.raises(ValueError, match=r"`Implicit`.*without a penalty.*Proximal"):
        Method(learner.replace(inner=["cross_entropy", cubes, Decay(0.1)]), Query(), Implicit())


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.describe())
@pytest.mark.parametrize("squash", [torch.sigmoid, F.softplus])
def test_examples_weighted_by_a_learned_module(squash, estimator) -> None:
    model, tasks = net(), draw()
    torch.manual_seed(5)
    weigh = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    def inner(model, phi, x, y):
        each = F.cross_entropy(functional_call(model, phi, (x,)), y, reduction="none")
        return (squash(weigh(x)).squeeze(1) * each).mean()

    expected = by_hand(model, tasks, inner, cross_entropy, list(weigh.parameters()))
    learner = GradientLearner(
        model, GradientDescent(LR, STEPS), inner=Weighted(weigh, squash=squash)
    )
    method = Method(learner, Query(), estimator)
    same(method, tasks, expected)
    assert all(g.any() for k, g in method.meta_gradient(tasks).grads.items() if "weigh" in k)


def test_weights_may_look_at_a_part_of_the_inputs() -> None:
    tasks = curves()
    weigh = nn.Linear(1, 1).double()

    def inner(model, phi, x, y):
        each = (functional_call(model, phi, (x,)) - y).square().squeeze(1)
        return (weigh(x[:, 1:]).sigmoid().squeeze(1) * each).mean()

    def outer(model, phi, x, y):
        return (functional_call(model, phi, (x,)) - y).square().mean()

    model = net(1)
    expected = by_hand(model, tasks, inner, outer, list(weigh.parameters()))
    term = Weighted(weigh, "mse", reads=lambda x: x[..., 1:])
    learner = GradientLearner(model, GradientDescent(LR, STEPS), inner=term)
    same(Method(learner, Query("mse")), tasks, expected)
    with pytest.raises(ValueError, match=r"a loss of single examples.*\"cross_entropy\""):
        Weighted(weigh, nn.MSELoss())


def two_passes(model: nn.Module, batch: Batch) -> Tensor:
    """A consistency loss: the model is called twice, and once in parts."""
    outputs = model(batch.x)
    other = model(batch.x + 0.1)
    hidden = model[1](model[0](batch.x))
    fit = F.cross_entropy(outputs, batch.y)
    return fit + (outputs - other).square().mean() + 0.01 * hidden.square().mean()


def physics(model: nn.Module, batch: Batch) -> Tensor:
    """The residual of u'' + u = 0 in the first input, beside values at the examples."""
    x = batch.x.detach().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)
    return (curve[:, :1] + u).square().mean() + (u - batch.y).square().mean()


def on_phi(function: Callable[[nn.Module, Batch], Tensor]) -> Loss:
    """The same function for the loop by hand: the weights are put into a copy of the module."""

    class Placed:
        """What the functions above need of a model, with other weights."""

        def __init__(self, model: nn.Module, phi: dict[str, Tensor]):
            self.model, self.phi = model, phi

        def __call__(self, x: Tensor) -> Tensor:
            return functional_call(self.model, self.phi, (x,))

        def __getitem__(self, i: int) -> Callable[[Tensor], Tensor]:
            own = {k[2:]: v for k, v in self.phi.items() if k.startswith(f"{i}.")}
            return lambda x: functional_call(self.model[i], own, (x,))  # type: ignore[index]

    return lambda model, phi, x, y: function(Placed(model, phi), Batch(x, y))  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [1, "auto"])
@pytest.mark.parametrize("estimator", [Unrolled(), Adjoint()], ids=lambda e: e.describe())
@pytest.mark.parametrize("name", ["two passes", "physics"])
def test_any_differentiable_code_may_be_the_loss(name, estimator, chunk) -> None:
    function = {"two passes": two_passes, "physics": physics}[name]
    model, tasks = (net(), draw()) if name == "two passes" else (net(1), curves())
    method = Method.of(
        model, inner=function, outer=function, solver=GradientDescent(LR, STEPS),
        estimator=estimator, chunk=chunk,
    )  # fmt: skip
    same(method, tasks, by_hand(model, tasks, on_phi(function), on_phi(function)))
    stats = method.meta_gradient(tasks).stats
    assert set(stats) == {"loss", "query_loss"} and stats["loss"].shape == (TASKS,)


@pytest.mark.parametrize("name", ["two passes", "physics"])
def test_first_order_and_adaptation_of_computed_losses(name) -> None:
    function = {"two passes": two_passes, "physics": physics}[name]
    model, tasks = (net(), draw()) if name == "two passes" else (net(1), curves())
    method = Method.of(model, inner=function, outer=function, solver=GradientDescent(LR, STEPS))
    x, y = tasks.support.x[1], tasks.support.y[1]
    adapted, expected = method.adapt(x, y), copy.deepcopy(model)
    for _ in range(STEPS):
        loss = function(expected, Batch(x, y))
        grads = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for p, g in zip(expected.parameters(), grads, strict=True):
                p -= LR * g
    for a, b in zip(adapted.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
    first = method.replace(estimator=FirstOrder()).meta_gradient(tasks)
    exact = method.meta_gradient(tasks)
    torch.testing.assert_close(first.loss, exact.loss)
    assert any(not torch.allclose(first.grads[k], g, rtol=1e-3) for k, g in exact.grads.items())


def test_computed_losses_stand_beside_other_choices() -> None:
    """Another scope, a learned rate, a metric, an inner penalty, an outer loss of a name."""
    model, tasks = net(), draw()
    method = Method.of(
        model, inner=two_passes, outer=two_passes, solver=GradientDescent(Scalar(LR), STEPS),
        scope=Only("2.*"), metric="accuracy", name="consistent",
    )  # fmt: skip
    found = method.meta_gradient(tasks)
    assert set(found.stats) == {"loss", "query_loss", "accuracy"}
    outputs = method.query_outputs(tasks)[-1]
    right = (outputs.argmax(2) == tasks.query.y).double().mean(1)
    torch.testing.assert_close(found.stats["accuracy"], right)
    assert set(method.trajectory(tasks.support)[-1]) == {"2.weight", "2.bias"}
    assert method.describe()["method"] == "consistent"
    assert method.describe()["loss"] == "two_passes"
    learner = GradientLearner(
        model, GradientDescent(LR, STEPS), inner=[Computed(two_passes), Proximal(1.0)]
    )

    def inner(model, phi, x, y):
        near = sum((phi[k] - p).square().sum() for k, p in model.named_parameters())
        return on_phi(two_passes)(model, phi, x, y) + 0.5 * near

    mixed = Method(learner, Query())
    same(mixed, tasks, by_hand(model, tasks, inner, cross_entropy))
    assert mixed.describe()["loss"] == "two_passes inside, cross_entropy outside"


def test_what_no_scalar_comes_of_is_refused() -> None:
    model, tasks = net(), draw()

    def method(function):
        return Method.of(model, inner=function, outer=two_passes, solver=GradientDescent(LR, 1))

    with pytest.raises(ValueError, match=r"return a scalar tensor, got \(6, 3\)"):
        method(lambda m, b: m(b.x)).meta_gradient(tasks)
    with pytest.raises(ValueError, match=r"return a scalar tensor, got float"):
        method(lambda m, b: 1.0).meta_gradient(tasks)
    with pytest.raises(ValueError, match=r"expected a function of \(model, batch\), got str"):
        Computed("cross_entropy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`ComputedQuery` calls the adapted model.*ProtoLearner"):
        Method(ProtoLearner(net()), ComputedQuery(two_passes), Unrolled())


def test_methods_of_functions_can_be_copied_and_pickled() -> None:
    tasks = draw()
    method = Method.of(net(), inner=two_passes, outer=two_passes, solver=GradientDescent(LR, 1))
    expected = method.meta_gradient(tasks).grads
    for other in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        torch.testing.assert_close(other.meta_gradient(tasks).grads, expected, rtol=0, atol=0)


def test_weights_of_examples_reach_the_function() -> None:
    def weighted(model: nn.Module, batch: Batch) -> Tensor:
        each = F.cross_entropy(model(batch.x), batch.y, reduction="none")
        return each.mean() if batch.weight is None else (batch.weight * each).sum()

    (x, y, _), query = draw()
    weight = torch.zeros(TASKS, N, dtype=torch.float64)
    weight[:, :2] = 0.5
    method = Method.of(net(), inner=weighted, outer=weighted, solver=GradientDescent(LR, STEPS))
    found = method.meta_gradient(Task(Batch(x, y, weight), query))
    short = method.meta_gradient(Task(Batch(x[:, :2], y[:, :2]), query))
    torch.testing.assert_close(found.grads, short.grads)
