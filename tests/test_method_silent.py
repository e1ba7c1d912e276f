"""What once gave another number without a word: parts exchanged after building, shared parts,
weights of examples that were left out, tolerances that depend on the chunk, complex numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop import Batch, Method, Task
from innerloop.core.contract import Metric
from innerloop.core.types import Params
from innerloop.estimate import Adjoint, Implicit, Unrolled
from innerloop.learn import GradientLearner
from innerloop.learn.matching import MatchingLearner
from innerloop.objective import Bootstrapped, Computed, ComputedQuery, Proximal, Query, Weighted
from innerloop.scope import All, Only, PerStep
from innerloop.solve import Adam, GradientDescent, PerLayer, PerParameter


def net(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), *middle, nn.Tanh(), nn.Linear(3, 1)).double()


def draw() -> Task:
    torch.manual_seed(1)
    x, q = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    y, z = torch.randn(2, 3, 4, 1, dtype=torch.float64)
    return Task(Batch(x, y), Batch(q, z))


def learner(steps: int = 2, **pieces) -> GradientLearner:
    return GradientLearner(net(), GradientDescent(0.5, steps), inner="mse", **pieces)


def same(found: Params, wanted: Params) -> None:
    assert found.keys() == wanted.keys()
    for k, v in wanted.items():
        torch.testing.assert_close(found[k], v, rtol=1e-9, atol=1e-12)


def test_settings_that_change_after_building_count() -> None:
    tasks = draw()
    longer = Method(learner(2), Query("mse"), Adjoint())
    longer.meta_gradient(tasks)
    longer.learner.solver.steps = 5
    wanted = Method(learner(5), Query("mse"), Unrolled()).meta_gradient(tasks)
    same(longer.meta_gradient(tasks).grads, wanted.grads)
    truncated = Method(learner(3), Query("mse"), Adjoint())
    truncated.estimator.last = 1
    wanted = Method(learner(3), Query("mse"), Adjoint(last=1)).meta_gradient(tasks)
    same(truncated.meta_gradient(tasks).grads, wanted.grads)


@pytest.mark.parametrize("engine", ["eager", "traced"])
def test_parts_exchanged_after_building_are_refused(engine) -> None:
    tasks = draw()
    for place, part in (
        ("objective", Query("l1")),
        ("learner.solver", GradientDescent(0.1, 2)),
        ("learner.scope", Only("0.*")),
        ("learner.model", net()),
        ("learner.inner", nn.ModuleList()),
    ):
        method = Method(learner(), Query("mse")).use(engine)
        method.meta_gradient(tasks)
        *owner, name = place.split(".")
        setattr(method.get_submodule(".".join(owner)), name, part)
        for call in (method.meta_gradient, method.value):
            with pytest.raises(ValueError, match=rf"`method.{place}` was exchanged"):
                call(tasks)


class Gain(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor
        self.value = nn.Parameter(torch.ones((), dtype=torch.float64))


def gained(model: nn.Module, batch: Batch, gain: Gain | None = None) -> Tensor:
    factor = 1.0 if gain is None else gain.factor * gain.value
    return factor * (model(batch.x) - batch.y).square().mean()


def test_one_function_may_serve_several_terms_and_the_query() -> None:
    def method(*gains: Gain) -> Method:
        terms = [Computed(gained, gain) for gain in gains]
        inner = GradientLearner(net(), GradientDescent(0.1, 1), inner=terms)
        return Method(inner, ComputedQuery(gained))

    tasks = draw()
    together = method(Gain(4.0)).meta_gradient(tasks)
    apart = method(Gain(1.0), Gain(3.0)).meta_gradient(tasks)
    torch.testing.assert_close(apart.loss, together.loss)
    plain = Method(GradientLearner(net(), GradientDescent(0.4, 1), inner="mse"), Query("mse"))
    torch.testing.assert_close(together.loss, plain.value(tasks).loss)
    both = Gain(2.0)
    twice = method(both, both).meta_gradient(tasks)
    torch.testing.assert_close(
        twice.grads["learner.inner.0.hyper.value"], together.grads["learner.inner.0.hyper.value"]
    )


def test_terms_do_not_share_parameters_with_the_model() -> None:
    model = net()
    with pytest.raises(ValueError, match=r"an inner term learns `model\.0\.weight`"):
        GradientLearner(model, GradientDescent(0.1, 1), inner=Weighted(model[0], "mse"))


def test_the_first_adaptation_of_a_function_has_no_dropout() -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(model(batch.x), batch.y)

    tasks = draw()
    method = Method.of(net(nn.Dropout(0.5)), inner=loss, outer=loss, solver=GradientDescent(0.1, 2))
    adapted = [method.adapt(tasks.support.x[0], tasks.support.y[0]) for _ in range(2)]
    for first, second in zip(*(module.parameters() for module in adapted), strict=True):
        assert torch.equal(first, second)


def test_learned_rates_belong_to_one_solver() -> None:
    rate = PerLayer(0.1)
    GradientLearner(net(), GradientDescent(rate, 2), inner="mse")
    with pytest.raises(ValueError, match="already belongs to another solver"):
        GradientLearner(net(), GradientDescent(rate, 2), inner="mse")


class Decayed(Query):
    """The query loss plus the squares of a weight that is the model's own."""

    def __init__(self, model: nn.Module):
        super().__init__("mse")
        self.model = model

    def losses(self, learner, meta, point, task):
        found = super().losses(learner, meta, point, task)
        return found._replace(losses=found.losses + meta["objective.model.0.weight"].square().sum())


def test_an_objective_may_share_parameters_with_the_learner() -> None:
    tasks, model = draw(), net()
    inner = GradientLearner(model, GradientDescent(0.1, 1), inner="mse")
    found = Method(inner, Decayed(model)).meta_gradient(tasks).grads
    wanted = Method(inner, Query("mse")).meta_gradient(tasks).grads
    wanted["learner.model.0.weight"] += 2 * model[0].weight.detach()
    same(found, wanted)


def test_weights_of_examples_count_everywhere() -> None:
    """Weights 1, 1, 0, 0 are the same as two examples."""
    tasks = draw()
    weight = torch.tensor([1.0, 1.0, 0.0, 0.0]).double().expand(3, 4)
    half = Task(*(Batch(b.x[:, :2], b.y[:, :2]) for b in tasks))
    whole = Task(*(Batch(b.x, b.y, weight) for b in tasks))
    term = lambda: Weighted(nn.Linear(2, 1).double(), "mse", squash=torch.ones_like)  # noqa: E731
    for objective in (Query("mse"), Bootstrapped("mse")):
        found, wanted = (
            Method(GradientLearner(net(), GradientDescent(0.5, 2), inner=term()), objective).value(
                given
            )
            for given in (whole, half)
        )
        torch.testing.assert_close(found.loss, wanted.loss)
    labelled = Task(*(Batch(b.x, torch.arange(4).expand(3, 4) % 2, weight) for b in tasks))
    with pytest.raises(ValueError, match="leave out `weight`"):
        Method(MatchingLearner(net()), Query(), Unrolled()).value(labelled)


def test_weights_of_examples_that_cannot_be_right_are_refused() -> None:
    tasks, method = draw(), Method(learner(), Query("mse"))
    for values, said in (
        ([0.0, 0.0, 0.0, 0.0], "all weights of the examples of support are zero in task 0"),
        ([1.0, -1.0, 2.0, 0.0], "finite weights >= 0"),
        ([1.0, float("nan"), 1.0, 1.0], "finite weights >= 0"),
    ):
        weight = torch.tensor(values).double().expand(3, 4)
        with pytest.raises(ValueError, match=said):
            method.value(tasks._replace(support=Batch(*tasks.support[:2], weight)))


def test_tasks_that_want_a_gradient_are_refused() -> None:
    tasks, method = draw(), Method(learner(), Query("mse"))
    x = tasks.support.x.clone().requires_grad_()
    with pytest.raises(ValueError, match="the tasks hold tensors that require a gradient"):
        method.loss(tasks._replace(support=Batch(x, tasks.support.y)))


def test_a_metric_does_not_stand_in_place_of_the_loss() -> None:
    with pytest.raises(ValueError, match='a metric called "loss"'):
        Query("mse", metric=Metric("loss", False, lambda outputs, batch: outputs.sum((1, 2))))


def test_what_a_tolerance_makes_dependent_on_the_chunk_is_refused() -> None:
    batch_norm = net(nn.BatchNorm1d(3).double())
    solver = GradientDescent(0.1, 5, tolerance=0.1)
    with pytest.raises(ValueError, match="tolerance needs one inner objective"):
        GradientLearner(batch_norm, solver, PerStep(All()), inner="mse")
    steps = GradientLearner(
        batch_norm, GradientDescent(0.1, 5), PerStep(All()), inner=["mse", Proximal(1.0)]
    )
    with pytest.raises(ValueError, match="stationary for none of them"):
        Method(steps, Query("mse"), Implicit())


@pytest.mark.parametrize("chunk", [1, 3])
def test_truncation_counts_the_last_steps_of_each_task(chunk) -> None:
    """Tasks come to rest at different steps; a plain truncated loop, task by task."""
    model, tasks = net(), draw()
    rate, last, tolerance = 0.2, 2, 0.4
    inner = GradientLearner(model, GradientDescent(rate, 10, tolerance=tolerance), inner="mse")
    found = Method(inner, Query("mse"), Adjoint(last=last), chunk=chunk).meta_gradient(tasks)
    names, start = zip(*model.named_parameters(), strict=True)
    total, ended = torch.zeros((), dtype=torch.float64), set()

    def gradients(i: int, phi: list[Tensor]) -> list[Tensor]:
        weights = dict(zip(names, phi, strict=True))
        outputs = functional_call(model, weights, (tasks.support.x[i],))
        loss = F.mse_loss(outputs, tasks.support.y[i])
        return list(torch.autograd.grad(loss, phi, create_graph=True))

    def run(i: int, steps: int, exact_from: int) -> tuple[list[Tensor], int]:
        phi = [p * 1 for p in start]
        for t in range(steps):
            grads = gradients(i, phi)
            if torch.cat([g.flatten() for g in grads]).norm() <= tolerance:
                return phi, t
            grads = [g if t >= exact_from else g.detach() for g in grads]
            phi = [p - rate * g for p, g in zip(phi, grads, strict=True)]
        return phi, steps

    for i in range(3):
        stop = run(i, 10, 10)[1]
        ended.add(stop)
        phi = run(i, stop, stop - last)[0]
        outputs = functional_call(model, dict(zip(names, phi, strict=True)), (tasks.query.x[i],))
        total = total + F.mse_loss(outputs, tasks.query.y[i]) / 3
    assert len(ended) > 1
    for name, grad in zip(names, torch.autograd.grad(total, start), strict=True):
        torch.testing.assert_close(found.grads[f"learner.model.{name}"], grad)


class Complex(nn.Module):
    """The complex weight comes first: types are not read from it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.inner = nn.Parameter(torch.randn(3, 2, dtype=torch.complex128))
        self.outer = nn.Linear(3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.outer((x.to(self.inner.dtype) @ self.inner.mT).abs())


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("estimator", [Adjoint(), Unrolled()])
def test_complex_weights_follow_a_plain_loop(adam, estimator) -> None:
    """Adam counts a complex number as two real ones, as torch does."""
    model, tasks = Complex(), draw()
    solver = Adam(0.02, 3) if adam else GradientDescent(PerParameter(0.02), 3)
    inner = ["mse", Proximal(0.5, learned=True)]
    method = Method(GradientLearner(model, solver, inner=inner), Query("mse"), estimator)
    found = method.meta_gradient(tasks)
    names, start = zip(*model.named_parameters(), strict=True)

    def pairs(v: Tensor) -> Tensor:
        return torch.view_as_real(v) if v.is_complex() else v

    total = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        phi = [pairs(p) * 1 for p in start]
        begin, first, second = phi, [0.0] * len(phi), [0.0] * len(phi)

        def outputs(phi: list[Tensor], x: Tensor) -> Tensor:
            as_given = [
                torch.view_as_complex(v) if p.is_complex() else v
                for v, p in zip(phi, start, strict=True)
            ]
            return functional_call(model, dict(zip(names, as_given, strict=True)), (x,))

        for t in range(1, 4):
            loss = F.mse_loss(outputs(phi, tasks.support.x[i]), tasks.support.y[i])
            loss = loss + 0.25 * sum(
                (a - b).square().sum() for a, b in zip(phi, begin, strict=True)
            )
            ahead = list(torch.autograd.grad(loss, phi, create_graph=True))
            if adam:
                first = [0.9 * m + 0.1 * g for m, g in zip(first, ahead, strict=True)]
                second = [0.999 * v + 0.001 * g**2 for v, g in zip(second, ahead, strict=True)]
                ahead = [
                    m / (1 - 0.9**t) / (v / (1 - 0.999**t) + 1e-8).sqrt()
                    for m, v in zip(first, second, strict=True)
                ]
            phi = [p - 0.02 * g for p, g in zip(phi, ahead, strict=True)]
        total = total + F.mse_loss(outputs(phi, tasks.query.x[i]), tasks.query.y[i]) / 3
    for name, grad in zip(names, torch.autograd.grad(total, start), strict=True):
        torch.testing.assert_close(found.grads[f"learner.model.{name}"], grad)
    assert found.grads["learner.inner.1.lam.log"].dtype == torch.float64
