"""The inner loop at the level of its contract: masks, vector-Jacobian products, keys, walks."""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from innerloop import Batch
from innerloop.core import path as loop
from innerloop.core.contract import (
    Given,
    Learner,
    Path,
    Point,
    Refusal,
    Trajectory,
    View,
    pull_by_autograd,
)
from innerloop.core.types import Params, Tree
from innerloop.learn import GradientLearner, ProtoLearner
from innerloop.objective import Proximal
from innerloop.scope import All, PerStep
from innerloop.solve import (
    Adam,
    DropGrad,
    GradientDescent,
    MetaLSTM,
    Momentum,
    NewtonCG,
    PerLayerPerStep,
    Rate,
    Scalar,
    Solver,
)

V = TypeVar("V")

TASKS = 3


def numbers(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Valley(Path):
    """L_i(phi) = sum_j a_ij (phi_ij - b_j)^2 / 2, with momentum and a rate that are meta-learned.

    The step reads the loss as well, so that every path of a vjp counts.
    """

    def __init__(self, steps: int, tolerance: float | None = None):
        self.steps, self.tolerance = steps, tolerance

    def start(self, meta: Params, support: Batch) -> Point:
        phi = meta["start"].expand(len(support.x), 2)
        return Point(0, {"w": phi}, {"m": torch.zeros_like(phi)})

    def losses(self, meta: Params, point: Point, data: Batch) -> Tensor:
        gap = point.phi["w"] - meta["centre"]
        return 0.5 * (data.x.squeeze(1) * gap.square()).sum(1)

    def step(self, meta: Params, point: Point, view: View) -> Point:
        m = 0.5 * point.state["m"] + view.grad["w"] * (1 + 0.1 * view.losses.unsqueeze(1))
        return Point(point.t + 1, {"w": point.phi["w"] - meta["rate"] * m}, {"m": m})


def meta() -> Params:
    values = {
        "start": numbers(2, seed=0),
        "centre": numbers(2, seed=1),
        "rate": torch.tensor(0.2, dtype=torch.float64),
    }
    return {k: v.requires_grad_() for k, v in values.items()}


def support() -> Batch:
    """Curvatures (T, 1, 2): one task is steep, one is flat."""
    x = numbers(TASKS, 1, 2, seed=2).abs() * torch.tensor([0.1, 1.0, 2.0]).view(3, 1, 1).double()
    return Batch(x, torch.zeros(TASKS, 1, dtype=torch.int64))


def somewhere() -> tuple[Point, View]:
    point = Point(2, {"w": numbers(TASKS, 2, seed=3)}, {"m": numbers(TASKS, 2, seed=4)})
    grad = numbers(TASKS, 2, seed=5) * torch.tensor([[0.01], [1.0], [1.0]]).double()
    return point, Given(numbers(TASKS, seed=6).abs(), {"w": grad})


def by_autograd(path: Path, point: Point, view: View, lam: Params, mu: Params) -> list[Tensor]:
    """The vjp of the masked step by autograd, the mask chosen with where; zeros where unused."""
    given = meta()
    phi, m, grad = (v.detach().clone().requires_grad_() for v in (
        point.phi["w"], point.state["m"], view.grad["w"]
    ))  # fmt: skip
    losses = view.losses.clone().requires_grad_()
    after = path.step(given, Point(point.t, {"w": phi}, {"m": m}), Given(losses, {"w": grad}))
    w, kept = after.phi["w"], after.state["m"]
    if path.tolerance is not None:
        moving = (grad.detach().square().sum(1).sqrt() > path.tolerance).unsqueeze(1)
        w, kept = torch.where(moving, w, phi), torch.where(moving, kept, m)
    total = (w * lam["w"]).sum() + (kept * mu["m"]).sum()
    inputs = [phi, m, grad, losses, given["rate"]]
    return list(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("tolerance", [None, 0.1, 1e9])
def test_masked_pull_is_the_derivative_of_the_masked_step(tolerance: float | None) -> None:
    path = Valley(5, tolerance)
    point, view = somewhere()
    lam, mu = {"w": numbers(TASKS, 2, seed=7)}, {"m": numbers(TASKS, 2, seed=8)}
    found = loop.masked_pull(path, meta(), point, view, lam, mu)
    assert found.losses is not None
    parts = [
        found.phi["w"], found.state["m"], found.grad["w"], found.losses, found.meta["rate"]
    ]  # fmt: skip
    for a, b in zip(parts, by_autograd(path, point, view, lam, mu), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
    moving = loop.still_moving(path, view.grad)
    assert (None if moving is None else moving.tolist()) == {
        None: None, 0.1: [False, True, True], 1e9: [False, False, False]
    }[tolerance]  # fmt: skip


def test_a_gradient_that_is_not_a_number_counts_as_moving() -> None:
    grad = {"w": torch.tensor([[float("nan"), 0.0], [0.0, 0.0]])}
    moving = loop.still_moving(Valley(1, 1.0), grad)
    assert moving is not None and moving.tolist() == [True, False]


def test_a_task_at_rest_keeps_its_point_and_its_state() -> None:
    path = Valley(5, 0.1)
    point, view = somewhere()
    after = loop.masked_step(path, meta(), point, view, loop.still_moving(path, view.grad))
    assert after.t == point.t + 1
    for k, before in (("phi", point.phi), ("state", point.state)):
        (now,), (was,) = getattr(after, k).values(), before.values()
        assert torch.equal(now[0], was[0]) and not torch.equal(now[1], was[1])


@pytest.mark.parametrize("rate", [0.3, Scalar(0.3)], ids=["closed form", "by autograd"])
def test_the_vjp_of_a_descent_step_is_lam_and_minus_rate_lam(rate: float | Scalar) -> None:
    solver = GradientDescent(rate, 2)
    solver.bind({"w": torch.Size([2])}, torch.float64)
    hyper: Params = dict(solver.named_parameters())
    point, view = somewhere()
    point = point._replace(state={})
    lam = {"w": numbers(TASKS, 2, seed=7)}
    for found in (
        solver.pull(hyper, point, view, lam, {}),
        pull_by_autograd(solver.step, hyper, point, view, lam, {}),
    ):
        torch.testing.assert_close(found.phi["w"], lam["w"], rtol=0, atol=0)
        torch.testing.assert_close(found.grad["w"], -0.3 * lam["w"], rtol=1e-15, atol=0)
        assert found.losses is None and not found.state
        expected = {} if isinstance(rate, float) else {
            "rate.value": -(view.grad["w"] * lam["w"]).sum()
        }  # fmt: skip
        torch.testing.assert_close(found.meta, expected)
    known = solver.pull_constant(lam, {})
    assert (known is not None) == isinstance(rate, float)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()


@pytest.mark.parametrize(
    ("solver", "scope", "alike"),
    [
        (lambda: GradientDescent(0.1, 3), All, True),
        (lambda: GradientDescent(Scalar(0.1), 3), All, True),
        (lambda: Momentum(0.1, 3), All, True),
        (lambda: MetaLSTM(3), All, True),
        (lambda: GradientDescent(PerLayerPerStep(0.1), 3), All, False),
        (lambda: Adam(0.1, 3), All, False),
        (lambda: DropGrad(GradientDescent(0.1, 3)), All, False),
        (lambda: GradientDescent(0.1, 3), lambda: PerStep(All()), False),
    ],
)
def test_steps_have_one_key_where_they_are_one_program(solver, scope, alike) -> None:
    path = GradientLearner(network(), solver(), scope()).offer(Path)
    assert isinstance(path, Path)
    assert len({path.key(t) for t in range(path.steps)}) == (1 if alike else path.steps)


def test_by_default_no_two_steps_are_one_program() -> None:
    class Halving(Rate):
        def bind(self, shapes: dict[str, torch.Size], steps: int, dtype: torch.dtype) -> None:
            return None

        def at(self, hyper: Params, t: int, name: str) -> float:
            return 0.5**t

        def describe(self) -> str:
            return "halved at every step"

    assert len({Valley(4).key(t) for t in range(4)}) == 4
    assert len({GradientDescent(Halving(), 4).key(t) for t in range(4)}) == 4


class OnlyPath(Learner):
    """A learner that offers nothing but its steps."""

    def __init__(self, steps: int, tolerance: float | None = None):
        super().__init__()
        self.way = Valley(steps, tolerance)
        for k, v in meta().items():
            self.register_parameter(k, nn.Parameter(v.detach()))

    def adapt(self, meta: Params, support: Batch) -> Point:
        return loop.unroll(self.way, meta, support)

    def predict(self, meta: Params, point: Point, x: Tree, support: Batch) -> Tree:
        return x * point.phi["w"].unsqueeze(1)

    def module(self, point: Point, support: Batch) -> nn.Module:
        raise NotImplementedError

    def describe(self) -> dict[str, str]:
        return {}

    def offer(self, view: type[V]) -> V | Refusal:
        found: V | Refusal = self.way if view is Path else super().offer(view)  # type: ignore[assignment]
        return found


def by_hand(steps: int, tolerance: float | None = None) -> list[Tensor]:
    """phi_0 … phi_S, one task after another, in floats of autograd, until all are at rest."""
    values, curvature = {k: v.detach() for k, v in meta().items()}, support().x.squeeze(1)
    ways = []
    for a in curvature:
        w, m, way = values["start"], torch.zeros(2).double(), [values["start"]]
        for _ in range(steps):
            gap = w - values["centre"]
            g, loss = a * gap, 0.5 * (a * gap.square()).sum()
            if tolerance is None or g.norm() > tolerance:
                m = 0.5 * m + g * (1 + 0.1 * loss)
                w = w - values["rate"] * m
            way.append(w)
        ways.append(torch.stack(way))
    return list(torch.stack(ways, 1))


def test_a_learner_that_offers_only_its_steps_has_a_trajectory() -> None:
    learner = OnlyPath(4)
    assert isinstance(learner.offer(Trajectory), Refusal)
    way = loop.trajectory(learner)
    assert isinstance(way, Trajectory) and way.steps == 4
    given = {k: v.detach() for k, v in learner.named_parameters()}
    for steps in (None, 0, 2, 6):
        found = [point.phi["w"] for point in way.points(given, support(), steps)]
        expected = by_hand(4 if steps is None else steps)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)
        assert not any(v.requires_grad for v in found)


def test_a_walk_ends_once_every_task_is_at_rest() -> None:
    tolerance = 0.3
    walked = [p.phi["w"] for p in loop.points(Valley(60, tolerance), meta(), support())]
    expected = by_hand(60, tolerance)
    assert 2 < len(walked) < 40
    torch.testing.assert_close(walked, expected[: len(walked)], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(walked[-1], expected[-1], rtol=1e-13, atol=1e-15)
    end = loop.unroll(Valley(60, tolerance), meta(), support())
    torch.testing.assert_close(end.phi["w"], expected[-1], rtol=1e-13, atol=1e-15)
    health = loop.health(Valley(60, tolerance), meta(), end, support())
    assert health["inner_converged"].all() and (health["inner_gradient_norm"] <= tolerance).all()
    assert loop.health(Valley(60), meta(), end, support()) == {}


def test_going_on_from_a_point_is_the_same_way() -> None:
    path, given = Valley(6), {k: v.detach() for k, v in meta().items()}
    whole = list(loop.points(path, given, support()))
    rest = list(loop.advance(path, given, support(), whole[2], 6))
    assert [p.t for p in rest] == [3, 4, 5, 6]
    for a, b in zip(rest, whole[3:], strict=True):
        assert torch.equal(a.phi["w"], b.phi["w"]) and torch.equal(a.state["m"], b.state["m"])


def test_who_has_no_steps_has_no_trajectory_and_a_search_has_one_without_a_path() -> None:
    assert loop.trajectory(ProtoLearner(nn.Linear(2, 3))) is None
    searching = GradientLearner(
        nn.Linear(2, 3), NewtonCG(4), inner=["cross_entropy", Proximal(1.0)]
    )
    assert isinstance(searching.offer(Path), Refusal)
    way = loop.trajectory(searching)
    assert way is not None and way.steps == 4


def test_a_solver_of_ones_own_gets_its_vjp_by_autograd() -> None:
    class Clamped(Solver):
        def init(self, phi: Params) -> Params:
            return {}

        def step(self, hyper: Params, point: Point, view: View) -> Point:
            moved = {k: (v - view.grad[k]).clamp(-0.5, 0.5) for k, v in point.phi.items()}
            return Point(point.t + 1, moved, {})

        def describe(self) -> str:
            return self._told("clamped descent")

    point, view = somewhere()
    point = point._replace(state={})
    lam = {"w": numbers(TASKS, 2, seed=7)}
    found = Clamped(1, None).pull({}, point, view, lam, {})
    free = ((point.phi["w"] - view.grad["w"]).abs() < 0.5).double()
    assert 0 < free.sum() < free.numel()
    torch.testing.assert_close(found.phi["w"], free * lam["w"])
    torch.testing.assert_close(found.grad["w"], -free * lam["w"])
    assert found.losses is None and not found.meta
