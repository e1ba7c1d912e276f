"""Bilevel problems: the gradient of the outer parameters against plain loops and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from innerloop import Batch, Method, Task, bilevel
from innerloop.estimate import Adjoint, Implicit
from innerloop.scope import Only
from innerloop.solve import GradientDescent, Momentum, NewtonCG, Solver

RATE, STEPS, N = 0.2, 5, 6


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def outer_parameters() -> nn.ParameterDict:
    torch.manual_seed(7)
    values = {"weight": torch.randn(N), "shift": torch.randn(1)}
    return nn.ParameterDict({k: nn.Parameter(v.double()) for k, v in values.items()})


def problem(seed: int = 3) -> Task:
    """N examples to train on and four to judge by, each with its number: inputs have one form."""
    numbers = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=numbers, dtype=torch.float64)

    def batch(count: int) -> Batch:
        number = torch.arange(count).unsqueeze(0)
        return Batch({"x": drawn(count, 3), "number": number}, drawn(count, 1))

    return Task(batch(N), batch(4))


def inner(model: nn.Module, batch: Batch, hyper: nn.Module) -> Tensor:
    errors = (model(batch.x["x"]) + hyper["shift"] - batch.y).square().squeeze(-1)
    return (hyper["weight"][batch.x["number"]].sigmoid() * errors).mean()


def outer(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch.x["x"]) - batch.y).square().mean()


def forward(weights: list[Tensor], x: Tensor) -> Tensor:
    w1, b1, w2, b2 = weights
    return torch.tanh(x @ w1.T + b1) @ w2.T + b2


def plain(
    start: list[Tensor],
    hyper: nn.ParameterDict,
    task: Task,
    *,
    beta: float = 0.0,
    size: int | None = None,
    steps: int = STEPS,
) -> tuple[Tensor, list[Tensor]]:
    """The outer loss after a loop of gradient descent with a graph, and the weights at its end."""
    x, y = task.support.x["x"][0], task.support.y[0]
    phi, moved = start, [torch.zeros_like(v) for v in start]
    for t in range(steps):
        rows = torch.tensor([(t * (size or N) + i) % N for i in range(size or N)])
        errors = (forward(phi, x[rows]) + hyper["shift"] - y[rows]).square().squeeze(-1)
        loss = (hyper["weight"][rows].sigmoid() * errors).mean()
        grads = torch.autograd.grad(loss, phi, create_graph=True)
        moved = [beta * m + g for m, g in zip(moved, grads, strict=True)]
        phi = [v - RATE * m for v, m in zip(phi, moved, strict=True)]
    found = (forward(phi, task.query.x["x"][0]) - task.query.y[0]).square().mean()
    return found, phi


def starting(values: nn.Module) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in values.parameters()]


def copied_from(other: nn.Module) -> Callable[[nn.Module], None]:
    def draw(model: nn.Module) -> None:
        model.load_state_dict(other.state_dict())

    return draw


def largest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference; a gradient of zeros would hide one."""
    assert found.keys() == expected.keys()
    assert all(v.abs().max() > 1e-6 for v in expected.values())
    return max(float((found[k] - v).norm() / v.norm()) for k, v in expected.items())


def gradient(method: Method, hyper: nn.Module, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
    hyper.zero_grad()
    loss = method.loss(task)
    loss.backward()
    return loss.detach(), {k: p.grad.clone() for k, p in hyper.named_parameters()}


def expected(loss: Tensor, hyper: nn.Module) -> dict[str, Tensor]:
    names, values = zip(*hyper.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


@pytest.mark.parametrize("size", [None, 4], ids=["all", "in order"])
@pytest.mark.parametrize(
    ("solver", "beta"),
    [(GradientDescent(RATE, STEPS), 0.0), (Momentum(RATE, STEPS, beta=0.8), 0.8)],
    ids=["descent", "momentum"],
)
@pytest.mark.parametrize("start", ["drawn", "carried", "learned"])
def test_gradients_are_those_of_a_plain_loop(
    start: str, solver: Solver, beta: float, size: int | None
) -> None:
    """Mini-batches of 4 of 6 examples go round: the loop passes the end twice."""
    model, other, hyper, task = network(), network(1), outer_parameters(), problem()
    draw = copied_from(other) if start == "drawn" else None
    method = bilevel(
        model,
        hyper,
        inner=inner,
        outer=outer,
        solver=solver,
        start=start,  # type: ignore[arg-type]
        draw=draw,
        batch_size=size,
    )
    loss, found = gradient(method, hyper, task)
    phi_0 = starting(other if start == "drawn" else model)
    reference, _ = plain(phi_0, hyper, task, beta=beta, size=size)
    wanted = expected_of_all(reference, phi_0, hyper)
    assert abs(loss - reference.detach()) <= 1e-12 * reference.detach()
    assert largest(found, {k: wanted[k] for k in found}) <= 1e-10
    own = {k: p.grad for k, p in model.named_parameters()}
    if start == "learned":
        assert largest(own, {k: wanted[k] for k in own}) <= 1e-10  # type: ignore[arg-type]
    else:
        assert all(g is None or not g.any() for g in own.values())


def expected_of_all(loss: Tensor, phi_0: list[Tensor], hyper: nn.Module) -> dict[str, Tensor]:
    names = [*(k for k, _ in hyper.named_parameters()), *dict(network().named_parameters())]
    found = torch.autograd.grad(loss, [*hyper.parameters(), *phi_0])
    return dict(zip(names, found, strict=True))


def test_a_drawn_start_is_new_at_every_call_and_follows_the_seed() -> None:
    model, hyper, task = network(), outer_parameters(), problem()
    method = bilevel(model, hyper, inner=inner, outer=outer, solver=GradientDescent(RATE, STEPS))
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def losses() -> list[float]:
        torch.manual_seed(5)
        return [float(method.meta_gradient(task).loss) for _ in range(3)]

    first = losses()
    assert len(set(first)) == 3 and losses() == first
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def carried(
    hyper: nn.ParameterDict, model: nn.Module, steps: int = STEPS, **choices: Any
) -> Method:
    return bilevel(
        model,
        hyper,
        inner=inner,
        outer=outer,
        solver=GradientDescent(RATE, steps),
        start="carried",
        **choices,
    )


def test_windows_go_on_where_the_last_one_ended() -> None:
    """Two windows against one plain run of twice the steps, cut between them."""
    model, hyper, task = network(), outer_parameters(), problem()
    method = carried(hyper, model)
    _, middle = plain(starting(model), hyper, task)
    gradient(method, hyper, task)
    loss, found = gradient(method, hyper, task)
    cut = [v.detach().requires_grad_() for v in middle]
    reference, _ = plain(cut, hyper, task)
    assert abs(loss - reference.detach()) <= 1e-12 * reference.detach()
    assert largest(found, expected(reference, hyper)) <= 1e-10
    whole, _ = plain(starting(model), hyper, task, steps=2 * STEPS)
    assert abs(loss - whole.detach()) <= 1e-12 * whole.detach()


def test_a_window_is_carried_on_by_commit_alone() -> None:
    model, hyper, task = network(), outer_parameters(), problem()
    method = carried(hyper, model)
    found = method.meta_gradient(task)
    assert torch.equal(method.meta_gradient(task).loss, found.loss)
    method.value(task)
    assert torch.equal(method.meta_gradient(task).loss, found.loss)
    method.commit(found)
    assert method.meta_gradient(task).loss != found.loss
    _, end = plain(starting(model), hyper, task)
    reference, _ = plain(end, hyper, task)
    torch.testing.assert_close(
        method.meta_gradient(task).loss, reference.detach(), rtol=1e-12, atol=0
    )


def test_a_carried_run_is_saved_and_loaded() -> None:
    hyper, task = outer_parameters(), problem()
    method = carried(hyper, network())
    method.loss(task)
    again = carried(outer_parameters(), network(4))
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.meta_gradient(task).loss, method.meta_gradient(task).loss)


@pytest.mark.parametrize("last", [1, 3])
def test_a_truncated_gradient_sees_the_last_steps(last: int) -> None:
    """The plain run is cut off from the outer parameters before its last steps."""
    model, hyper, task = network(), outer_parameters(), problem()
    method = carried(hyper, model, estimator=Adjoint(last=last))
    _, found = gradient(method, hyper, task)
    _, middle = plain(starting(model), hyper, task, steps=STEPS - last)
    cut = [v.detach().requires_grad_() for v in middle]
    reference, _ = plain(cut, hyper, task, steps=last)
    assert largest(found, expected(reference, hyper)) <= 1e-10


def test_first_order_sees_no_outer_parameters() -> None:
    """With all inner gradients constant nothing is left to train, which is an error."""
    method = carried(outer_parameters(), network(), estimator=Adjoint(last=0))
    with pytest.raises(ValueError, match="reaches none of the meta-parameters"):
        method.loss(problem())


def ridge() -> tuple[Task, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(0)
    x, judged_x = numbers.normal(size=(12, 4)), numbers.normal(size=(9, 4))
    w = numbers.normal(size=(4, 1))
    y, judged_y = (a @ w + numbers.normal(size=(len(a), 1)) for a in (x, judged_x))
    sets = [Batch(*(torch.from_numpy(v)[None] for v in s)) for s in ((x, y), (judged_x, judged_y))]
    return Task(*sets), x, y, judged_x, judged_y


@pytest.mark.parametrize(
    "solver",
    [GradientDescent(0.1, 2000, tolerance=1e-10), NewtonCG(20, tolerance=1e-10)],
    ids=["descent", "newton"],
)
@pytest.mark.parametrize("start", ["drawn", "carried", "learned"])
def test_implicit_needs_no_penalty_at_a_convex_minimum(start: str, solver: Solver) -> None:
    """d validation loss / d log lambda of ridge regression, in closed form.

    w = A^-1 X'y / n with A = X'X / n + lambda I, so dw / d log lambda = -lambda A^-1 w.
    """
    task, x, y, judged_x, judged_y = ridge()
    log = 0.3
    hyper = nn.ParameterDict({"log": nn.Parameter(torch.tensor(log, dtype=torch.float64))})

    def fit(model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch.x) - batch.y).square().mean()

    def penalised(model: nn.Module, batch: Batch, hyper: nn.Module) -> Tensor:
        return fit(model, batch) + hyper["log"].exp() * model.weight.square().sum()

    method = bilevel(
        nn.Linear(4, 1, bias=False, dtype=torch.float64),
        hyper,
        inner=penalised,
        outer=fit,
        solver=solver,
        start=start,  # type: ignore[arg-type]
        estimator=Implicit(),
    )
    _, found = gradient(method, hyper, task)
    a = x.T @ x / len(x) + np.exp(log) * np.eye(4)
    w = np.linalg.solve(a, x.T @ y / len(x))
    slope = 2 * judged_x.T @ (judged_x @ w - judged_y) / len(judged_x)
    wanted = (slope.T @ (-np.exp(log) * np.linalg.solve(a, w))).item()
    assert abs(wanted) > 1e-2
    assert abs(found["log"].item() - wanted) <= 1e-6 * abs(wanted)


def test_implicit_refuses_a_run_that_ends_anywhere() -> None:
    with pytest.raises(ValueError, match="give the solver a tolerance"):
        carried(outer_parameters(), network(), estimator=Implicit())


def test_one_function_may_be_both_problems() -> None:
    """Outside it is called without the outer parameters."""

    def loss(model: nn.Module, batch: Batch, hyper: Any = None) -> Tensor:
        return outer(model, batch) if hyper is None else inner(model, batch, hyper)

    task, found = problem(), []
    for first, second in ((inner, outer), (loss, loss)):
        hyper = outer_parameters()
        method = bilevel(
            network(),
            hyper,
            inner=first,
            outer=second,
            solver=GradientDescent(RATE, STEPS),
            start="learned",
        )
        found.append(gradient(method, hyper, task))
    assert torch.equal(found[0][0], found[1][0])
    assert largest(found[1][1], found[0][1]) == 0


def test_choices_that_do_not_fit_are_refused() -> None:
    pieces: dict[str, Any] = {
        "inner": inner,
        "outer": outer,
        "solver": GradientDescent(RATE, STEPS),
    }
    for start in ("carried", "learned"):
        with pytest.raises(ValueError, match=r'draw=.* goes with start="drawn"'):
            bilevel(
                network(),
                outer_parameters(),
                start=start,  # type: ignore[arg-type]
                draw=copied_from(network()),
                **pieces,
            )
    with pytest.raises(ValueError, match="start"):
        bilevel(network(), outer_parameters(), start="zero", **pieces)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mini-batches"):
        bilevel(
            network(),
            outer_parameters(),
            batch_size=2,
            **pieces | {"solver": GradientDescent(RATE, STEPS, tolerance=1e-3)},
        )


@pytest.mark.parametrize(
    ("start", "reason"),
    [("drawn", "every call draws other weights"), ("carried", "the weights outlive the task")],
)
def test_recorded_engines_name_why_they_refuse(start: str, reason: str) -> None:
    method = bilevel(
        network(),
        outer_parameters(),
        inner=inner,
        outer=outer,
        solver=GradientDescent(RATE, STEPS),
        start=start,  # type: ignore[arg-type]
    )
    with pytest.raises(ValueError, match=reason):
        method.use("traced")


class Scaled(nn.Module):
    """A linear layer times a parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1, dtype=torch.float64)
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.scale * self.linear(x)
        return found


def test_parameters_that_nothing_draws_are_refused_by_name() -> None:
    pieces: dict[str, Any] = {
        "inner": inner,
        "outer": outer,
        "solver": GradientDescent(RATE, STEPS),
    }
    with pytest.raises(ValueError, match=r"nothing draws scale anew.*draw=function"):
        bilevel(Scaled(), outer_parameters(), **pieces)

    def draw(model: nn.Module) -> None:
        model.linear.reset_parameters()
        nn.init.normal_(model.scale)

    method = bilevel(Scaled(), outer_parameters(), draw=draw, **pieces)
    assert torch.isfinite(method.loss(problem()))
    solver = GradientDescent(RATE, STEPS)
    # What is not adapted needs no draw.
    layer = bilevel(
        Scaled(), outer_parameters(), scope=Only("linear.*"), **pieces | {"solver": solver}
    )
    assert torch.isfinite(layer.loss(problem()))
