"""DEML: the joint objective and its gradient by hand, what is adapted, a user's own loop."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import innerloop
from innerloop import Batch, Task
from innerloop.estimate import Adjoint, Unrolled
from innerloop.learn import GradientLearner, ProtoLearner
from innerloop.models import Network
from innerloop.objective import Discriminator, Query
from innerloop.scope import Only
from innerloop.solve import GradientDescent

LAM, LR = 0.7, 0.2


def network(norm=False):
    torch.manual_seed(0)
    layers = [nn.Linear(2, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.Tanh()]
    return Network(nn.Sequential(*layers), nn.Linear(4, 3), features=4).double()


def discriminator():
    torch.manual_seed(2)
    return nn.Linear(4, 5).double()


def tasks(n=3):
    torch.manual_seed(1)
    x = torch.randn(2, n, 6, 2, dtype=torch.float64)
    y = torch.arange(6).remainder(3).expand(n, 6)
    return Task(Batch(x[0], y), Batch(x[1], y))


def labelled():
    torch.manual_seed(3)
    return Batch(torch.randn(10, 2, dtype=torch.float64), torch.arange(10).remainder(5))


def beside(built, extra):
    """The objective's loss beside the tasks, in a graph that ends at the parameters."""
    meta = dict(built.learner.named_parameters())
    meta |= {f"objective.{k}": p for k, p in built.objective.named_parameters()}
    return built.objective.beside(built.learner, meta, extra)[0]


def by_hand(built, task, extra, steps):
    """J and its gradient: Meta-SGD on the head for each task in turn, then the discriminator."""
    model, critic = built.learner.model, built.objective.discriminator
    params = {k: p for k, p in built.named_parameters()}
    rates = {
        k: params[f"learner.solver.rate.values.{k.replace('.', '/')}"]
        for k, _ in model.named_parameters()
        if k.startswith("head.")
    }
    total = 0.0
    count = len(task.support.x)
    for i in range(count):
        sx, sy, qx, qy = (t[i] for b in task for t in b[:2])
        weights = dict(model.named_parameters())
        head = {k: weights[k] for k in rates}
        for _ in range(steps):
            loss = cross_entropy(functional_call(model, {**weights, **head}, (sx,)), sy)
            grads = torch.autograd.grad(loss, list(head.values()), create_graph=True)
            head = {k: v - rates[k] * g for (k, v), g in zip(head.items(), grads, strict=True)}
        total = total + cross_entropy(functional_call(model, {**weights, **head}, (qx,)), qy)
    total = total / count + LAM * cross_entropy(critic(model.body(extra.x)), extra.y)
    grads = torch.autograd.grad(total, list(params.values()))
    return total.detach(), dict(zip(params, grads, strict=True))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_value_and_gradient_are_those_of_the_joint_objective(norm, steps):
    built = innerloop.methods.deml(network(norm), discriminator(), lam=LAM, lr=LR, steps=steps)
    loss, expected = by_hand(built, tasks(), labelled(), steps)
    found = built.meta_gradient(tasks(), labelled=labelled())
    torch.testing.assert_close(found.loss, loss, rtol=1e-12, atol=0)
    assert list(found.grads) == [k for k, _ in built.named_parameters()]
    for k, e in expected.items():
        torch.testing.assert_close(found.grads[k], e, rtol=1e-9, atol=1e-12, msg=k)


def test_a_loop_of_ones_own_gets_the_same_gradient_in_all_ways():
    built = innerloop.methods.deml(network(True), discriminator(), lam=LAM, lr=LR)
    expected = built.meta_gradient(tasks(), labelled=labelled())
    calls = (
        lambda: built.loss(tasks()) + beside(built, labelled()),
        lambda: built.loss(tasks(), labelled=labelled()),
        lambda: built(tasks(), labelled()),
    )
    for call in calls:
        built.zero_grad()
        loss = call()
        loss.backward()
        torch.testing.assert_close(loss.detach(), expected.loss)
        for k, p in built.named_parameters():
            torch.testing.assert_close(p.grad, expected.grads[k], rtol=1e-10, atol=1e-13)


def test_without_labelled_examples_it_is_meta_sgd_on_the_head():
    built = innerloop.methods.deml(network(), discriminator(), lr=LR)
    found = built.meta_gradient(tasks())
    assert not found.grads["objective.discriminator.weight"].any()
    assert found.grads["learner.model.body.0.weight"].any(), "G learns through the tasks"
    assert set(built.trajectory(tasks().support)[-1]) == {"head.weight", "head.bias"}


def test_the_generator_is_stored_once_and_buffers_stay():
    model = network(True)
    built = innerloop.methods.deml(model, discriminator())
    names = [k for k, _ in built.named_parameters()]
    assert len(names) == len(set(names)) == len(list(model.parameters())) + 2 + 2
    assert set(built.state_dict()) == {
        *names,
        *(f"learner.model.body.1.{k}" for k in ("running_mean", "running_var")),
        "learner.model.body.1.num_batches_tracked",
    }
    before = {k: v.clone() for k, v in model.named_buffers()}
    beside(built, labelled()).backward()
    assert all(torch.equal(v, before[k]) for k, v in model.named_buffers())


def test_running_averages_are_used_where_the_policy_says_so():
    model = network(True)
    model.body[1].running_mean.fill_(0.3)
    built = innerloop.methods.deml(model, discriminator(), lam=LAM, norm="running")
    model.eval()
    expected = cross_entropy(built.objective.discriminator(model.body(labelled().x)), labelled().y)
    torch.testing.assert_close(beside(built, labelled()), LAM * expected)


def test_a_copy_is_on_its_own():
    built = innerloop.methods.deml(network(), discriminator(), lam=LAM)
    twin = copy.deepcopy(built)
    before = float(beside(twin, labelled()).detach())
    with torch.no_grad():
        for p in built.parameters():
            p.mul_(0.5)
    assert float(beside(twin, labelled()).detach()) == before
    assert float(beside(built, labelled()).detach()) != before


def test_it_learns_to_tell_the_classes_apart():
    built = innerloop.methods.deml(network(), discriminator(), lr=LR)
    optimizer = torch.optim.Adam(built.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        built.loss(tasks(), labelled=labelled()).backward()
        optimizer.step()
    found = built.meta_gradient(tasks(), labelled=labelled())
    assert float(found.stats["auxiliary_accuracy"][0]) >= 0.8, "chance is 0.2"
    assert found.stats["auxiliary_loss"].shape == (3,)


LEARNERS = {
    "maml": (lambda m: GradientLearner(m, GradientDescent(LR, 2), Only("head.*")), Adjoint),
    "prototypes": (lambda m: ProtoLearner(m), Unrolled),
}


@pytest.mark.parametrize("kind", LEARNERS)
def test_other_learners_share_their_generator(kind):
    make, estimator = LEARNERS[kind]
    plain = innerloop.Method(make(network()), Query(), estimator(), name=kind)
    learner = make(network())
    objective = Discriminator(Query(), discriminator(), learner.model, lam=LAM)
    joint = innerloop.Method(learner, objective, estimator(), name=kind)
    expected = plain.meta_gradient(tasks()).grads
    found = joint.meta_gradient(tasks(), labelled=labelled()).grads
    body, critic = joint.learner.model.body, joint.objective.discriminator
    loss = LAM * cross_entropy(critic(body(labelled().x)), labelled().y)
    extra = torch.autograd.grad(loss, list(body.parameters()))
    for (k, _), e in zip(body.named_parameters(), extra, strict=True):
        name = f"learner.model.body.{k}"
        torch.testing.assert_close(found[name], expected[name] + e, rtol=1e-10, atol=1e-13)
    head = "learner.model.head.weight"
    torch.testing.assert_close(found[head], expected[head])


def test_the_adapted_module_has_no_discriminator():
    built = innerloop.methods.deml(network(), discriminator())
    adapted = built.adapt(tasks().support.x[0], tasks().support.y[0])
    assert adapted(tasks().query.x[0]).shape == (6, 3)
    assert "discriminator" in built.describe()["loss"]


def built():
    return innerloop.methods.deml(network(), discriminator())


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: innerloop.methods.deml(network(), discriminator(), generator="neck"), "neck"),
        (lambda: innerloop.methods.deml(network(), discriminator(), lam=-1.0), "lam >= 0"),
        (
            lambda: Discriminator(Query(), discriminator(), network(), generator="body.1"),
            r"body\.1.*its parts are body, body\.0",
        ),
        (
            lambda: built().meta_gradient(
                tasks(),
                labelled=Batch(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 5])),
            ),
            "labels run from 0 to 5",
        ),
        (
            lambda: built().meta_gradient(
                tasks(), labelled=Batch(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0]))
            ),
            "labelled examples",
        ),
        (
            lambda: built().meta_gradient(
                tasks(), labelled=Batch(torch.zeros(2, 2), torch.tensor([0, 1]))
            ),
            "float32",
        ),
        (
            lambda: innerloop.methods.maml(network()).meta_gradient(tasks(), labelled=labelled()),
            r"`Query` has no use for labelled examples.*`Discriminator\(...\)`",
        ),
        (
            lambda: innerloop.Method(
                ProtoLearner(network()),
                Discriminator(Query(), discriminator(), network(True)),
                Unrolled(),
            ),
            "`Discriminator` was made for another model than `ProtoLearner`",
        ),
    ],
)
def test_bad_arguments_are_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()
