"""Meta-gradients whose answer is known in closed form: linear models, quadratic losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from innerloop import Batch, MetaGradient, Method, Task
from innerloop.estimate import (
    Adjoint,
    ConjugateGradient,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    ForwardOverReverse,
    Implicit,
    Neumann,
    Reptile,
    Unrolled,
)
from innerloop.learn import GradientLearner
from innerloop.objective import Proximal, Query
from innerloop.solve import GradientDescent

TASKS, N, D, LR = 3, 6, 4, 0.1


class Quadratic:
    """y = x w with squared error: the inner Hessian of task i is A_i = 2 x_i^T x_i / n."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.model = nn.Linear(D, 1, bias=False).double()
        draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
        self.tasks = Task(
            Batch(draw(TASKS, N, D), draw(TASKS, N, 1)), Batch(draw(TASKS, N, D), draw(TASKS, N, 1))
        )
        self.w = self.model.weight.detach().squeeze(0)
        x, y, _ = self.tasks.support
        self.hessian = 2 * x.transpose(1, 2) @ x / N
        self.pull = (2 * x.transpose(1, 2) @ y / N).squeeze(-1)

    def descend(self, steps: int, anchor: float = 0.0) -> Tensor:
        """w_{t+1} = w_t - lr (A w_t - b + anchor (w_t - w_0)), task by task."""
        w = self.w.expand(TASKS, D)
        for _ in range(steps):
            g = (self.hessian @ w.unsqueeze(-1)).squeeze(-1) - self.pull
            w = w - LR * (g + anchor * (w - self.w))
        return w

    def query_gradient(self, w: Tensor) -> Tensor:
        x, y, _ = self.tasks.query
        return (2 * x.transpose(1, 2) @ (x @ w.unsqueeze(-1) - y) / N).squeeze(-1)

    def gradient(self, estimator: object, steps: int, lam: float | None = None) -> MetaGradient:
        inner = ["mse"] if lam is None else ["mse", Proximal(lam)]
        learner = GradientLearner(self.model, GradientDescent(LR, steps), inner=inner)
        return Method(learner, Query("mse"), estimator, name="quadratic").meta_gradient(self.tasks)  # type: ignore[arg-type]

    def found(self, estimator: object, steps: int, lam: float | None = None) -> Tensor:
        return self.gradient(estimator, steps, lam).grads["learner.model.weight"].squeeze(0)


@pytest.fixture
def quadratic() -> Quadratic:
    return Quadratic()


def product(factor: Tensor, vector: Tensor, power: int = 1) -> Tensor:
    for _ in range(power):
        vector = (factor @ vector.unsqueeze(-1)).squeeze(-1)
    return vector


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 20])
@pytest.mark.parametrize(
    "estimator",
    [Unrolled(), Adjoint(), Adjoint(ForwardOverReverse()), Adjoint(store_every=3)],
    ids=["unrolled", "adjoint", "forward", "checkpointed"],
)
def test_k_steps(quadratic: Quadratic, estimator: object, steps: int) -> None:
    """G = mean (I - lr A)^K dL_query(phi_K)."""
    v = quadratic.query_gradient(quadratic.descend(steps))
    factor = torch.eye(D, dtype=v.dtype) - LR * quadratic.hessian
    expected = product(factor, v, steps).mean(0)
    torch.testing.assert_close(quadratic.found(estimator, steps), expected, rtol=1e-12, atol=1e-13)


def test_first_order_and_truncation_leave_out_exactly_the_factors_they_name(
    quadratic: Quadratic,
) -> None:
    v = quadratic.query_gradient(quadratic.descend(5))
    factor = torch.eye(D, dtype=v.dtype) - LR * quadratic.hessian
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)  # noqa: E731
    close(quadratic.found(FirstOrder(), 5), v.mean(0))
    for last in (0, 2, 5, 9):
        close(quadratic.found(Adjoint(last=last), 5), product(factor, v, min(last, 5)).mean(0))


def test_finite_differences_are_exact_on_a_quadratic(quadratic: Quadratic) -> None:
    exact = quadratic.found(Adjoint(), 4)
    difference = quadratic.found(Adjoint(FiniteDifference(1e-3)), 4)
    torch.testing.assert_close(difference, exact, rtol=1e-9, atol=1e-10)


def test_implicit(quadratic: Quadratic) -> None:
    """G = mean lam (A + lam I)^-1 dL_query(phi*), phi* = (A + lam I)^-1 (b + lam w)."""
    lam = 0.7
    shifted = quadratic.hessian + lam * torch.eye(D, dtype=torch.float64)
    target = (quadratic.pull + lam * quadratic.w).unsqueeze(-1)
    best = torch.linalg.solve(shifted, target).squeeze(-1)
    v = quadratic.query_gradient(best).unsqueeze(-1)
    expected = lam * torch.linalg.solve(shifted, v).squeeze(-1).mean(0)
    for solver in (ConjugateGradient(D), Neumann(400, rate=0.15)):
        found = quadratic.gradient(Implicit(solver), 500, lam)
        torch.testing.assert_close(
            found.grads["learner.model.weight"].squeeze(0), expected, rtol=1e-9, atol=1e-11
        )
        assert float(found.stats["residual"].max()) < 1e-9


def test_neumann_equals_its_partial_sum(quadratic: Quadratic) -> None:
    lam, terms = 4.0, 5
    end = quadratic.descend(500, anchor=lam)
    v = quadratic.query_gradient(end)
    total, term = v.clone(), v
    for _ in range(terms - 1):
        term = -product(quadratic.hessian, term) / lam
        total = total + term
    found = quadratic.found(Implicit(Neumann(terms, rate=1 / lam)), 500, lam)
    torch.testing.assert_close(found, total.mean(0), rtol=1e-9, atol=1e-11)


def test_the_proximal_limits(quadratic: Quadratic) -> None:
    """lam -> infinity keeps phi at its start, and the implicit gradient becomes the plain one."""
    learner = GradientLearner(
        quadratic.model, GradientDescent(1e-9, 50), inner=["mse", Proximal(1e8)]
    )
    method = Method(learner, Query("mse"), Implicit(ConjugateGradient(D)), name="stiff")
    found = method.meta_gradient(quadratic.tasks).grads["learner.model.weight"].squeeze(0)
    plain = quadratic.query_gradient(quadratic.w.expand(TASKS, D)).mean(0)
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-7)


def test_the_learned_penalty_has_its_exact_gradient(quadratic: Quadratic) -> None:
    """dL/dlam = -dL_query(phi)^T (A + lam I)^-1 (phi - w), against central differences."""

    def method(lam: float) -> Method:
        penalty = Proximal(lam, learned=True)
        solver = GradientDescent(LR, 500)
        learner = GradientLearner(quadratic.model, solver, inner=["mse", penalty])
        return Method(learner, Query("mse"), Implicit(ConjugateGradient(D)), name="learned")

    found = method(0.7).meta_gradient(quadratic.tasks).grads["learner.inner.1.lam.log"]
    exact = float(found) / 0.7  # dL/d log lam = lam dL/dlam
    ahead, behind = (
        float(method(0.7 + e).meta_gradient(quadratic.tasks).loss) for e in (1e-4, -1e-4)
    )
    assert exact == pytest.approx((ahead - behind) / 2e-4, rel=1e-5)
    assert abs(exact) > 1e-3


def test_a_learned_penalty_stays_positive(quadratic: Quadratic) -> None:
    """A raw lam would have been taken below zero by this outer step."""
    solver = GradientDescent(LR, 50)
    penalty = Proximal(0.1, learned=True)
    learner = GradientLearner(quadratic.model, solver, inner=["mse", penalty])
    method = Method(learner, Query("mse"), Implicit(ConjugateGradient(D)), name="learned")
    assert penalty.lam.log is not None
    with torch.no_grad():
        penalty.lam.log -= 5.0
    assert "lam 0.0006738, learned" in learner.describe()["solver"]
    found = method.meta_gradient(quadratic.tasks)
    assert (found.stats["iterations"] > 0).all() and found.stats["converged"].all()


def test_reptile_is_the_mean_displacement(quadratic: Quadratic) -> None:
    expected = (quadratic.w - quadratic.descend(4)).mean(0)
    torch.testing.assert_close(quadratic.found(Reptile(), 4), expected, rtol=1e-12, atol=1e-13)


def test_zero_steps_is_ordinary_training(quadratic: Quadratic) -> None:
    plain = quadratic.query_gradient(quadratic.w.expand(TASKS, D)).mean(0)
    for estimator in (Unrolled(), Adjoint(), FirstOrder()):
        torch.testing.assert_close(quadratic.found(estimator, 0), plain)


def test_evolution_strategies_are_unbiased_with_variance_one_over_pairs(
    quadratic: Quadratic,
) -> None:
    """On a quadratic meta-objective the smoothed gradient is the gradient itself."""
    exact = quadratic.found(Adjoint(), 2)

    def draws(pairs: int, count: int) -> Tensor:
        estimator = EvolutionStrategies(sigma=0.05, pairs=pairs)
        torch.manual_seed(0)
        return torch.stack([quadratic.found(estimator, 2) for _ in range(count)])

    few, many = draws(2, 200), draws(16, 200)
    spread = many.std(0) / 200**0.5
    assert ((many.mean(0) - exact).abs() < 4 * spread).all()
    ratio = float(few.var(0).sum() / many.var(0).sum())
    assert 5.5 < ratio < 11.5  # 16 / 2 = 8


def test_evolution_strategies_are_seeded(quadratic: Quadratic) -> None:
    def draw() -> Tensor:
        torch.manual_seed(4)
        return quadratic.found(EvolutionStrategies(pairs=2), 1)

    assert torch.equal(draw(), draw())
