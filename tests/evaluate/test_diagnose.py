"""What adaptation changes, against cases where the answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import innerloop
from innerloop import Batch, Method
from innerloop.core.types import Params
from innerloop.data.source import Source
from innerloop.data.values.synthetic import LinearGaussian
from innerloop.evaluate import layer_changes, parameter_plane
from innerloop.evaluate.run import draw_tasks


class Scripted:
    """A method whose trajectory is written down."""

    def __init__(self, states: Callable[[int], list[Params]]) -> None:
        self.states = states

    def trajectory(self, support: Batch, steps: int | None = None) -> list[Params]:
        return self.states(steps or 0)


SUPPORT = Batch(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1))


def test_relative_change_by_hand() -> None:
    def states(steps: int) -> list[Params]:
        weight = torch.tensor([[3.0, 0.0], [0.0, 5.0]])  # two tasks
        bias = torch.tensor([[4.0], [12.0]])
        moved = {"a.weight": weight + torch.tensor([[0.0, 1.0]]), "a.bias": bias}
        zero = torch.zeros(2, 3)
        return [
            {"a.weight": weight, "a.bias": bias, "context": zero},
            {**moved, "context": zero + 1},
        ]

    layer, context = layer_changes(Scripted(states), SUPPORT)
    assert (layer.layer, layer.parameters) == ("a", 3)
    # Task 1: 1 / |(3, 0, 4)|; task 2: 1 / |(0, 5, 12)|.
    assert layer.change == pytest.approx([0.0, (1 / 5 + 1 / 13) / 2])
    assert (context.layer, context.parameters) == ("context", 3)
    assert np.isnan(context.change).all(), "there is no size to relate to"


def test_only_the_head_moves_in_anil(blobs: Source) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    _, tasks = next(draw_tasks(blobs, 4))
    (layer,) = layer_changes(innerloop.methods.anil(net, lr=0.5, steps=2), tasks.support)
    assert layer.layer.endswith("3") and layer.change[2] > layer.change[1] > 0 == layer.change[0]


def test_plane_of_two_weights_is_the_plane_itself() -> None:
    """Linear regression in two weights: the optimum is known, and the projection is a rotation."""
    source = LinearGaussian(mean=torch.tensor([1.0, -2.0], dtype=torch.float64), shot=30)
    net = nn.Linear(2, 1, bias=False).double()
    method = innerloop.methods.maml(net, lr=0.1, steps=3, loss="mse")
    _, tasks = next(draw_tasks(source, 4))
    plane = parameter_plane(method, tasks.support, tasks.support)
    theta = net.weight.detach()
    optimum = LinearGaussian.optimum(tasks.support) - theta
    last = method.trajectory(tasks.support)[-1]
    phi = next(iter(last.values())).flatten(1) - theta
    assert plane.share == pytest.approx(1.0)
    assert plane.long_steps == 2000
    assert plane.paths.shape == (4, 4, 2) and not plane.paths[0].any()
    for seen, true in ((plane.optima, optimum), (plane.paths[-1], phi)):
        assert seen @ seen.T == pytest.approx((true @ true.T).numpy(), abs=1e-9)
    assert plane.optima @ plane.paths[-1].T == pytest.approx((optimum @ phi.T).numpy(), abs=1e-9)


def test_long_paths_fit_the_memory() -> None:
    """200 000 numbers per state: 2000 states would not fit, so there are fewer."""
    asked: list[int] = []

    def states(steps: int) -> list[Params]:
        asked.append(steps)
        return [{"w": torch.zeros(2, 100_000)}, {"w": torch.eye(2, 100_000)}]

    plane = parameter_plane(Scripted(states), SUPPORT, SUPPORT)
    assert asked[1] == plane.long_steps == 64 * 2**20 // 800_000


def test_a_method_that_does_not_move(maml: Method) -> None:
    def states(steps: int) -> list[Params]:
        return [{"w": torch.ones(2, 3)}] * (steps + 1)

    plane = parameter_plane(Scripted(states), SUPPORT, SUPPORT, 1)
    assert not plane.paths.any() and not plane.optima.any() and np.isnan(plane.share)


def test_tasks_that_diverge_are_left_out(maml: Method) -> None:
    def states(steps: int) -> list[Params]:
        start = torch.zeros(4, 3, dtype=torch.float64)
        end = start + torch.arange(3)
        end[1, 0], end[2, 2], end[3, 1] = torch.nan, torch.inf, 1e200
        return [{"w": start}] * steps + [{"w": end}]

    plane = parameter_plane(Scripted(states), SUPPORT, SUPPORT, 2)
    assert plane.diverged == 3 and plane.optima.shape == (1, 2) and plane.paths.shape == (3, 1, 2)
    assert plane.share == pytest.approx(1.0) and np.isfinite(plane.paths).all()

    def wild(steps: int) -> list[Params]:
        return [{"w": torch.zeros(2, 3)}] * steps + [{"w": torch.full((2, 3), torch.nan)}]

    with pytest.raises(ValueError, match="diverges on all 2 tasks within 2000 steps"):
        parameter_plane(Scripted(wild), SUPPORT, SUPPORT, 2)
