"""The conformance suite on every composition, and proof that it can fail."""

from __future__ import annotations

import dataclasses
import math

import pytest

from innerloop.core.contract import Given, Point
from innerloop.solve import GradientDescent, Sign
from innerloop.testing import BOUNDS, Case, cases, check_case, models

# torch itself still scripts its forward-mode decompositions, once, when they are first used, and
# says that it batches nn.GRUCell by a loop.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]


def marked(case: Case):
    """Momentum on every layer takes long and says little more: for most it runs on request only."""
    layer, _, rest = case.name.partition(" / ")
    quick = ("perceptron", "BatchNorm, affine", "dropout", "tied weights")
    late = rest in ("momentum", "Nesterov") and layer not in quick
    return pytest.param(case, id=case.name, marks=[pytest.mark.slow] if late else [])


@pytest.mark.parametrize("case", [marked(case) for case in cases()])
def test_conforms(case):
    found = check_case(case)
    assert not found.failures()
    assert found.parameters <= 200
    if isinstance(case.solver(), Sign):
        assert found.first_order < 1e-12, "its derivative is zero"
    elif case.solver().steps and found.first_order is not None:
        assert found.first_order > 1e-3, "second order does not matter here: nothing is tested"


def test_every_entry_against_central_differences():
    found = check_case(named("BatchNorm, affine / gradient descent"), dense=True)
    assert not found.failures() and found.dense < 1e-8


class Doubled(GradientDescent):
    """The right step, with twice its derivative."""

    def step(self, hyper, point, view):
        twice = {k: 2 * g - g.detach() for k, g in view.grad.items()}
        return super().step(hyper, point, Given(view.losses, twice))


class Wrong(GradientDescent):
    """The right step, pulled back with a rate that is a tenth too small."""

    def pull(self, hyper, point, view, lam, mu):
        found = super().pull(hyper, point, view, lam, mu)
        return found._replace(grad={k: 0.9 * u for k, u in found.grad.items()})


class Impure(GradientDescent):
    """Every call takes a smaller step than the one before: the same call gives another value."""

    calls = 0

    def step(self, hyper, point, view):
        self.calls += 1
        phi = {k: v - 0.4 / self.calls * view.grad[k] for k, v in point.phi.items()}
        return Point(point.t + 1, phi, point.state)


class Mixed(GradientDescent):
    """Divides by a norm over all tasks, so that tasks see each other."""

    def step(self, hyper, point, view):
        size = sum(g.square().sum() for g in view.grad.values()).sqrt()
        phi = {k: v - 0.4 / size * view.grad[k] for k, v in point.phi.items()}
        return Point(point.t + 1, phi, point.state)


@pytest.mark.parametrize(
    ("solver", "word"),
    [
        (Doubled, "dense is off"),
        (Wrong, "exact, reverse over reverse is off"),
        (Impure, "is off"),
        (Mixed, "chunk is off"),
    ],
)
def test_broken_solvers_are_caught(solver, word):
    case = Case("broken", models.FLAT["LayerNorm"], lambda: solver(0.4, 3))
    assert any(word in failure for failure in check_case(case).failures())


def test_a_closed_form_is_not_inherited_with_another_step():
    """`Halved` writes a step alone: `GradientDescent`'s pull would be wrong for it, in silence."""

    class Halved(GradientDescent):
        def step(self, hyper, point, view):
            phi = {k: v - 0.5 * (v + view.grad[k]) for k, v in point.phi.items()}
            return Point(point.t + 1, phi, point.state)

    case = Case("halved", models.FLAT["LayerNorm"], lambda: Halved(0.4, 3))
    assert not check_case(case).failures()


def test_a_model_that_counts_its_calls_starts_anew_at_each():
    """What a forward pass writes is taken back, so that the same call gives the same value."""

    class Restless(models.Features):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x * (1 + 0.01 * self.calls))

    case = Case("restless", Restless, lambda: GradientDescent(0.4, 2))
    assert not check_case(case).failures()


def test_nan_and_a_vanishing_reference_fail():
    good = check_case(named("perceptron / gradient descent"))
    assert not good.failures()
    for name in BOUNDS:
        if name not in ("exact", "implicit"):
            bad = dataclasses.replace(good, **{name: math.nan})
            assert any(name in failure for failure in bad.failures())
    assert dataclasses.replace(good, exact={"x": 1e-9}).failures()
    assert dataclasses.replace(good, size=0.0).failures()
    assert dataclasses.replace(good, untouched=False).failures()
    assert dataclasses.replace(good, refused=("forward over reverse",)).failures()


def test_all_kinds_of_pieces_are_in_the_table():
    text = "\n".join(case.name for case in cases())
    for word in (
        *("BatchNorm, affine", "BatchNorm, not affine", "LayerNorm", "GroupNorm", "InstanceNorm2d"),
        *("multi-head attention", "transformer", "LSTM", "GRU", "dropout", "max-pool", "tied"),
        *("weight norm", "frozen", "unused", "buffers", "embedding", "context", "pixels"),
        *("gradient descent", "momentum", "Nesterov", "Adam", "proximal", "mini-batches"),
        *("scalar", "per layer", "per parameter", "per layer per step", "only head"),
        *("except head", "norm support", "norm running", "norm batch", "tolerance", "no step"),
        *("sign", "bootstrapped"),
        *("gradient dropout", "meta-curvature", "LSTM update", "FiLM", "bias transformation"),
        *("head from zero", "multi-step", "norm per step", "MAML++"),
        "head from prototypes",
    ):
        assert word in text, word


def named(name: str) -> Case:
    (case,) = (case for case in cases() if case.name == name)
    return case
