"""Hypergradient rates: the rule by hand, the derivative it claims to be, Alpha MAML's updates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from innerloop import Batch, Task
from innerloop.estimate import FirstOrder
from innerloop.methods import alpha_maml, meta_curvature, meta_lstm, meta_sgd
from innerloop.models import mlp
from innerloop.train.hypergradient import AlphaMAML, Hypergradient


class Bowl(nn.Module):
    """F(theta) = 1/2 theta^T A theta - b^T theta, A positive definite."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        root = torch.randn(4, 4, dtype=torch.float64)
        self.a = root @ root.T + 0.5 * torch.eye(4, dtype=torch.float64)
        self.b = torch.randn(4, dtype=torch.float64)
        self.first = nn.Parameter(torch.randn(2, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(2, dtype=torch.float64))

    def forward(self):
        theta = torch.cat([self.first, self.second])
        return 0.5 * theta @ self.a @ theta - self.b @ theta


MAKERS = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.1),
}


def step(model, optimizer):
    optimizer.zero_grad()
    model().backward()
    optimizer.step()


def test_under_sgd_it_is_the_rule_of_the_paper():
    model, hyper, rate = Bowl(), 1e-3, 0.02
    optimizer = Hypergradient(MAKERS["sgd"](model.parameters(), rate), hyper)
    theta, before = torch.cat([*model.parameters()]).detach(), None
    for _ in range(6):
        g = model.a @ theta - model.b
        if before is not None:
            rate = rate + hyper * float(g @ before)
        theta, before = theta - rate * g, g
        step(model, optimizer)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-12)
        torch.testing.assert_close(torch.cat([*model.parameters()]).detach(), theta)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_the_change_of_rate_is_minus_the_derivative_by_the_last_rate(kind):
    """Take the last of three steps with other rates: F must change as the hypergradient says."""

    def value(shift: float) -> float:
        model = Bowl()
        optimizer = MAKERS[kind](model.parameters(), 0.05)
        for i in range(3):
            if i == 2:
                optimizer.param_groups[0]["lr"] += shift
            step(model, optimizer)
        return float(model().detach())

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    model, hyper = Bowl(), 1e-9
    optimizer = Hypergradient(MAKERS[kind](model.parameters(), 0.05), hyper)
    for _ in range(3):
        step(model, optimizer)
    rate = optimizer.param_groups[0]["lr"]
    step(model, optimizer)
    found = (optimizer.param_groups[0]["lr"] - rate) / hyper
    assert found == pytest.approx(-slope, rel=1e-5)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_with_hyper_zero_it_is_the_optimiser(kind):
    model, twin = Bowl(), Bowl()
    optimizer = Hypergradient(MAKERS[kind](model.parameters(), 0.05), 0.0)
    plain = MAKERS[kind](twin.parameters(), 0.05)
    for _ in range(5):
        step(model, optimizer)
        step(twin, plain)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_rate_that_is_too_large_comes_down_and_one_too_small_goes_up():
    for rate in (1e-4, 0.3):
        model = Bowl()
        optimizer = Hypergradient(MAKERS["sgd"](model.parameters(), rate), 1e-3)
        step(model, optimizer)
        step(model, optimizer)
        assert (optimizer.param_groups[0]["lr"] > rate) == (rate < 0.1)


def test_the_rate_stops_at_zero_and_comes_back():
    model = Bowl()
    optimizer = Hypergradient(MAKERS["sgd"](model.parameters(), 0.5), 10.0)
    step(model, optimizer)
    step(model, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.0
    still = [p.clone() for p in model.parameters()]
    optimizer.hyper = 1e-3
    step(model, optimizer)
    assert optimizer.param_groups[0]["lr"] > 0
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not torch.equal(still[0], model.first)


def test_normalised_changes_are_bounded_and_free_of_scale():
    rates = []
    for scale in (1.0, 100.0):
        model = Bowl()
        optimizer = Hypergradient(MAKERS["adam"](model.parameters(), 0.01), 1e-3, normalised=True)
        for _ in range(4):
            optimizer.zero_grad()
            (scale * model()).backward()
            optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(rates[1], rel=1e-6) and 0.01 < rates[0] <= 0.013


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_resumed_run_repeats_the_bits(kind):
    def go(model, optimizer, steps):
        for _ in range(steps):
            step(model, optimizer)
        return model, optimizer

    def fresh():
        model = Bowl()
        return model, Hypergradient(MAKERS[kind](model.parameters(), 0.05), 1e-3)

    whole, expected = go(*fresh(), 6)
    half, saved = go(*fresh(), 3)
    later, again = fresh()
    later.load_state_dict(half.state_dict())
    again.load_state_dict(saved.state_dict())
    go(later, again, 3)
    assert again.param_groups[0]["lr"] == expected.param_groups[0]["lr"]
    for a, b in zip(later.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def tasks():
    torch.manual_seed(1)
    x = torch.randn(2, 3, 6, 2, dtype=torch.float64)
    y = x.prod(-1, keepdim=True)
    return Task(Batch(x[0], y[0]), Batch(x[1], y[1]))


def method():
    torch.manual_seed(0)
    return alpha_maml(mlp(2, 1, (4,), activation="tanh").double(), lr=0.1, loss="mse")


def outer(method, maker=MAKERS["sgd"]):
    weights = [p for k, p in method.named_parameters() if ".solver." not in k]
    return AlphaMAML(method, maker(weights, 0.05), inner_hyper=0.01, outer_hyper=0.001)


def test_alpha_mamls_inner_rate_moves_by_the_product_of_the_two_gradients():
    built, task = method(), tasks()
    model, rate = built.learner.model, built.learner.solver.rate.value
    product = 0.0
    for i in range(3):
        sx, sy, qx, qy = (t[i] for b in task for t in b[:2])
        start = dict(model.named_parameters())
        inner = torch.autograd.grad((model(sx) - sy).square().mean(), list(start.values()))
        phi = {
            k: (v - rate * g).detach().requires_grad_()
            for (k, v), g in zip(start.items(), inner, strict=True)
        }
        loss = (torch.func.functional_call(model, phi, (qx,)) - qy).square().mean()
        after = torch.autograd.grad(loss, list(phi.values()))
        product += sum(float((a * b).sum()) for a, b in zip(inner, after, strict=True)) / 3
    optimizer, before = outer(built), float(rate.detach())
    built.loss(task).backward()
    optimizer.step()
    assert float(rate.detach()) == pytest.approx(before + 0.01 * product, rel=1e-10)
    assert optimizer.param_groups[0]["lr"] == 0.05, "the outer rate has no product yet"


def test_one_step_needs_no_second_order_for_the_inner_rate():
    """-grad L(phi) . grad L_support(theta) is first order: the paper's rule is the exact one."""
    exact, first = method(), method()
    first.estimator = FirstOrder()
    name = "learner.solver.rate.value"
    a, b = (m.meta_gradient(tasks()).grads[name] for m in (exact, first))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_only_rates_are_inner_rates():
    """The weights of an LSTM and factors of curvature are learned by solvers, and are no rates."""
    model = mlp(2, 1, (4,)).double()
    factors = meta_curvature(model, lr=0.1, loss="mse")
    assert any(k.startswith("learner.solver.") for k, _ in factors.named_parameters())
    lstm = meta_lstm(mlp(2, 1, (4,)), steps=2, loss="mse")
    assert not AlphaMAML.inner_rates(factors) and not AlphaMAML.inner_rates(lstm)
    for built in (factors, lstm):
        with pytest.raises(ValueError, match="the method has none"):
            AlphaMAML(
                built, torch.optim.SGD(built.parameters(), lr=0.1), inner_hyper=1.0, outer_hyper=1.0
            )
    rated = meta_sgd(mlp(2, 1, (4,)), lr=0.1, loss="mse")
    found = AlphaMAML.inner_rates(rated)
    learned = {k for k, _ in rated.named_parameters() if k.startswith("learner.solver.")}
    assert found.keys() == learned
    assert all(p is dict(rated.named_parameters())[k] for k, p in found.items())


@pytest.mark.parametrize("maker", [MAKERS["sgd"], MAKERS["adam"]])
def test_alpha_maml_trains_and_resumes(maker):
    def go(built, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            built.loss(tasks()).backward()
            optimizer.step()

    whole, half, later = method(), method(), method()
    expected, saved, again = (outer(m, maker) for m in (whole, half, later))
    first = float(whole.meta_gradient(tasks()).loss)
    go(whole, expected, 6)
    assert float(whole.meta_gradient(tasks()).loss) < first
    go(half, saved, 3)
    later.load_state_dict(half.state_dict())
    again.load_state_dict(saved.state_dict())
    go(later, again, 3)
    for a, b in zip(later.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: Hypergradient(torch.optim.SGD(Bowl().parameters(), lr=1.0), -1e-3), "hyper"),
        (
            lambda: (
                lambda m: AlphaMAML(
                    m, torch.optim.SGD(m.parameters(), lr=0.1), inner_hyper=1.0, outer_hyper=1.0
                )
            )(method()),
            "by itself",
        ),
        (
            lambda: AlphaMAML(
                Bowl(), torch.optim.SGD(Bowl().parameters(), lr=0.1), inner_hyper=1.0, outer_hyper=1
            ),
            "Scalar",
        ),
    ],
)
def test_bad_arguments_are_refused(build, word):
    with pytest.raises(ValueError, match=word):
        build()
