"""The quadratic program: optimality by definition, gradients by central differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from innerloop.heads import quadratic
from innerloop.heads.quadratic import minimise

TASKS, CLASSES, N = 3, 4, 8


def problem(rank: int = 5, damping: float = 0.5, size: float = 1.0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    z = size * torch.randn(TASKS, N, rank, generator=generator, dtype=torch.float64)
    b = torch.randn(TASKS, CLASSES, N, generator=generator, dtype=torch.float64)
    h = torch.randn(TASKS, CLASSES, N, generator=generator, dtype=torch.float64)
    h = h - h.mean(1, keepdim=True) + 0.3  # any signs, with room inside
    return z @ z.transpose(1, 2) + damping * torch.eye(N, dtype=torch.float64), b, h


def objective(q: Tensor, b: Tensor, a: Tensor) -> Tensor:
    return (a * (0.5 * a @ q - b)).flatten(1).sum(1)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_minimum_is_feasible_and_no_feasible_point_is_below(size: float) -> None:
    q, b, h = problem(size=size)
    found = minimise(q, b, h)
    assert found.converged.all() and (found.iterations < 30).all()
    assert (found.value <= h).all() and found.value.sum(1).abs().max() < 1e-13
    best = objective(q, b, found.value)
    generator = torch.Generator().manual_seed(1)
    inside = h - h.mean(1, keepdim=True)
    for share in torch.linspace(1e-6, 1, 20, dtype=torch.float64):
        step = torch.randn(b.shape, generator=generator, dtype=torch.float64)
        step = step - step.mean(1, keepdim=True)
        # Towards a point inside and a little sideways, kept feasible by shortening.
        ahead = share * (inside - found.value) + 1e-4 * step
        room = torch.where(ahead > 0, (h - found.value) / ahead, torch.inf).flatten(1).amin(1)
        other = found.value + room.clamp(max=1)[:, None, None] * ahead
        assert (objective(q, b, other) >= best - found.gap - 1e-13).all()


def test_the_gap_bounds_the_distance_to_the_minimum() -> None:
    q, b, h = problem()
    best = minimise(q, b, h).value
    for tolerance in (1e-1, 1e-3, 1e-6):
        rough = minimise(q, b, h, tolerance=tolerance)
        excess = objective(q, b, rough.value) - objective(q, b, best)
        assert (excess > 0).all() and (excess <= rough.gap).all()
        smallest = torch.linalg.eigvalsh(q)[:, 0]
        away = (rough.value - best).flatten(1).square().sum(1)
        assert (away <= 2 * rough.gap / smallest).all()


def test_gradients_are_central_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    _, b, h = problem()
    root = torch.randn(TASKS, N, N, generator=generator, dtype=torch.float64)

    def value(root: Tensor, b: Tensor, h: Tensor) -> Tensor:
        q = root @ root.transpose(1, 2) + torch.eye(N, dtype=torch.float64)
        return minimise(q, b, h).value

    inputs = [x.requires_grad_() for x in (root, b, h)]
    active = (value(*inputs) > h - 1e-9).double().mean()
    assert 0.2 < active < 0.8, "both kinds of constraints must be there"
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_an_asymmetric_matrix_has_the_gradient_of_its_symmetric_part() -> None:
    q, b, h = problem()
    q.requires_grad_()
    minimise(q, b, h).value.square().sum().backward()
    assert q.grad is not None
    torch.testing.assert_close(q.grad, q.grad.transpose(1, 2))


def test_second_derivatives_are_refused_not_wrong() -> None:
    q, b, h = problem()
    b.requires_grad_()
    (first,) = torch.autograd.grad(minimise(q, b, h).value.square().sum(), b, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_tasks_do_not_see_each_other() -> None:
    q, b, h = problem()
    together = minimise(q, b, h)
    for i in range(TASKS):
        alone = minimise(q[i : i + 1], b[i : i + 1], h[i : i + 1])
        torch.testing.assert_close(alone.value[0], together.value[i], rtol=0, atol=1e-14)
        assert alone.iterations[0] == together.iterations[i]


def test_a_broken_task_is_reported_and_leaves_the_others_alone() -> None:
    q, b, h = problem()
    good = minimise(q, b, h)
    bad = q.clone()
    bad[1] = torch.nan
    found = minimise(bad, b, h)
    assert found.converged.tolist() == [True, False, True]
    torch.testing.assert_close(found.value[[0, 2]], good.value[[0, 2]], rtol=0, atol=1e-14)


def test_an_indefinite_matrix_does_not_pass_for_solved() -> None:
    q, b, h = problem()
    assert not minimise(q - 50 * torch.eye(N), b, h).converged.any()


def test_too_few_iterations_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadratic, "MOST", 2)
    found = minimise(*problem())
    assert not found.converged.any() and (found.iterations == 2).all()
    assert found.gap.min() > 1e-6


def test_constraints_without_an_inside_are_refused() -> None:
    q, b, h = problem()
    with pytest.raises(ValueError, match="sum over the classes is positive"):
        minimise(q, b, h - 1)
