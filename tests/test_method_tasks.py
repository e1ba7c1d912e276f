"""What a method takes: lists of unequal tasks, weights of tasks, labelled examples, trees; and how
it is changed piece by piece."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop import Batch, Method, Task, methods
from innerloop.core.types import to
from innerloop.estimate import (
    Adjoint,
    EvolutionStrategies,
    FirstOrder,
    HessianFree,
    Implicit,
    Reptile,
    Unrolled,
)
from innerloop.learn import GradientLearner, ProtoLearner
from innerloop.objective import Bootstrapped, Discriminator, MultiStep, Proximal, Query
from innerloop.scope import Only
from innerloop.solve import Adam, GradientDescent, Scalar

CLASSES = 3


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, CLASSES)).double()


def draw(tasks: int = 1, n: int = 6, queries: int = 6, seed: int = 1) -> Task:
    generator = torch.Generator().manual_seed(seed)

    def batch(n: int) -> Batch:
        x = torch.randn(tasks, n, 2, generator=generator, dtype=torch.float64)
        return Batch(x, torch.arange(n).remainder(CLASSES).expand(tasks, n).contiguous())

    return Task(batch(n), batch(queries))


UNEQUAL = [
    draw(1, 6, 6, seed=1),
    draw(2, 4, 9, seed=2),
    draw(1, 6, 6, seed=3),
    draw(1, 6, 9, seed=4),
    draw(2, 4, 9, seed=5),
]
ALONE = [
    Task(*(Batch(b.x[i : i + 1], b.y[i : i + 1]) for b in task))
    for task in UNEQUAL
    for i in range(len(task.support.x))
]

ESTIMATORS = {
    "unrolled": Unrolled(),
    "adjoint": Adjoint(),
    "first order": FirstOrder(),
    "reptile": Reptile(),
    "implicit": Implicit(),
}


def built(estimator: object, **options: object) -> Method:
    learner = GradientLearner(
        net(), GradientDescent(Scalar(0.2), 3), inner=["cross_entropy", Proximal(1.0)]
    )
    return Method(learner, Query(), estimator, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", ["auto", 1, 2])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_unequal_tasks_are_each_what_it_is_alone(name, chunk) -> None:
    method = built(ESTIMATORS[name], chunk=chunk)
    found = method.meta_gradient(UNEQUAL)
    alone = [method.meta_gradient(task) for task in ALONE]
    torch.testing.assert_close(found.loss, torch.stack([a.loss for a in alone]).mean())
    for k, g in found.grads.items():
        mean = torch.stack([a.grads[k] for a in alone]).mean(0)
        torch.testing.assert_close(g, mean, rtol=1e-9, atol=1e-12)
    assert found.stats.keys() == alone[0].stats.keys()
    for k, v in found.stats.items():
        one_by_one = torch.cat([a.stats[k] for a in alone])
        torch.testing.assert_close(v, one_by_one, rtol=1e-8, atol=1e-10, msg=k)
    value = method.value(UNEQUAL)
    torch.testing.assert_close(value.stats["loss"], found.stats["loss"], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(value.loss, found.loss)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_weights_of_tasks_multiply_their_losses_and_not_their_stats(name) -> None:
    method = built(ESTIMATORS[name])
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(len(ALONE), generator=generator, dtype=torch.float64)
    alone = [method.meta_gradient(task) for task in ALONE]
    plain = method.meta_gradient(UNEQUAL)
    for given, m in (
        (UNEQUAL, method),
        (ALONE, method),
        (UNEQUAL, built(ESTIMATORS[name], chunk=1)),
    ):
        found = m.meta_gradient(given, weight=weight)
        expected = torch.stack([w * a.loss for w, a in zip(weight, alone, strict=True)]).mean()
        torch.testing.assert_close(found.loss, expected)
        for k, g in found.grads.items():
            mean = torch.stack([w * a.grads[k] for w, a in zip(weight, alone, strict=True)]).mean(0)
            torch.testing.assert_close(g, mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.stats, plain.stats, rtol=1e-8, atol=1e-10)
    method.loss(UNEQUAL, weight=weight).backward()
    for k, p in method.named_parameters():
        torch.testing.assert_close(p.grad, found.grads[k], rtol=1e-9, atol=1e-12)


def test_weights_of_tasks_with_evolution_strategies_and_many_losses() -> None:
    tasks, weight = draw(3), torch.tensor([0.0, 2.0, 1.0]).double()
    picked = Task(*(Batch(b.x[1:], b.y[1:]) for b in tasks))
    for method in (
        built(EvolutionStrategies(pairs=3)),
        Method(GradientLearner(net(), GradientDescent(0.2, 3)), MultiStep(Query())),
        Method(GradientLearner(net(), GradientDescent(0.2, 3)), MultiStep(Query()), Unrolled()),
        methods.hf_maml(net()),
        methods.protonet(net()),
    ):
        torch.manual_seed(3)
        found = method.meta_gradient(tasks, weight=weight)
        torch.manual_seed(3)
        other = method.meta_gradient(picked, weight=weight[1:])
        torch.testing.assert_close(found.loss, other.loss * 2 / 3)
        for k, g in found.grads.items():
            torch.testing.assert_close(g, other.grads[k] * 2 / 3, rtol=1e-9, atol=1e-12)
        torch.manual_seed(3)
        plain = method.meta_gradient(tasks)
        torch.testing.assert_close(found.stats, plain.stats)


@pytest.mark.parametrize("steps", [2, 9])
def test_unequal_tasks_and_weights_are_recorded(steps) -> None:
    def make() -> Method:
        return methods.maml(net(), lr=0.2, steps=steps)

    eager, traced = make(), make().use("traced")
    weight = torch.linspace(0.5, 2.0, len(ALONE)).double()
    for given in (None, weight, 2 * weight, None):
        found, expected = (m.meta_gradient(UNEQUAL, weight=given) for m in (traced, eager))
        torch.testing.assert_close(found.grads, expected.grads, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.stats, expected.stats)


def test_a_list_that_is_no_list_of_tasks_is_refused() -> None:
    method = built(Adjoint())
    for given in ([], "tasks", UNEQUAL[0].support):
        with pytest.raises(ValueError, match=r"expected innerloop\.Task|or a list of them"):
            method.meta_gradient(given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="support set is empty"):
        method.meta_gradient([UNEQUAL[0], draw(1, 0)])


def test_persistent_moments_are_the_mean_over_unequal_tasks() -> None:
    def method() -> Method:
        return methods.reptile(net(), lr=1e-2, steps=3, batch_size=None)

    found = method().meta_gradient(UNEQUAL)
    alone = [method().meta_gradient(task) for task in ALONE]
    assert found.memory
    for k, v in found.memory.items():
        torch.testing.assert_close(v, torch.stack([a.memory[k] for a in alone]).mean(0))


def test_a_loss_beside_the_tasks_joins_every_objective() -> None:
    model, critic = net(), nn.Linear(4, 5).double()
    extra = Batch(torch.randn(10, 2, dtype=torch.float64), torch.arange(10) % 5)

    def loss() -> Tensor:
        return F.cross_entropy(critic(model[:2](extra.x)), extra.y)

    parts = nn.Sequential()
    parts.add_module("body", model[:2])
    parts.add_module("head", model[2])
    learner = GradientLearner(parts, GradientDescent(0.2, 2))
    for objective in (MultiStep(Query()), Bootstrapped(), Query()):
        joint = Method(learner, Discriminator(objective, critic, parts, lam=0.7))
        plain = Method(learner, objective)
        found = joint.meta_gradient(UNEQUAL, labelled=extra)
        expected = plain.meta_gradient(UNEQUAL)
        torch.testing.assert_close(found.loss, expected.loss + 0.7 * loss().detach())
        names = [*(f"learner.model.body.{k}" for k, _ in parts.body.named_parameters())]
        slopes = torch.autograd.grad(0.7 * loss(), list(parts.body.parameters()))
        for k, s in zip(names, slopes, strict=True):
            torch.testing.assert_close(found.grads[k], expected.grads[k] + s)
        assert found.stats["auxiliary_loss"].shape == (len(ALONE),)
        alone = joint.meta_gradient(UNEQUAL)
        torch.testing.assert_close(alone.loss, expected.loss)


def test_pieces_are_replaced_and_models_are_shared() -> None:
    method, tasks = methods.maml(net(), lr=0.2, steps=3), draw(2)
    first = method.replace(estimator=FirstOrder(), name="first")
    assert (first.name, method.name) == ("first", "maml")
    assert first.learner is method.learner and first.objective is method.objective
    expected = methods.fomaml(net(), lr=0.2, steps=3).meta_gradient(tasks)
    torch.testing.assert_close(first.meta_gradient(tasks).grads, expected.grads)
    assert method.replace(chunk=1).chunk == 1 and method.replace().chunk == "auto"
    head = method.learner.replace(scope=Only("2.*"), solver=GradientDescent(0.1, 1))  # type: ignore[union-attr]
    assert head.model is method.learner.model and head.names == ["2.weight", "2.bias"]
    other = method.replace(learner=head)
    expected = methods.anil(net(), lr=0.1, steps=1).meta_gradient(tasks)
    torch.testing.assert_close(other.meta_gradient(tasks).grads, expected.grads)
    assert [id(p) for p in other.parameters()] == [id(p) for p in method.parameters()]
    weighed = method.replace(objective=MultiStep(Query()))
    assert "multi-step" in weighed.describe()["loss"]
    with pytest.raises(ValueError, match=r"`Adjoint` cannot differentiate `ProtoLearner`"):
        method.replace(learner=ProtoLearner(net()))


def test_the_other_pieces_of_a_learner_are_kept_when_one_is_replaced() -> None:
    learner = GradientLearner(
        net(), Adam(0.1, 2), Only("2.*"), inner=["cross_entropy", Proximal(2.0)]
    )
    faster = learner.replace(solver=Adam(0.5, 2))
    told, before = faster.describe(), learner.describe()
    assert told["scope"] == before["scope"] == "only 2.*"
    assert told["solver"].endswith("proximal penalty lam 2") and "0.5" in told["solver"]
    assert learner.replace(inner="mse").describe()["loss"] == "mse"
    assert learner.solver.rate.describe() == "fixed 0.1"


def test_wrong_roles_are_named() -> None:
    learner = GradientLearner(net(), GradientDescent(0.1, 1))
    for given, word in (
        ((net(), Query(), Adjoint()), "expected a learner, got Sequential"),
        ((learner, "mse", Adjoint()), r"expected an objective, such as Query\(loss\), got str"),
        ((learner, Adjoint()), "expected an objective"),
        ((learner, Query(), Query()), r"expected an estimator, such as Adjoint\(\), got Query"),
    ):
        with pytest.raises(ValueError, match=word):
            Method(*given)


class Masked(nn.Module):
    """A model of a dictionary: the mean of the features that are there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Linear(2, 4), nn.Linear(4, CLASSES)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        there = mask.unsqueeze(-1)
        h = (self.into(values).tanh() * there).sum(1) / there.sum(1)
        return self.out(h)


def test_dictionaries_of_inputs_with_a_mask() -> None:
    """Padding changes nothing: each task is what it is on the values that are there."""
    model = Masked().double()
    torch.manual_seed(1)
    values = torch.randn(2, 2, 6, 5, 2, dtype=torch.float64)
    lengths = torch.randint(1, 6, (2, 2, 6))
    mask = (torch.arange(5) < lengths.unsqueeze(-1)).double()
    y = torch.arange(6).remainder(CLASSES).expand(2, 6)

    def tasks(values: Tensor) -> Task:
        return Task(*(
            Batch({"values": values[i], "mask": mask[i]}, y) for i in range(2)
        ))  # fmt: skip

    method = methods.maml(model, lr=0.3, steps=2)
    found = method.meta_gradient(tasks(values))
    noise = values + (1 - mask).unsqueeze(-1) * 7.0
    padded = method.meta_gradient(tasks(noise))
    torch.testing.assert_close(found.grads, padded.grads)
    total = torch.zeros((), dtype=torch.float64)
    params = dict(model.named_parameters())
    for i in range(2):
        phi = params
        for _ in range(2):
            given = (values[0, i], mask[0, i])
            out = torch.func.functional_call(model, phi, given)
            grads = torch.autograd.grad(
                F.cross_entropy(out, y[i]), list(phi.values()), create_graph=True
            )
            phi = {k: v - 0.3 * g for (k, v), g in zip(phi.items(), grads, strict=True)}
        out = torch.func.functional_call(model, phi, (values[1, i], mask[1, i]))
        total = total + F.cross_entropy(out, y[i]) / 2
    expected = torch.autograd.grad(total, list(params.values()))
    for g, e in zip(found.grads.values(), expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)
    assert method.query_outputs(tasks(values)).shape == (3, 2, 6, CLASSES)


def test_the_query_may_have_other_leaves_of_the_same_structure_only() -> None:
    x = draw(1).support.x
    y = draw(1).support.y
    with pytest.raises(ValueError, match="trees of different structure"):
        built(Adjoint()).meta_gradient(Task(Batch({"a": x}, y), Batch({"b": x}, y)))


def test_half_and_double_precision_are_told_apart() -> None:
    with pytest.raises(ValueError, match=r"x is torch\.float32 but the model's weights"):
        built(Adjoint()).meta_gradient([draw(1), to(draw(1), torch.float32)])


def test_held_out_curvature_takes_unequal_tasks() -> None:
    method = Method(GradientLearner(net(), GradientDescent(0.2, 1)), Query(), HessianFree())
    tasks = [draw(1, 6, 6, seed=1), draw(1, 12, 3, seed=2)]
    found = method.meta_gradient(tasks)
    alone = [method.meta_gradient(task) for task in tasks]
    for k, g in found.grads.items():
        torch.testing.assert_close(g, torch.stack([a.grads[k] for a in alone]).mean(0))
