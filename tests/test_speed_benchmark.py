"""The speed benchmark's own arithmetic: counted operations, exponents, targets, kept cells."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from innerloop import Batch, Task
from innerloop.core.types import to
from innerloop.models import mlp

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A file of benchmarks/ by its name; they import each other as scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_floor_of_an_mlp(module) -> None:
    """Against a count by hand: 3-4-2, no gradient in the inputs."""
    rows, floor = module("speed_rows"), module("speed_floor")
    tasks, support, query, steps = 3, 5, 7, 2
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x, y = torch.randn(tasks, support + query, 3), torch.randn(tasks, support + query, 2)
    task = Task(Batch(x[:, :support], y[:, :support]), Batch(x[:, support:], y[:, support:]))
    row = rows.Row("row", "about", lambda: net, lambda: task, 0.1, steps, "mse")
    first, second = 2 * 3 * 4, 2 * 4 * 2
    one_example = (first + second) + (first + 2 * second)  # forward; backward to the first layer
    by_hand = tasks * one_example * (3 * steps * support + query)
    assert floor.operations(row, net, task) == by_hand


def test_exponent(module) -> None:
    """Of the upper half: a constant cost at the lower end does not count."""
    exponent = module("speed_growth").exponent
    assert exponent({x: max(100.0, x**1.5) for x in (1, 2, 4, 100, 200, 400)}) == pytest.approx(1.5)
    assert math.isnan(exponent({1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}))


@pytest.mark.parametrize("steps", [1, 3])
def test_reference_and_exact_engines_agree(module, steps: int) -> None:
    """With plain autograd, in float64; and first order is another gradient."""
    rows, engines, peers = map(module, ("speed_rows", "speed_engines", "speed_peers"))
    row = replace(rows.ROWS["sine"], tasks=partial(rows.sines, 3), steps=steps)
    torch.manual_seed(0)
    model = mlp(1, 1, (8, 8)).double()
    tasks = to(row.tasks(), torch.float64)
    truth = engines.plain(row, model, tasks)
    assert engines.relative_error(engines.reference(row, model, tasks), truth) < 1e-13
    for build in (engines.adjoint, engines.unrolled, peers.vmapped):
        assert engines.relative_error(build(model, row, tasks)(), truth) < 1e-13
    first_order = engines.first_order(model, row, tasks)()
    assert engines.relative_error(first_order, truth) > 1e-3


def cell(seconds: float, memory: float = 1e8, error: float = 1e-7) -> dict[str, float]:
    return {"median": seconds, "memory": memory, "error": error}


def test_targets_are_met_or_missed(module) -> None:
    checks = module("speed_checks")
    row = checks.Found("omni1", floor=0.5)
    row.cells = {
        "innerloop": cell(1.0, memory=2e8),
        "compiled": {"failed": "no answer"},
        "higher": cell(2.5, error=2e-7),
        "torchopt": cell(2.0),
    }
    told = {c.what: c for c in checks.checks({"omni1": row}, "cpu")}
    assert told["speed"].met  # 2.0 x torchopt, the fastest
    row.pairs["innerloop", "torchopt"] = {"ratio": 1.9}  # timed in turns: this counts
    told = {c.what: c for c in checks.checks({"omni1": row}, "cpu")}
    assert told["speed"].met is False and told["speed"].measured == "1.90 x torchopt (innerloop)"
    assert told["memory"].met is False
    assert told["time over the floor"].met is False
    assert told["error"].met
    assert told["2 workers beside 1 process"].met is None


def test_cells_are_kept(module, tmp_path: Path) -> None:
    """A cell is measured once per description of the work; what is unavailable is asked again."""
    cells, rows = module("speed_cells"), module("speed_rows")
    kept, calls = cells.Cells(tmp_path), []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"ratio": float(len(calls))}

    assert kept.made("a", "work", measure, again=False)["ratio"] == 1
    assert kept.made("a", "work", measure, again=False)["ratio"] == 1
    assert kept.made("a", "other work", measure, again=False)["ratio"] == 2
    assert kept.made("a", "other work", measure, again=True)["ratio"] == 3
    assert kept.read("a", "work") is None

    def missing() -> dict[str, float]:
        raise rows.Unavailable("no such package")

    assert kept.made("b", "work", missing, again=False) == {"unavailable": "no such package"}
    assert kept.read("b", "work") is None

    def broken() -> dict[str, float]:
        raise TimeoutError("no answer within 300 s")

    assert kept.made("c", "work", broken, again=False)["failed"] == "no answer within 300 s"
    assert kept.read("c", "work") is not None
