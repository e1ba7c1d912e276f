"""Learners written outside of the library: they fulfil the contract and use nothing else of it."""

from __future__ import annotations

import copy
import pickle
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop import Batch, Method, Task
from innerloop.core.contract import Learner, Path, Point, Refusal, View
from innerloop.core.types import Params
from innerloop.estimate import (
    Adjoint,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    FirstOrderFirst,
    ForwardOverReverse,
    HessianFree,
    Implicit,
    Reptile,
    Unrolled,
)
from innerloop.objective import Bootstrapped, ComputedQuery, MultiStep, Query

V = TypeVar("V")

TASKS, N, CLASSES, STEPS = 3, 6, 3, 4


def body() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4)).double()


def draw(tasks: int = TASKS, n: int = N, seed: int = 1) -> Task:
    generator = torch.Generator().manual_seed(seed)
    y = torch.stack([torch.randperm(n, generator=generator) % CLASSES for _ in range(tasks)])
    x = torch.randn(2, tasks, n, 2, generator=generator, dtype=torch.float64)
    return Task(Batch(x[0], y), Batch(x[1], y.flip(1)))


def named(meta: Params, prefix: str) -> Params:
    return {k.removeprefix(prefix): v for k, v in meta.items() if k.startswith(prefix)}


class Attention(Learner):
    """Linear attention over the support set: phi = sum_i f(x_i) e_{y_i}^T, outputs f(x) phi / n."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def adapt(self, meta: Params, support: Batch) -> Point:
        keys = functional_call(self.body, named(meta, "body."), (support.x,))
        values = F.one_hot(support.y, CLASSES).to(keys.dtype)
        return Point(0, {"memory": keys.mT @ values / keys.shape[1]}, {})

    def predict(self, meta: Params, point: Point, x: Tensor, support: Batch) -> Tensor:
        found = functional_call(self.body, named(meta, "body."), (x,))
        return meta["scale"] * found @ point.phi["memory"]

    def module(self, point: Point, support: Batch) -> nn.Module:
        head = nn.Linear(4, CLASSES, bias=False).double()
        with torch.no_grad():
            head.weight.copy_(self.scale * point.phi["memory"].squeeze(0).mT)
        return nn.Sequential(copy.deepcopy(self.body), head).eval()

    def describe(self) -> dict[str, str]:
        return {"solver": "linear attention"}


def attended(learner: Attention, tasks: Task) -> tuple[Tensor, Tensor]:
    """Mean query loss and query outputs, one task after another, on the module itself."""
    outputs = []
    for x, y, q in zip(tasks.support.x, tasks.support.y, tasks.query.x, strict=True):
        keys = learner.body(x)
        memory = sum(
            torch.outer(k, F.one_hot(c, CLASSES).double()) for k, c in zip(keys, y, strict=True)
        )
        outputs.append(learner.scale * learner.body(q) @ memory / len(x))
    told = torch.stack(outputs)
    losses = [F.cross_entropy(o, y) for o, y in zip(told, tasks.query.y, strict=True)]
    return torch.stack(losses), told


@pytest.mark.parametrize("chunk", ["auto", 1, 2])
def test_a_learner_that_adapts_at_once_is_differentiated_exactly(chunk: int | str) -> None:
    learner, tasks = Attention(), draw()
    method = Method(learner, Query(), Unrolled(), name="attention", chunk=chunk)  # type: ignore[arg-type]
    losses, outputs = attended(learner, tasks)
    expected = torch.autograd.grad(losses.mean(), list(learner.parameters()))
    found = method.meta_gradient(tasks)
    torch.testing.assert_close(found.loss, losses.mean().detach())
    torch.testing.assert_close(found.stats["query_loss"], losses.detach())
    right = (outputs.argmax(2) == tasks.query.y).double().mean(1)
    torch.testing.assert_close(found.stats["accuracy"], right)
    assert list(found.grads) == [f"learner.{k}" for k, _ in learner.named_parameters()]
    for g, e in zip(found.grads.values(), expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)


def test_everything_that_a_method_does_works_on_it() -> None:
    learner, tasks = Attention(), draw()
    method = Method(learner, Query(), Unrolled(), name="attention")
    outputs = attended(learner, tasks)[1].detach()
    found = method.meta_gradient(tasks)
    method.loss(tasks).backward()
    for k, p in method.named_parameters():
        torch.testing.assert_close(p.grad, found.grads[k])
    value = method.value(tasks)
    assert value.grads == {}
    torch.testing.assert_close(value.stats, found.stats)
    torch.testing.assert_close(method.query_outputs(tasks), outputs[None])
    torch.testing.assert_close(method.query_outputs(tasks, 3), outputs[None])
    states = method.trajectory(tasks.support)
    assert [{k: v.shape for k, v in s.items()} for s in states] == [{"memory": (TASKS, 4, CLASSES)}]
    module = method.adapt(tasks.support.x[1], tasks.support.y[1])
    torch.testing.assert_close(module(tasks.query.x[1]).detach(), outputs[1])
    assert method.describe() == {
        "method": "attention",
        "solver": "linear attention",
        "loss": "cross_entropy",
        "estimator": "unrolled",
    }
    for other in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        torch.testing.assert_close(other.meta_gradient(tasks).grads, found.grads, rtol=0, atol=0)


def test_a_copy_goes_its_own_way() -> None:
    method, tasks = Method(Attention(), Query(), Unrolled()), draw()
    before = method.meta_gradient(tasks)
    other = copy.deepcopy(method)
    with torch.no_grad():
        for p in method.parameters():
            p.mul_(0.5)
    torch.testing.assert_close(other.meta_gradient(tasks).grads, before.grads, rtol=0, atol=0)
    assert not torch.allclose(method.meta_gradient(tasks).loss, before.loss)


def test_evolution_strategies_take_every_learner() -> None:
    tasks = draw()
    torch.manual_seed(0)
    rough = Method(Attention(), Query(), EvolutionStrategies(pairs=300, sigma=1e-3)).meta_gradient(
        tasks
    )
    exact = Method(Attention(), Query(), Unrolled()).meta_gradient(tasks)
    a, b = (torch.cat([g.flatten() for g in m.grads.values()]) for m in (rough, exact))
    assert torch.cosine_similarity(a, b, dim=0) > 0.9
    torch.testing.assert_close(rough.loss, exact.loss)


@pytest.mark.parametrize(
    "estimator", [Adjoint(), FirstOrder(), Reptile(), HessianFree(), FirstOrderFirst(), Implicit()]
)
def test_estimators_of_steps_refuse_a_learner_without_steps(estimator) -> None:
    with pytest.raises(
        ValueError, match=r"cannot differentiate `Attention`: .*at once.*Use `Unrolled\(\)`"
    ):
        Method(Attention(), Query(), estimator)


@pytest.mark.parametrize(
    ("objective", "word"),
    [(Bootstrapped(), "`Bootstrapped`"), (ComputedQuery(lambda m, b: m(b.x).sum()), "does not")],
)
def test_objectives_that_need_more_name_both(objective, word) -> None:
    with pytest.raises(ValueError, match=rf"{word}.*`Attention`|`Attention`.*{word}"):
        Method(Attention(), objective, Unrolled())


def test_step_weights_have_no_steps_to_weigh_and_change_nothing() -> None:
    tasks = draw()
    weighed = Method(Attention(), MultiStep(Query()), Unrolled()).meta_gradient(tasks)
    plain = Method(Attention(), Query(), Unrolled()).meta_gradient(tasks)
    torch.testing.assert_close(weighed.grads, plain.grads, rtol=0, atol=0)


def test_recording_is_refused_with_a_reason_that_fits() -> None:
    with pytest.raises(ValueError, match=r"`Attention`.*cannot be recorded\. Use engine=\"eager\""):
        Method(Attention(), Query(), Unrolled()).use("traced")


class Steps(Path):
    """Gradient descent with momentum on a head, with a learned rate; features are shared."""

    def __init__(self, owner: Stepwise, steps: int, tolerance: float | None):
        self.owner, self.steps, self.tolerance = owner, steps, tolerance

    def start(self, meta: Params, support: Batch) -> Point:
        w = meta["head"].expand(len(support.x), 4, CLASSES)
        return Point(0, {"w": w}, {"m": torch.zeros_like(w)})

    def losses(self, meta: Params, point: Point, data: Batch) -> Tensor:
        outputs = self.owner.predict(meta, point, data.x, data)
        return F.cross_entropy(outputs.mT, data.y, reduction="none").mean(1)

    def step(self, meta: Params, point: Point, view: View) -> Point:
        m = 0.7 * point.state["m"] + view.grad["w"]
        return Point(point.t + 1, {"w": point.phi["w"] - meta["log_rate"].exp() * m}, {"m": m})


class Stepwise(Learner):
    def __init__(self, steps: int = STEPS, tolerance: float | None = None) -> None:
        super().__init__()
        self.body = body()
        self.head = nn.Parameter(torch.randn(4, CLASSES, dtype=torch.float64))
        self.log_rate = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))
        self.way = Steps(self, steps, tolerance)

    def adapt(self, meta: Params, support: Batch) -> Point:
        point = self.way.start(meta, support)
        for _ in range(self.way.steps):
            with torch.enable_grad():
                phi = {
                    k: v if v.requires_grad else v.detach().requires_grad_()
                    for k, v in point.phi.items()
                }
                point = point._replace(phi=phi)
                losses = self.way.losses(meta, point, support)
                (g,) = torch.autograd.grad(
                    losses.sum(), list(phi.values()), create_graph=torch.is_grad_enabled()
                )
            seen = View()  # type: ignore[abstract]
            seen.losses, seen.grad = losses, {"w": g}
            point = self.way.step(meta, point, seen)
        return point

    def predict(self, meta: Params, point: Point, x: Tensor, support: Batch) -> Tensor:
        return functional_call(self.body, named(meta, "body."), (x,)) @ point.phi["w"]

    def module(self, point: Point, support: Batch) -> nn.Module:
        head = nn.Linear(4, CLASSES, bias=False).double()
        with torch.no_grad():
            head.weight.copy_(point.phi["w"].squeeze(0).mT)
        return nn.Sequential(copy.deepcopy(self.body), head).eval()

    def describe(self) -> dict[str, str]:
        return {"solver": "momentum on a head"}

    def offer(self, view: type[V]) -> V | Refusal:
        found: V | Refusal = self.way if view is Path else super().offer(view)  # type: ignore[assignment]
        return found


def by_hand(learner: Stepwise, tasks: Task, constant: bool = False) -> tuple[Tensor, Tensor]:
    """(Query losses (K+1, T), phi_K (T, 4, C)), one task after another; `constant` cuts the inner
    gradients off."""
    told, ends = [], []
    for x, y, q, z in zip(*tasks.support[:2], *tasks.query[:2], strict=True):
        w, m, losses = learner.head, torch.zeros(4, CLASSES).double(), []
        for t in range(STEPS + 1):
            losses.append(F.cross_entropy(learner.body(q) @ w, z))
            if t == STEPS:
                break
            inner = F.cross_entropy(learner.body(x) @ w, y)
            (g,) = torch.autograd.grad(inner, w, create_graph=not constant)
            m = 0.7 * m + g
            w = w - learner.log_rate.exp() * m
        told.append(torch.stack(losses))
        ends.append(w)
    return torch.stack(told, 1), torch.stack(ends)


def gradient(total: Tensor, learner: Stepwise) -> list[Tensor]:
    return list(torch.autograd.grad(total, list(learner.parameters())))


def close(found: Params, expected: list[Tensor]) -> None:
    for g, e in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("chunk", ["auto", 1])
@pytest.mark.parametrize(
    "estimator",
    [
        Unrolled(),
        Adjoint(),
        Adjoint(store_every=3),
        Adjoint(ForwardOverReverse()),
        FirstOrderFirst(until=0.01),
    ],
    ids=lambda e: e.describe(),
)
def test_a_learner_that_offers_its_own_path_is_differentiated_exactly(estimator, chunk) -> None:
    learner, tasks = Stepwise(), draw()
    found = Method(learner, Query(), estimator, chunk=chunk).meta_gradient(tasks, progress=0.5)
    losses, _ = by_hand(learner, tasks)
    torch.testing.assert_close(found.loss, losses[-1].mean().detach())
    close(found.grads, gradient(losses[-1].mean(), learner))


def test_the_other_estimators_of_a_path() -> None:
    learner, tasks = Stepwise(), draw()
    losses, ends = by_hand(learner, tasks, constant=True)
    first = Method(learner, Query(), FirstOrder()).meta_gradient(tasks)
    close(first.grads, gradient(losses[-1].mean(), learner))
    exact = Method(learner, Query(), Unrolled()).meta_gradient(tasks)
    assert any(not torch.allclose(first.grads[k], g) for k, g in exact.grads.items())
    rough = Method(learner, Query(), Adjoint(FiniteDifference())).meta_gradient(tasks)
    torch.testing.assert_close(rough.grads, exact.grads, rtol=1e-6, atol=1e-9)
    moved = Method(learner, Query(), Reptile()).meta_gradient(tasks).grads
    torch.testing.assert_close(moved["learner.head"], learner.head - ends.detach().mean(0))


def test_its_steps_are_seen_from_outside() -> None:
    learner, tasks = Stepwise(), draw()
    method = Method(learner, Query(), Adjoint())
    losses, ends = (v.detach() for v in by_hand(learner, tasks))
    outputs = method.query_outputs(tasks)
    assert outputs.shape == (STEPS + 1, TASKS, N, CLASSES)
    found = torch.stack([
        torch.stack([F.cross_entropy(o, y) for o, y in zip(step, tasks.query.y, strict=True)])
        for step in outputs
    ])  # fmt: skip
    torch.testing.assert_close(found, losses)
    states = method.trajectory(tasks.support)
    assert len(states) == STEPS + 1
    torch.testing.assert_close(states[-1]["w"], ends)
    module = method.adapt(tasks.support.x[0], tasks.support.y[0])
    torch.testing.assert_close(module(tasks.query.x[0]).detach(), outputs[-1, 0])
    assert len(method.trajectory(tasks.support, 2)) == 3


def test_objectives_of_steps_take_a_path_of_ones_own() -> None:
    learner, tasks = Stepwise(), draw()
    losses, _ = by_hand(learner, tasks)
    expected = gradient(losses[1:].mean(), learner)
    for estimator in (Unrolled(), Adjoint()):
        found = Method(learner, MultiStep(Query()), estimator).meta_gradient(tasks)
        close(found.grads, expected)
        torch.testing.assert_close(found.loss, losses[1:].mean().detach())
    swept = Method(learner, Bootstrapped(extra=2), Adjoint()).meta_gradient(tasks)
    unrolled = Method(learner, Bootstrapped(extra=2), Unrolled()).meta_gradient(tasks)
    torch.testing.assert_close(swept.grads, unrolled.grads, rtol=1e-10, atol=1e-13)
    assert any(g.any() for g in swept.grads.values())


def test_a_tolerance_of_its_own_is_obeyed() -> None:
    tasks = draw()
    swept, unrolled = (
        Method(Stepwise(60, tolerance=0.25), Query(), e).meta_gradient(tasks)
        for e in (Adjoint(), Unrolled())
    )
    torch.testing.assert_close(swept.grads, unrolled.grads, rtol=1e-10, atol=1e-13)
    lengths = [
        len(Method(Stepwise(60, tolerance=0.25), Query()).trajectory(
            Batch(tasks.support.x[i : i + 1], tasks.support.y[i : i + 1])
        ))
        for i in range(TASKS)
    ]  # fmt: skip
    assert len(set(lengths)) > 1 and max(lengths) < 61, "tasks stop at different steps"


class Judge(Query):
    """An objective with a parameter of its own: the logits' temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def losses(self, learner, meta, point, task):
        outputs = learner.predict(meta, point, task.query.x, task.support)
        losses = self.loss(outputs * meta["objective.log_temperature"].exp(), task.query)
        return super().losses(learner, meta, point, task)._replace(losses=losses)


@pytest.mark.parametrize("estimator", [Unrolled(), Adjoint(), EvolutionStrategies(pairs=2)])
def test_an_objective_may_learn_beside_a_learner_of_ones_own(estimator) -> None:
    learner, tasks = Stepwise(), draw()
    method = Method(learner, Judge(), estimator)
    found = method.meta_gradient(tasks).grads
    assert list(found) == [k for k, _ in method.named_parameters()]
    assert found["objective.log_temperature"] != 0
    if isinstance(estimator, EvolutionStrategies):
        return
    own = {k.removeprefix("learner."): v for k, v in found.items() if k.startswith("learner.")}
    phi = by_hand(learner, tasks)[1]
    scores = torch.stack([learner.body(q) @ w for q, w in zip(tasks.query.x, phi, strict=True)])
    heat = method.objective.log_temperature
    total = F.cross_entropy((scores * heat.exp()).flatten(0, 1), tasks.query.y.flatten())
    *expected, warmer = torch.autograd.grad(total, [*learner.parameters(), heat])
    close(own, expected)
    torch.testing.assert_close(found["objective.log_temperature"], warmer)
