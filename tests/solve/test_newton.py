"""Newton steps with conjugate gradients: where they end, and the meta-gradient taken there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from innerloop import Batch, Method, Task, methods
from innerloop.core.contract import Estimator, Optimum, Point, View
from innerloop.core.streams import generator
from innerloop.core.types import Params
from innerloop.data.values.synthetic import LinearGaussian
from innerloop.doctor import central_differences
from innerloop.doctor.gradient import flat_gradient
from innerloop.estimate import Adjoint, ConjugateGradient, FirstOrder, Implicit, Reptile, Unrolled
from innerloop.learn import GradientLearner
from innerloop.objective import Proximal, Query
from innerloop.solve import DropGrad, GradientDescent, NewtonCG, Solver

D, LAM = 5, 0.3


def linear_tasks() -> Task:
    mean = torch.arange(1.0, D + 1, dtype=torch.float64)
    source = LinearGaussian(mean=mean, noise=0.5, shot=4, queries=6)
    return source.sample(generator(0, "newton"), 3)


def curved_tasks() -> Task:
    """Targets far from what a small network says at first: its Hessian is not definite there."""
    torch.manual_seed(4)
    parts = [Batch(torch.randn(3, 8, 2).double(), 3 * torch.randn(3, 8, 1).double()) for _ in "sq"]
    return Task(*parts)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def implicit(model: nn.Module, solver: Solver, lam: float = LAM) -> Method:
    learner = GradientLearner(model, solver, inner=["mse", Proximal(lam)])
    return Method(learner, Query("mse"), Implicit(ConjugateGradient(60, tolerance=1e-13)), name="m")


def objective(method: Method, support: Batch, steps: int) -> Tensor:
    """The inner objective of each task after so many steps: (T,)."""
    learner = method.learner
    assert isinstance(learner, GradientLearner)
    meta = {k: v.detach() for k, v in learner.named_parameters()}
    phi = method.trajectory(support, steps)[-1]
    optimum = learner.offer(Optimum)
    assert isinstance(optimum, Optimum)
    return optimum.losses(meta, phi, support)


def test_one_step_solves_a_quadratic_problem() -> None:
    """With D conjugate gradients: the proximal least squares in closed form."""
    tasks = linear_tasks()
    model = nn.Linear(D, 1, bias=False).double()
    method = implicit(model, NewtonCG(1, cg_steps=D))
    phi = method.trajectory(tasks.support)[-1]["weight"].squeeze(1)
    start = model.weight.detach().squeeze(0)
    expected = LinearGaussian.optimum(tasks.support, penalty=LAM, centre=start)
    torch.testing.assert_close(phi, expected, rtol=1e-11, atol=1e-11)


def test_every_step_descends_where_the_hessian_is_not_definite() -> None:
    tasks, model = curved_tasks(), network()
    method = implicit(model, NewtonCG(1), lam=1e-3)
    learner = method.learner
    assert isinstance(learner, GradientLearner)
    names = list(learner.names)

    def flat(v: Tensor) -> Tensor:
        phi, at = {}, 0
        for k, p in model.named_parameters():
            phi[k] = v[at : at + p.numel()].reshape(p.shape)
            at += p.numel()
        out = torch.func.functional_call(model, phi, (tasks.support.x[0],))
        return (out - tasks.support.y[0]).square().mean()

    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    hessian = torch.autograd.functional.hessian(flat, start)
    assert names == [k for k, _ in model.named_parameters()]
    assert float(torch.linalg.eigvalsh(hessian)[0]) < -0.01
    values = torch.stack([objective(method, tasks.support, steps) for steps in range(12)])
    assert (values.diff(dim=0) <= 0).all() and (values[1] < values[0]).all()
    assert (values[-1] < 0.8 * values[0]).all()


def test_a_few_steps_reach_what_descent_needs_thousands_for() -> None:
    tasks, model = curved_tasks(), network()
    newton = implicit(model, NewtonCG(40, cg_steps=17, tolerance=1e-10), lam=1.0)
    found = newton.meta_gradient(tasks)
    assert found.stats["inner_converged"].all()
    slow = implicit(model, GradientDescent(0.15, 4000, tolerance=1e-10), lam=1.0)
    expected = slow.meta_gradient(tasks)
    assert expected.stats["inner_converged"].all()
    for k, v in expected.grads.items():
        torch.testing.assert_close(found.grads[k], v, rtol=1e-7, atol=1e-9)
    assert len(newton.trajectory(tasks.support)) < 15 < 150 < len(slow.trajectory(tasks.support))


def test_the_meta_gradient_is_that_of_the_loss() -> None:
    method = implicit(network(), NewtonCG(40, cg_steps=17, tolerance=1e-11), lam=1.0)
    tasks = curved_tasks()
    dense = central_differences(method, tasks)
    found = flat_gradient(method, tasks, method.estimator)
    torch.testing.assert_close(found, dense, rtol=1e-6, atol=1e-8)


def test_chunks_do_not_matter() -> None:
    tasks, model = curved_tasks(), network()
    learner = GradientLearner(model, NewtonCG(4), inner=["mse", Proximal(LAM)])
    one, all_ = (
        Method(learner, Query("mse"), Implicit(), name="m", chunk=chunk).meta_gradient(tasks)
        for chunk in (1, 3)
    )
    for k, v in one.grads.items():
        torch.testing.assert_close(all_.grads[k], v, rtol=1e-9, atol=1e-11)


def test_a_task_whose_line_search_fails_stays() -> None:
    """An objective that only grows: nothing along the direction is better, and nothing breaks."""
    solver = NewtonCG(1)
    phi = {"w": torch.tensor([[1.0], [1.0]], dtype=torch.float64)}
    start = torch.ones(2, dtype=torch.float64)

    class Uphill(View):
        losses, grad = start, {"w": torch.tensor([[2.0], [2.0]], dtype=torch.float64)}

        def at(self, phi: Params) -> Tensor:
            moved = (phi["w"] - start.unsqueeze(1)).abs().squeeze(1)
            return torch.stack([phi["w"][0, 0] ** 2, 1 + moved[1]])

        def product(self, u: Params, losses: Tensor | None = None) -> tuple[Params, Params]:
            return {"w": 2 * u["w"]}, {}

    after = solver.step({}, Point(0, phi, {}), Uphill()).phi["w"]
    assert after.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "estimator", [Adjoint(), FirstOrder(), Unrolled(), Reptile()], ids=lambda e: type(e).__name__
)
def test_an_estimator_that_follows_the_way_is_refused(estimator: Estimator) -> None:
    learner = GradientLearner(network(), NewtonCG(2), inner=["mse", Proximal(LAM)])
    with pytest.raises(
        ValueError, match=r"a step that searches \(`NewtonCG`\) is none along.*Use `Implicit\(\)`"
    ):
        Method(learner, Query("mse"), estimator, name="m")


REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "no penalty": (
        lambda: Method(
            GradientLearner(network(), NewtonCG(2), inner="mse"), Query("mse"), Implicit(), name="m"
        ),
        "`NewtonCG` without a penalty",
    ),
    "another gradient": (
        lambda: DropGrad(NewtonCG(2)),
        r"`DropGrad` changes the gradient that another.*`NewtonCG`.*or `GradientDescent`",
    ),
    "no products": (lambda: NewtonCG(2, cg_steps=0), "at least one step of the linear solver"),
    "unknown": (
        lambda: methods.imaml(network(), optimizer="adam"),  # type: ignore[arg-type]
        'expected optimizer="descent" or "newton"',
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    act, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        act()


def test_the_named_method() -> None:
    method = methods.imaml(network(), steps=3, loss="mse", lam=5.0, optimizer="newton")
    told = method.describe()["solver"]
    assert told.startswith("Newton, 3 steps, conjugate gradients, 5 steps, proximal penalty lam 5")
    found = method.meta_gradient(curved_tasks())
    assert set(found.stats) >= {"inner_gradient_norm", "residual", "iterations", "converged"}
    task = curved_tasks().support
    assert isinstance(method.adapt(task.x[0], task.y[0]), nn.Module)
