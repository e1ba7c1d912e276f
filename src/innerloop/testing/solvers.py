"""Solvers for the table of cases: three steps each, lively enough for second order to matter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ..solve import (
    Adam,
    DropGrad,
    Fixed,
    GradientDescent,
    MetaCurvature,
    MetaLSTM,
    Momentum,
    Rate,
    Sign,
    Solver,
)
from ..solve.transform import Noise


def solver_of(name: str, rate: Callable[[float], Rate]) -> Solver:
    """Three steps of the solver called `name`."""
    if name == "gradient descent":
        return GradientDescent(rate(0.4), 3)
    if name == "Adam":
        return Adam(rate(0.1), 3, betas=(0.8, 0.95), eps=0.05)
    return Momentum(rate(0.2), 3, beta=0.7, nesterov=name == "Nesterov")


SOLVERS: dict[str, Callable[[], Solver]] = {
    name: partial(solver_of, name, Fixed)
    for name in ("gradient descent", "momentum", "Nesterov", "Adam")
}


def dropping(name: str, noise: Noise) -> Solver:
    return DropGrad(solver_of(name, Fixed), 0.3, noise=noise)


def signed(name: str) -> Solver:
    return Sign(solver_of(name, Fixed))


def curved(name: str) -> Solver:
    return MetaCurvature(solver_of(name, Fixed))


def lively_lstm() -> Solver:
    """Gates far from their first values, where they would hardly move: every path counts."""
    solver = MetaLSTM(3, hidden=2)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in solver.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
        solver.gates["forget_bias"].fill_(1.5)
        solver.gates["input_bias"].fill_(-0.5)
    return solver
