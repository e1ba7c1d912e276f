"""The outer optimiser: schedules, clipping, refusals."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from innerloop.core.types import MetaGradient
from innerloop.train.log import MetricsFile, TensorBoard, read_metrics
from innerloop.train.outer import NonFiniteError, OuterOptimizer
from innerloop.train.settings import Settings


def gradient(model: nn.Module, value: float, losses: torch.Tensor | None = None) -> MetaGradient:
    grads = {k: torch.full_like(p, value) for k, p in model.named_parameters()}
    losses = torch.ones(2) if losses is None else losses
    return MetaGradient(losses.mean(), grads, {"loss": losses})


@pytest.fixture
def model() -> nn.Linear:
    linear = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", [1, 1, 1]), ("linear", [1, 0.5, 0]), ("cosine", [1, 0.5, 0])],
)
def test_schedules(model: nn.Linear, schedule: Any, factors: list[float]) -> None:
    outer = OuterOptimizer(model, Settings(lr=2.0, optimizer="sgd", schedule=schedule))
    assert [outer.rate(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([2 * f for f in factors])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_ends_where_it_is_told(model: nn.Linear, schedule: Any) -> None:
    outer = OuterOptimizer(model, Settings(lr=1e-3, lr_end=1e-5, schedule=schedule))
    annealed = torch.optim.SGD(model.parameters(), lr=1e-3)
    rule = torch.optim.lr_scheduler.CosineAnnealingLR(annealed, T_max=10, eta_min=1e-5)
    for epoch in range(11):
        expected = {
            "linear": 1e-3 + (1e-5 - 1e-3) * epoch / 10,
            "cosine": rule.get_last_lr()[0],
        }[schedule]
        assert outer.rate(epoch / 10) == pytest.approx(expected)
        annealed.step()
        rule.step()


def test_the_step_is_the_optimisers(model: nn.Linear) -> None:
    outer = OuterOptimizer(model, Settings(lr=0.5, optimizer="sgd", schedule="linear"))
    norm = outer.update(gradient(model, 2.0), 0.5, "")
    assert norm == pytest.approx(2.0 * 3**0.5)
    assert model.weight.detach().flatten().tolist() == pytest.approx([-0.5] * 3)


def test_adam_agrees_with_torch(model: nn.Linear) -> None:
    other = nn.Linear(3, 1, bias=False)
    other.load_state_dict(model.state_dict())
    reference = torch.optim.Adam(other.parameters(), lr=0.1, eps=1e-3)
    outer = OuterOptimizer(model, Settings(lr=0.1, eps=1e-3))
    for value in (1.0, -0.3, 0.2):
        outer.update(gradient(model, value), 0.0, "")
        other.weight.grad = torch.full_like(other.weight, value)
        reference.step()
    assert torch.allclose(model.weight, other.weight, atol=1e-7)


def test_clipping_by_value_then_by_norm(model: nn.Linear) -> None:
    settings = Settings(lr=1.0, optimizer="sgd", clip_value=2.0, clip_norm=3.0)
    OuterOptimizer(model, settings).update(gradient(model, 10.0), 0.0, "")
    # Entries become 2, their norm 2 sqrt(3) > 3, so the clipped gradient has norm 3.
    assert float(model.weight.detach().norm()) == pytest.approx(3.0)
    nn.init.zeros_(model.weight)
    OuterOptimizer(model, settings).update(gradient(model, 0.5), 0.0, "")
    assert model.weight.detach().flatten().tolist() == pytest.approx([-0.5] * 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_change_nothing(model: nn.Linear, bad: float) -> None:
    outer = OuterOptimizer(model, Settings())
    losses = torch.tensor([0.5, bad, bad])
    with pytest.raises(NonFiniteError, match=r"tasks 1, 2 .* at step 7"):
        outer.update(gradient(model, 1.0, losses), 0.0, "at step 7")
    with pytest.raises(NonFiniteError, match="meta-gradient of parameter weight"):
        outer.update(gradient(model, bad), 0.0, "at step 7")
    assert not model.weight.any()
    assert not outer.optimizer.state


def test_nothing_to_train_is_refused(model: nn.Linear) -> None:
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        OuterOptimizer(model, Settings())


def test_metrics_file_truncates_and_writes_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, after_step=0)
    for step in (1, 2, 3):
        file({"event": "train", "step": step, "loss": float("nan") if step == 2 else 1.0})
    file({"event": "checkpoint", "step": 3, "path": "x"})
    file.close()
    assert [r["loss"] for r in read_metrics(path)] == [1.0, None, 1.0]
    MetricsFile(path, after_step=2).close()
    assert [r["step"] for r in read_metrics(path)] == [1, 2]
    path.write_text('not json\n{"step": 1}\n')
    with pytest.raises(ValueError, match="line 1: not JSON"):
        read_metrics(path)


def test_tensorboard_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'innerloop\[tensorboard\]'"):
        TensorBoard(tmp_path, after_step=0)
