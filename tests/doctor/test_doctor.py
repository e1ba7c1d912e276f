"""Every failure that the doctor knows is provoked, and must be found with its layer and a fix."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from innerloop import Batch, Task, methods
from innerloop.doctor import (
    ESTIMATORS,
    CheckReport,
    Row,
    central_differences,
    check,
    check_gradient,
)
from innerloop.doctor.memory import peak_memory
from innerloop.estimate import Adjoint, FirstOrder, Unrolled
from innerloop.models import Conv4, mlp

# torch itself still scripts its forward-mode decompositions, once, when they are first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Cube(torch.autograd.Function):
    """A right first derivative whose own derivative is lost."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * g * (x * x).detach()


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Scale(nn.Module):
    """Writes to its own weight in forward."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((8,), 3.0))

    def forward(self, x):
        self.weight.data.clamp_(-1, 1)
        return x * self.weight


class Average(nn.Module):
    """Keeps a moving average of its inputs in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x):
        self.seen.mul_(0.9).add_(0.1 * x.mean(0).detach())
        return x - 0 * self.seen


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell = kind(4, 4, batch_first=True)

    def forward(self, x):
        return self.cell(x.reshape(len(x), 2, 4))[0].flatten(1)


class Attention(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=dropout, batch_first=True)

    def forward(self, x):
        return self.layer(x.reshape(len(x), 2, 4)).flatten(1)


class Wrong(nn.Module):
    """Returns whatever the function makes of the outputs."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(5, 3), function

    def forward(self, x):
        return self.function(self.linear(x))


class Spare(nn.Linear):
    """Owns a layer that it does not use."""

    def __init__(self):
        super().__init__(5, 3)
        self.spare = nn.Linear(3, 3)


def around(layer: nn.Module) -> nn.Module:
    """5 inputs, the layer on 8 features under the name `middle`, 3 classes."""
    net = nn.Sequential()
    net.add_module("first", nn.Linear(5, 8))
    net.add_module("middle", layer)
    net.add_module("head", nn.Linear(8, 3))
    return net


def example(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(6, *(shape or (5,))), torch.tensor([0, 1, 2, 0, 1, 2])


def diagnose(model: nn.Module, **options) -> CheckReport:
    torch.manual_seed(0)
    return check(model, "cross_entropy", example(), **options)


@pytest.mark.parametrize(
    "model",
    [
        around(nn.Tanh()),
        around(nn.BatchNorm1d(8, track_running_stats=False)),
        around(nn.LayerNorm(8)),
        around(nn.PReLU()),
        around(parametrizations.weight_norm(nn.Linear(8, 8))),
        around(Attention()),
        around(nn.Dropout(0.3)),
    ],
    ids=lambda m: type(m.middle).__name__,
)
def test_sound_models_pass_everything(model):
    report = diagnose(model)
    assert report.ok, str(report)
    for aspect in ("forward", "loss", "gradient", "double backward", "forward mode"):
        assert report.row(aspect).level == "ok", str(report)
    assert report.row("task batching").level == "ok", str(report)
    report.raise_if_failed()


def test_convolutional_backbone_passes():
    report = check(Conv4(3, filters=4), example=example(1, 28, 28))
    assert report.ok and report.row("double backward").level == "ok", str(report)
    assert report.row("normalisation").layer == "body.0.1 (BatchNorm2d)"
    assert 'norm="support"' in report.row("normalisation").advice


@pytest.mark.parametrize(
    ("layer", "aspect", "advice"),
    [
        (Calls(Cube.apply), "double backward", "differentiable operations"),
        (Calls(lambda x: (x - 100).log()), "forward", "logarithms"),
        (nn.Linear(7, 8), "forward", "shape"),
        (Scale(), "weights", "copy"),
        (nn.SyncBatchNorm(8), "normalisation", "BatchNorm1d"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_the_failing_layer_is_named(layer, aspect, advice):
    report = diagnose(around(layer))
    assert [row.aspect for row in report.failures()] == [aspect], str(report)
    row = report.row(aspect)
    assert row.layer == f"middle ({type(layer).__name__})"
    assert advice in row.advice
    with pytest.raises(ValueError, match=r"middle \("):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("layer", "aspect", "words"),
    [
        (Calls(lambda x: x.detach()), "gradient", "cuts off"),
        (Calls(lambda x: x + (x.round() - x).detach()), "gradient", "not the derivative"),
        (Calls(lambda x: x if x.sum() > 0 else 2 * x), "task batching", "data-dependent"),
        (Average(), "task batching", "shape"),
        (Average(), "buffers", "middle.seen"),
        (nn.Dropout(0.5), "randomness", "random"),
        (Calls(lambda x: x.float()), "float64", "lower precision"),
    ],
)
def test_what_works_with_a_reservation_is_a_note(layer, aspect, words):
    report = diagnose(around(layer))
    assert report.ok, str(report)
    row = report.row(aspect)
    assert row.level == "note" and words in row.detail, str(report)
    assert row.layer == f"middle ({type(layer).__name__})", str(report)


def test_recurrent_layers():
    for kind, forward in ((nn.LSTM, "note"), (nn.GRU, "ok"), (nn.RNN, "ok")):
        report = diagnose(around(Recurrent(kind)))
        assert report.ok, str(report)
        where = f"middle.cell ({kind.__name__})"
        assert report.row("recurrence").layer == where
        assert report.row("task batching").layer == where
        assert "chunk=1" in report.row("task batching").advice
        assert report.row("forward mode").level == forward, str(report)


def test_a_batching_by_loop_is_said():
    class Cell(nn.GRUCell):
        def forward(self, x):
            return super().forward(x)

    row = diagnose(around(Cell(8, 8))).row("task batching")
    assert row.level == "note" and "gru_cell" in row.detail


def test_a_layer_without_forward_mode_is_named():
    report = diagnose(around(nn.GroupNorm(2, 8)))
    assert report.ok and report.row("double backward").level == "ok"
    row = report.row("forward mode")
    assert (row.level, row.layer) == ("note", "middle (GroupNorm)"), str(report)
    assert "ReverseOverReverse" in row.advice


def test_attention_is_run_by_the_math_kernel_and_said_so():
    report = diagnose(around(Attention()))
    assert report.ok, str(report)
    assert report.row("attention").layer.startswith("middle.layer.self_attn")
    assert "SDPBackend.MATH" in report.row("attention").advice


def test_spectral_norm_is_exact():
    model = around(parametrizations.spectral_norm(nn.Linear(8, 8)))
    assert diagnose(model).row("double backward").level == "ok"
    assert diagnose(model.eval()).row("double backward").level == "ok"


@pytest.mark.parametrize(
    ("model", "aspect", "advice"),
    [
        (torch.compile(nn.Linear(5, 3), backend="eager"), "module", "_orig_mod"),
        (
            around(torch.compile(nn.Linear(8, 8), backend="eager")),
            "module",
            "model.middle._orig_mod",
        ),
        (nn.DataParallel(nn.Linear(5, 3)), "module", "model.module"),
        (nn.Flatten(), "module", "trainable"),
        (nn.LazyLinear(3), "module", "run the model once"),
        (nn.Linear(5, 3).requires_grad_(False), "parameters", "requires_grad_"),
        (nn.Linear(5, 2), "loss", "3-way"),
        (Wrong(lambda z: z.argmax(1)), "forward", "argmax"),
        (Wrong(lambda z: (z, z)), "forward", "outputs only"),
        (Wrong(lambda z: z.mean(0)), "forward", "one row per example"),
        (Wrong(lambda z: torch.zeros_like(z)), "gradient", "no_grad"),
    ],
)
def test_models_that_cannot_be_used(model, aspect, advice):
    report = diagnose(model)
    assert [row.aspect for row in report.failures()] == [aspect], str(report)
    row = report.failures()[0]
    assert advice in row.advice or advice in row.detail, str(report)


def test_compiled_in_place():
    model = around(nn.Linear(8, 8))
    model.middle.compile(backend="eager")
    row = diagnose(model).failures()[0]
    assert row.layer == "middle (Linear)" and "compile" in row.advice


def test_ambiguous_normalisation_is_refused_with_the_layer_and_settled_by_norm():
    model = around(nn.BatchNorm1d(8).eval())
    model.add_module("last", nn.BatchNorm1d(3))
    row = diagnose(model).failures()[0]
    assert (row.aspect, row.layer) == ("normalisation", "middle (BatchNorm1d)")
    assert 'norm="batch"' in row.advice
    assert diagnose(model, norm="running").ok


def test_running_policy_without_statistics_names_the_layer():
    model = around(nn.BatchNorm1d(8, track_running_stats=False))
    row = diagnose(model, norm="running").failures()[0]
    assert row.layer == "middle (BatchNorm1d)" and 'norm="batch"' in row.advice


def test_parameters_are_described():
    model = around(nn.Tanh())
    model.first.requires_grad_(False)
    assert "frozen" in diagnose(model).row("parameters").detail
    shared = nn.Linear(8, 8)
    report = diagnose(around(nn.Sequential(shared, nn.Tanh(), shared)))
    assert report.ok and "middle.2.weight" in report.row("parameters").detail
    assert diagnose(Spare()).row("gradient").layer == "spare.weight, spare.bias"


def test_nothing_of_the_model_changes():
    model = around(nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), Average()))
    model.middle[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    generator = torch.get_rng_state()
    check(model, example=example())
    state = torch.get_rng_state()
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    torch.set_rng_state(generator)
    example()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_task_is_an_example_and_others_are_refused():
    x, y = example()
    tasks = Task(Batch(x[None], y[None]), Batch(x[None], y[None]))
    assert check(nn.Linear(5, 3), example=tasks).ok
    assert check(nn.Linear(5, 3), "mse", (x, torch.randn(6, 3))).ok
    for bad in (None, x, (x, y[:3]), (x[:0], y[:0]), Task(Batch(x[0], y[0]), Batch(x, y)), (x, 1)):
        with pytest.raises(ValueError, match=r"example|expected|tensors"):
            check(nn.Linear(5, 3), example=bad)
    with pytest.raises(ValueError, match=r"nn\.Module"):
        check(lambda x: x, example=(x, y))
    with pytest.raises(ValueError, match="cross_entropy"):
        check(nn.Linear(5, 3), "cross entropy", (x, y))


def test_report_text_and_rows():
    report = CheckReport("Net", (Row("a", True), Row("b", True, "l", "d", "do"), Row("c", False)))
    assert [row.level for row in report.rows] == ["ok", "note", "FAIL"]
    assert not report.ok and "cannot" in str(report) and "> do" in str(report)
    with pytest.raises(KeyError, match="not examined"):
        report.row("z")


def sine_like(tasks: int = 3) -> Task:
    generator = torch.Generator().manual_seed(1)

    def draw(n: int) -> Batch:
        x = torch.randn(tasks, n, 2, generator=generator)
        return Batch(x, torch.sin(x.sum(2, keepdim=True)))

    return Task(draw(5), draw(6))


def small(activation="tanh"):
    torch.manual_seed(0)
    return mlp(2, 1, (4,), activation=activation)


def test_check_gradient_tells_exact_from_inexact():
    method = methods.maml(small(), lr=0.1, steps=3, loss="mse")
    before = copy.deepcopy(method.state_dict())
    rows = check_gradient(method, sine_like(), repeats=1)
    by_name = {row.estimator: row for row in rows}
    assert by_name["central differences"].error < 1e-7
    for name in ("unrolled", "adjoint", "adjoint-forward", "adjoint-checkpointed"):
        row = by_name[ESTIMATORS[name]().describe()]
        assert row.error < 1e-12 and row.cosine > 1 - 1e-12 and row.native_error < 1e-4
        assert row.seconds > 0 and row.peak_bytes >= 0 and row.memory
    assert 0.01 < by_name[FirstOrder().describe()].error < 1
    assert 0.5 < by_name[FirstOrder().describe()].cosine < 0.9999
    refused = by_name[ESTIMATORS["implicit"]().describe()]
    assert "penalty" in refused.refused and refused.error is None
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_check_gradient_replays_dropout_and_keeps_the_generator():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 1))
    method = methods.maml(model, lr=0.1, steps=2, loss="mse")
    before = torch.get_rng_state()
    rows = check_gradient(method, sine_like(), [Adjoint()], repeats=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert [row.error < 1e-7 for row in rows] == [True, True]


def test_check_gradient_follows_buffers_into_float64():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    method = methods.maml(model, lr=0.1, steps=2, loss="mse", norm="running")
    rows = check_gradient(method, sine_like(), [Unrolled()], repeats=1)
    assert all(row.error < 1e-7 for row in rows)


def test_an_estimator_that_a_layer_refuses_is_a_row_not_an_error():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTM(1, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.cell(x.unsqueeze(-1))[0][:, -1])

    method = methods.maml(Net(), lr=0.1, steps=1, loss="mse")
    named = [ESTIMATORS["adjoint"](), ESTIMATORS["adjoint-forward"]()]
    rows = check_gradient(method, sine_like(), named, repeats=1, dense_limit=0)
    assert rows[0].error < 1e-10
    assert "forward AD" in rows[1].refused


def test_central_differences_of_a_known_objective():
    """No inner step: the meta-gradient is the gradient of the mean query loss."""
    method = methods.maml(small().double(), lr=0.1, steps=0, loss="mse")
    tasks = Task(*(Batch(b.x.double(), b.y.double()) for b in sine_like()))
    x, y, _ = tasks.query
    model = method.learner.model
    loss = (model(x.flatten(0, 1)) - y.flatten(0, 1)).square().mean()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    dense = central_differences(method, tasks)
    assert (dense - exact).norm() < 1e-8 * exact.norm()


def test_check_gradient_refusals():
    with pytest.raises(ValueError, match="repeats"):
        check_gradient(methods.maml(small(), loss="mse"), sine_like(), repeats=0)
    flat = small()
    nn.init.zeros_(flat.head.weight)
    nn.init.zeros_(flat.head.bias)
    tasks = sine_like()
    tasks = Task(*(Batch(b.x, torch.zeros_like(b.y)) for b in tasks))
    with pytest.raises(ValueError, match="exactly zero"):
        check_gradient(methods.maml(flat, loss="mse"), tasks)


def test_peak_memory_sees_an_allocation_that_is_gone_afterwards():
    def run() -> None:
        torch.ones(40_000_000 // 4).sum().item()

    peak, how = peak_memory(run, torch.device("cpu"))
    if how == "growth of the process's peak":
        pytest.skip("this system does not let a process reset its memory peak")
    assert 35_000_000 < peak < 60_000_000


def test_a_lock_in_the_model_is_no_hindrance():
    model = around(nn.Linear(8, 8))
    model.lock = threading.Lock()
    assert diagnose(model).ok
