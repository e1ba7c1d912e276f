"""Batched linear solvers: rates, masks, and what they report."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from innerloop.core.linear import ConjugateGradient, Neumann, Product
from innerloop.core.types import Params


def systems(*spectra: list[float]) -> tuple[Tensor, Product]:
    """Symmetric matrices with these eigenvalues, and the product with all of them."""
    torch.manual_seed(0)
    matrices = []
    for spectrum in spectra:
        q, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64))
        matrices.append(q @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ q.T)
    a = torch.stack(matrices)

    def product(v: Params) -> Params:
        flat = torch.cat([v["a"], v["b"]], 1)
        out = (a @ flat.unsqueeze(-1)).squeeze(-1)
        return {"a": out[:, :2], "b": out[:, 2:]}

    return a, product


def right_hand_side(tasks: int) -> tuple[Tensor, Params]:
    b = torch.randn(tasks, 5, dtype=torch.float64)
    return b, {"a": b[:, :2], "b": b[:, 2:]}


def test_cg_solves_in_as_many_steps_as_there_are_distinct_eigenvalues() -> None:
    a, product = systems([1, 1, 1, 4, 4], [2, 2, 3, 3, 9])
    b, tree = right_hand_side(2)
    expected = torch.linalg.solve(a, b)
    found = ConjugateGradient(3, tolerance=1e-10).solve(product, tree)
    value = torch.cat([found.value["a"], found.value["b"]], 1)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    assert found.iterations.tolist() == [2, 3]
    assert found.converged.all()


def test_damping_solves_the_shifted_system_where_the_other_is_indefinite() -> None:
    a, product = systems([-2, -1, 1, 4, 9])
    b, tree = right_hand_side(1)
    assert not ConjugateGradient(5).solve(product, tree).converged.all()
    found = ConjugateGradient(5, tolerance=1e-10, damping=3.0).solve(product, tree)
    value = torch.cat([found.value["a"], found.value["b"]], 1)
    shifted = a + 3 * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(value, torch.linalg.solve(shifted, b), rtol=1e-9, atol=1e-12)
    assert found.converged.all()
    assert found.residual.item() <= 1e-10


def test_much_damping_leaves_the_direction_of_the_right_hand_side() -> None:
    _, product = systems([-2, -1, 1, 4, 9])
    b, tree = right_hand_side(1)
    value = ConjugateGradient(5, damping=1e6).solve(product, tree).value
    flat = torch.cat([value["a"], value["b"]], 1)
    torch.testing.assert_close(1e6 * flat, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("damping", [-1.0, float("nan"), float("inf")])
def test_damping_must_not_be_negative(damping: float) -> None:
    with pytest.raises(ValueError, match="damping"):
        ConjugateGradient(damping=damping)


def test_cg_error_obeys_the_bound_in_the_condition_number() -> None:
    spectrum = [1.0, 3.0, 10.0, 30.0, 100.0]
    a, product = systems(spectrum)
    b, tree = right_hand_side(1)
    exact = torch.linalg.solve(a, b)

    def energy(x: Tensor) -> float:
        return float((x.unsqueeze(1) @ a @ x.unsqueeze(-1)).sqrt())

    kappa = (spectrum[-1] / spectrum[0]) ** 0.5
    for steps in (1, 2, 3, 4):
        value = ConjugateGradient(steps).solve(product, tree).value
        error = energy(torch.cat([value["a"], value["b"]], 1) - exact)
        assert error <= 2 * ((kappa - 1) / (kappa + 1)) ** steps * energy(exact) * (1 + 1e-9)


def test_regular_indefinite_and_zero_systems_in_one_batch() -> None:
    a, product = systems([1, 2, 3, 4, 5], [-1, -1, -1, -1, -1], [1, 1, 1, 1, 1])
    b, tree = right_hand_side(3)
    tree = {k: v * torch.tensor([[1.0], [1.0], [0.0]], dtype=v.dtype) for k, v in tree.items()}
    found = ConjugateGradient(5, tolerance=1e-9).solve(product, tree)
    value = torch.cat([found.value["a"], found.value["b"]], 1)
    assert value.isfinite().all()
    torch.testing.assert_close(value[0], torch.linalg.solve(a[0], b[0]), rtol=1e-8, atol=1e-9)
    assert found.converged.tolist() == [True, False, True]
    assert not value[2].any()


def test_neumann_reports_its_truncation_and_its_divergence() -> None:
    _, product = systems([1, 1, 1, 1, 2], [1, 1, 1, 1, 50])
    _, tree = right_hand_side(2)
    short = Neumann(3, rate=0.5).solve(product, tree)
    long = Neumann(60, rate=0.5).solve(product, tree)
    assert 0.01 < float(short.residual[0]) < 0.5
    assert float(long.residual[0]) < 1e-12
    assert long.converged.tolist() == [True, False]


def test_neumann_stops_at_its_tolerance_task_by_task() -> None:
    a, product = systems([1, 1, 1, 1, 1], [0.3, 0.5, 1, 1.2, 1.5])
    b, tree = right_hand_side(2)
    found = Neumann(200, rate=1.0, tolerance=1e-3).solve(product, tree)
    # With A = I and rate 1 the first term is the answer; the other task takes as long as it takes.
    first, second = found.iterations.tolist()
    assert first == 1 < second < 60
    assert found.converged.all() and 1e-4 < float(found.residual[1]) <= 1e-3
    value = torch.cat([found.value["a"], found.value["b"]], 1)
    gap = b - (a @ value.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(gap.norm(dim=1) / b.norm(dim=1), found.residual, atol=1e-14, rtol=0)
    assert not Neumann(5, rate=1.0, tolerance=1e-3).solve(product, tree).converged[1]
