"""Changed inner gradients: one step of each against its equation, and the draws of DropGrad."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from innerloop import Batch, Method, Task
from innerloop.core import streams
from innerloop.core.contract import Given, Memory, Point
from innerloop.estimate import Adjoint, FirstOrder, Unrolled
from innerloop.learn import GradientLearner
from innerloop.objective import Query
from innerloop.solve import (
    Adam,
    DropGrad,
    GradientDescent,
    MetaCurvature,
    Momentum,
    Scalar,
    Sign,
    Transformed,
)
from innerloop.testing import Case, check_case, models

SHAPES = {
    "conv.weight": torch.Size([4, 3, 2, 2]),
    "linear.weight": torch.Size([5, 6]),
    "linear.bias": torch.Size([5]),
}


def bound(solver):
    solver.bind(SHAPES, torch.float64)
    return solver


def draws(tasks=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(tasks, *s, generator=generator, dtype=torch.float64)
        for k, s in SHAPES.items()
    }


def values(solver):
    return dict(solver.named_parameters())


def one_step(solver, t=0):
    """(phi, g, phi') of one step of a bound solver, its learned values away from their start."""
    phi, g = draws(seed=1), draws(seed=2)
    with torch.no_grad():
        for p in solver.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype))
    view = Given(torch.zeros(3), g)
    return phi, g, solver.step(values(solver), Point(t, phi, solver.init(phi)), view).phi


def test_sign_step():
    phi, g, moved = one_step(bound(Sign(GradientDescent(0.1, 1))))
    for k in SHAPES:
        torch.testing.assert_close(moved[k], phi[k] - 0.1 * torch.sign(g[k]), rtol=0, atol=0)


def test_meta_curvature_step_is_the_multi_linear_product():
    torch.manual_seed(0)
    solver = bound(MetaCurvature(GradientDescent(0.1, 1)))
    phi, g, moved = one_step(solver)
    m = {k.removeprefix("factors."): v for k, v in values(solver).items()}
    expected = {
        "conv.weight": torch.einsum(
            "toif,ao,bi,cf->tabc",
            g["conv.weight"].flatten(3),
            m["conv/weight/out"],
            m["conv/weight/in"],
            m["conv/weight/kernel"],
        ).reshape(g["conv.weight"].shape),
        "linear.weight": m["linear/weight/out"] @ g["linear.weight"] @ m["linear/weight/in"].T,
        "linear.bias": m["linear/bias/vector"] * g["linear.bias"],
    }
    for k in SHAPES:
        torch.testing.assert_close(moved[k], phi[k] - 0.1 * expected[k])


def test_meta_curvature_starts_as_the_base_solver():
    phi, g = draws(seed=1), draws(seed=2)
    curved, plain = bound(MetaCurvature(Momentum(0.1, 2))), bound(Momentum(0.1, 2))
    start, view = Point(0, phi, plain.init(phi)), Given(torch.zeros(3), g)
    found = curved.step(values(curved), start, view)
    expected = plain.step({}, start, view)
    assert found.t == expected.t == 1
    for a, b in zip(found[1:], expected[1:], strict=True):
        for k in SHAPES:
            torch.testing.assert_close(a[k], b[k], rtol=0, atol=0)
    sizes = [p.numel() for p in curved.parameters()]
    assert sum(sizes) == (16 + 9 + 16) + (25 + 36) + 5


@pytest.mark.parametrize("noise", ["binary", "gaussian", "uniform"])
def test_dropgrad_draws_have_the_mean_and_variance_of_the_paper(noise):
    p, solver = 0.3, DropGrad(GradientDescent(1.0, 1), 0.3, noise=noise)
    ones = {"w": torch.ones(2, 40_000, dtype=torch.float64)}
    n = solver.transform({}, 0, ones)["w"]
    assert torch.equal(n[0], n[1]), "the tasks of a batch share one draw"
    deviation = math.sqrt(p / (1 - p))
    assert abs(n[0].mean() - 1) < 4 * deviation / 200
    assert abs(n[0].std() - deviation) < 0.02
    if noise == "binary":
        kept = torch.tensor([0.0, 1 / (1 - p)], dtype=torch.float64)
        assert torch.equal(n[0].unique(), kept)
    if noise == "uniform":
        assert n.min() >= 1 - math.sqrt(3) * deviation and n.max() <= 1 + math.sqrt(3) * deviation


def test_dropgrad_repeats_a_step_and_differs_between_steps_tensors_and_seeds():
    solver = DropGrad(GradientDescent(1.0, 2), 0.5)
    ones = {"a": torch.ones(1, 50), "b": torch.ones(1, 50)}
    with streams.common(3):
        first, again, later = (solver.transform({}, t, ones) for t in (0, 0, 1))
    with streams.common(4):
        other = solver.transform({}, 0, ones)
    assert torch.equal(first["a"], again["a"])
    for different in (later["a"], other["a"], first["b"]):
        assert not torch.equal(first["a"], different)


def regression(solver):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x = torch.randn(3, 6, 2, dtype=torch.float64)
    batch = Batch(x, x.sum(-1, keepdim=True))
    learner = GradientLearner(model, solver, inner="mse")
    return Method(learner, Query("mse"), Adjoint(), name="test"), Task(batch, batch)


def test_nothing_is_dropped_in_evaluation():
    dropping, tasks = regression(DropGrad(GradientDescent(0.1, 3), 0.5))
    plain, _ = regression(GradientDescent(0.1, 3))
    assert torch.equal(dropping.query_outputs(tasks), plain.query_outputs(tasks))
    assert dropping.training and dropping.learner.solver.training
    exact = plain.meta_gradient(tasks).loss
    assert dropping.meta_gradient(tasks).loss != exact
    assert dropping.eval().meta_gradient(tasks).loss == exact


def test_a_meta_gradient_draws_anew_each_time():
    method, tasks = regression(DropGrad(GradientDescent(0.1, 3), 0.5))
    torch.manual_seed(0)
    assert method.meta_gradient(tasks).loss != method.meta_gradient(tasks).loss


def test_transforms_stack_and_keep_the_base_solvers_learned_rate():
    solver = bound(Sign(MetaCurvature(GradientDescent(Scalar(0.1), 2))))
    assert {"base.base.rate.value", "base.factors.linear/bias/vector"} <= set(values(solver))
    assert solver.describe().startswith("gradient descent, 2 steps")
    assert solver.describe().endswith("meta-curvature, sign of the gradient")


def test_persistent_moments_pass_through():
    solver = bound(Sign(Adam(0.1, 2, persistent=True)))
    assert solver.refuse(Memory) is None
    assert bound(Sign(Adam(0.1, 2))).refuse(Memory) is not None
    state = {k: torch.ones_like(v[0]) for k, v in solver.init(draws()).items()}
    solver.keep(state)
    assert all((v == 1).all() for v in solver.init(draws()).values())


def test_the_sign_has_no_second_order():
    case = Case("sign", models.FLAT["LayerNorm"], lambda: Sign(GradientDescent(Scalar(0.1), 3)))
    found = check_case(case)
    assert not found.failures() and found.first_order == 0


def test_first_order_keeps_what_the_factors_contribute():
    """The learned factors see each step's gradient as a constant, also when Adjoint skips work."""
    method, tasks = regression(MetaCurvature(GradientDescent(0.1, 2)))
    found = method.meta_gradient(tasks).grads
    first = method.replace(estimator=FirstOrder()).meta_gradient(tasks).grads
    names = [k for k in first if "factors" in k]
    assert names and all(first[k].abs().sum() > 0 for k in names)
    assert any(not torch.allclose(first[k], found[k]) for k in names)


def test_a_solver_that_doubles_the_gradient_doubles_the_rate():
    class Doubled(Transformed):
        def transform(self, hyper, t, grad):
            return {k: 2 * g for k, g in grad.items()}

        def describe(self):
            return "doubled"

    for estimator in (Adjoint(), Unrolled()):
        doubled, tasks = regression(Doubled(GradientDescent(0.1, 3)))
        faster, _ = regression(GradientDescent(0.2, 3))
        a, b = (
            m.replace(estimator=estimator).meta_gradient(tasks).grads for m in (doubled, faster)
        )
        for k in b:
            torch.testing.assert_close(a[k], b[k], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: DropGrad(GradientDescent(0.1, 1), 1.0), "drop rate"),
        (lambda: DropGrad(GradientDescent(0.1, 1), noise="normal"), "gaussian"),
        (lambda: Sign(0.1), "GradientDescent"),
    ],
)
def test_bad_arguments_are_refused(build, word):
    with pytest.raises(ValueError, match=word):
        build()
