"""The LSTM update against a per-weight loop over torch's own cell, and its derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from innerloop import Batch, Method, Task
from innerloop.core.contract import Given, Point
from innerloop.estimate import Adjoint, FirstOrder, Unrolled
from innerloop.learn import GradientLearner
from innerloop.objective import Query
from innerloop.solve import MetaLSTM
from innerloop.solve.meta_lstm import preprocess


def lively(solver: MetaLSTM) -> MetaLSTM:
    """Gates that are neither open nor shut, so that every path counts."""
    with torch.no_grad():
        for p in solver.parameters():
            p.copy_(0.5 * torch.randn_like(p))
        solver.gates["forget_bias"].fill_(1.5)
        solver.gates["input_bias"].fill_(-0.5)
    return solver


def problem(estimator, steps: int = 3, block: int = 2**16):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    solver = lively(MetaLSTM(steps, hidden=4, block=block))
    x = torch.randn(2, 5, 2, dtype=torch.float64)
    batch = Batch(x, x.prod(-1, keepdim=True))
    return Method(
        GradientLearner(model, solver, inner="mse"), Query("mse"), estimator, name="test"
    ), Task(batch, batch)


def by_hand(method: Method, task: Task, constant: bool) -> dict[str, Tensor]:
    """One task after another, a cell of torch for the LSTM, autograd through everything.

    With `constant` the gradients and losses are cut off, which is the paper's assumption.
    """
    solver, model = method.learner.solver, method.learner.model
    cell = nn.LSTMCell(4, solver.hidden).double()
    own = {
        "weight_ih": solver.lstm["input"],
        "weight_hh": solver.lstm["state"],
        "bias_ih": solver.lstm["bias"],
        "bias_hh": torch.zeros_like(solver.lstm["bias"]),
    }
    sizes = [p.numel() for p in model.parameters()]
    total = 0
    for x, y in zip(task.support.x, task.support.y, strict=True):

        def loss(flat: Tensor, x=x, y=y) -> Tensor:
            parts = zip(model.named_parameters(), flat.split(sizes), strict=True)
            weights = {k: v.reshape(p.shape) for (k, p), v in parts}
            return (functional_call(model, weights, (x,)) - y).square().mean()

        phi = torch.cat([p.flatten() for p in model.parameters()])
        h = c = phi.new_zeros(len(phi), solver.hidden)
        forget = admit = torch.zeros_like(phi)
        for _ in range(solver.steps):
            value = loss(phi)
            (g,) = torch.autograd.grad(value, phi, create_graph=True)
            if constant:
                value, g = value.detach(), g.detach()
            seen = torch.cat([pre(g), pre(value).expand(len(g), 2)], 1)
            h, c = functional_call(cell, own, (seen, (h, c)))
            gates = solver.gates
            forget = torch.stack([*h.T, phi, forget], 1) @ gates["forget"] + gates["forget_bias"]
            admit = torch.stack([*h.T, phi, admit], 1) @ gates["input"] + gates["input_bias"]
            phi = forget.sigmoid() * phi - admit.sigmoid() * g
        total = total + loss(phi)
    names = dict(method.named_parameters())
    grads = torch.autograd.grad(total / len(task.support.x), list(names.values()))
    return dict(zip(names, grads, strict=True))


def pre(x: Tensor) -> Tensor:
    """The paper's preprocessing, entry by entry, p = 10."""
    rows = []
    for v in x.reshape(-1):
        if abs(v) >= math.exp(-10):
            rows.append(torch.stack([v.abs().log() / 10, v.sign()]))
        else:
            rows.append(torch.stack([-torch.ones_like(v), math.exp(10) * v]))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("estimator", "constant"), [(FirstOrder(), True), (Adjoint(), False), (Unrolled(), False)]
)
def test_meta_gradient_is_that_of_the_loop_by_hand(estimator, constant):
    method, task = problem(estimator)
    found, expected = method.meta_gradient(task).grads, by_hand(method, task, constant)
    for k, v in expected.items():
        assert v.abs().sum() > 0, k
        torch.testing.assert_close(found[k], v, rtol=1e-9, atol=1e-12)


def test_first_order_is_not_exact_here():
    (first, task), (exact, _) = problem(FirstOrder()), problem(Adjoint())
    a, b = first.meta_gradient(task).grads, exact.meta_gradient(task).grads
    assert any(not torch.allclose(a[k], b[k], rtol=1e-3) for k in a)


@pytest.mark.parametrize("estimator", [FirstOrder(), Adjoint(), Unrolled()])
def test_blocks_of_weights_change_nothing(estimator):
    (whole, task), (parted, _) = problem(estimator), problem(estimator, block=8)
    assert sum(p.numel() for p in whole.learner.model.parameters()) % 4
    a, b = whole.meta_gradient(task).grads, parted.meta_gradient(task).grads
    for k in a:
        torch.testing.assert_close(a[k], b[k], rtol=1e-12, atol=1e-14)


def test_preprocessing_on_both_sides_of_its_threshold():
    edge = math.exp(-10)
    x = torch.tensor([0.0, 1.0, -3.0, 2 * edge, -0.5 * edge, edge], dtype=torch.float64)
    torch.testing.assert_close(preprocess(x), pre(x), rtol=1e-12, atol=0)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(preprocess(x).sum(), x)
    assert torch.isfinite(slope).all()


def test_initial_values_are_those_of_the_code():
    torch.manual_seed(0)
    solver = MetaLSTM(5)
    small = [*solver.lstm.values(), solver.gates["forget"], solver.gates["input"]]
    assert all(p.abs().max() <= 0.01 and p.std() > 0.003 for p in small)
    assert 4 <= solver.gates["forget_bias"] <= 5 and -5 <= solver.gates["input_bias"] <= -4
    assert solver.lstm["input"].shape == (80, 4)
    assert sum(p.numel() for p in solver.parameters()) == 80 * (4 + 20 + 1) + 2 * 22 + 2


def test_at_first_a_step_is_nearly_gradient_descent():
    torch.manual_seed(0)
    solver = MetaLSTM(1)
    solver.bind({"w": torch.Size([7])}, torch.float64)
    phi, g = {"w": torch.randn(2, 7).double()}, {"w": torch.randn(2, 7).double()}
    loss = torch.tensor([0.5, 2.0], dtype=torch.float64)
    point = Point(0, phi, solver.init(phi))
    moved = solver.step(dict(solver.named_parameters()), point, Given(loss, g)).phi
    keep, rate = (solver.gates[f"{k}_bias"].sigmoid() for k in ("forget", "input"))
    expected = keep * phi["w"] - rate * g["w"]
    torch.testing.assert_close(moved["w"], expected, rtol=0, atol=3e-3)


@pytest.mark.parametrize("name", ["hidden", "block"])
def test_bad_arguments_are_refused(name):
    with pytest.raises(ValueError, match=name):
        MetaLSTM(1, **{name: 0})
