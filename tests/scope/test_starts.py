"""Other starts and targets: heads from prototypes, heads of zeros, bootstrapped targets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from innerloop import Batch, Method, Task
from innerloop.doctor import central_differences
from innerloop.doctor.gradient import flat_gradient
from innerloop.estimate import Adjoint, FirstOrder, ForwardOverReverse, Unrolled
from innerloop.learn import GradientLearner, ProtoLearner
from innerloop.learn.proto import distances
from innerloop.methods import proto_maml
from innerloop.models import mlp
from innerloop.objective import Bootstrapped, Query
from innerloop.scope import All, Only, Prototypes, Zeroed
from innerloop.solve import GradientDescent, Momentum, Scalar


def episodes(tasks=3, way=3, shot=2):
    torch.manual_seed(1)
    y = torch.stack([torch.randperm(way * shot) % way for _ in range(tasks)])
    x = torch.randn(2, tasks, way * shot, 2, dtype=torch.float64)
    return Task(Batch(x[0], y), Batch(x[1], y.flip(1)))


def network(outputs=3, norm=False):
    torch.manual_seed(0)
    return mlp(2, outputs, (4,), norm=norm, activation="tanh").double()


def curves():
    torch.manual_seed(1)
    x = torch.randn(2, 3, 6, 2, dtype=torch.float64)
    y = x.prod(-1, keepdim=True)
    return Task(Batch(x[0], y[0]), Batch(x[1], y[1]))


@pytest.mark.parametrize("norm", [False, True])
def test_head_starts_as_the_prototypical_classifier(norm):
    task, model = episodes(), network(norm=norm)
    method = proto_maml(model, steps=0)
    phi = method.trajectory(task.support)[0]
    for i in range(3):
        features = model.body(task.support.x[i])
        for k in range(3):
            c = features[task.support.y[i] == k].mean(0)
            torch.testing.assert_close(phi["head.weight"][i, k], 2 * c)
            torch.testing.assert_close(phi["head.bias"][i, k], -(c @ c))
        means = torch.stack([features[task.support.y[i] == k].mean(0) for k in range(3)])
        logits = distances(model.body(task.query.x[i]), means)
        found = method.query_outputs(task)[0, i]
        torch.testing.assert_close(found.softmax(1), logits.softmax(1))


@pytest.mark.parametrize("scope", [All(), Only("head.*")])
def test_prototype_start_is_differentiated_exactly(scope):
    solver = GradientDescent(Scalar(0.1), 3)
    learner = GradientLearner(network(norm="layer"), solver, Prototypes(scope))
    method, task = Method(learner.double(), Query(), Unrolled(), name="test", chunk=3), episodes()
    reference = flat_gradient(method, task, Unrolled())
    dense = central_differences(method, task, step=1e-5)
    torch.testing.assert_close(reference, dense, rtol=1e-6, atol=1e-9)
    for estimator in (Adjoint(), Adjoint(ForwardOverReverse()), Adjoint(store_every=2)):
        found = flat_gradient(method, task, estimator)
        torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-13)
    assert not torch.allclose(flat_gradient(method, task, FirstOrder()), reference, rtol=1e-3)


def test_prototype_start_takes_any_number_of_classes():
    method, task = proto_maml(network(outputs=5), steps=2), episodes(way=3)
    outputs = method.query_outputs(task)
    assert outputs.shape[-1] == 3
    module = method.adapt(task.support.x[0], task.support.y[0])
    torch.testing.assert_close(module(task.query.x[0]), outputs[-1, 0])
    assert module.head.out_features == 3
    wider = episodes(way=7)
    assert method.meta_gradient(wider).stats["accuracy"].shape == (3,)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: proto_maml(network(), head="top"), "missing"),
        (lambda: proto_maml(network(), head="body"), "Sequential"),
        (
            lambda: GradientLearner(network(), GradientDescent(0.1, 1), Prototypes(Only("body.*"))),
            "leaves out head.weight",
        ),
        (
            lambda: Method(
                GradientLearner(
                    network(1), GradientDescent(0.1, 1), Prototypes(All()), inner="mse"
                ),
                Query("mse"),
            ).meta_gradient(curves()),
            "class labels",
        ),
    ],
)
def test_prototype_start_refuses(build, word):
    with pytest.raises(ValueError, match=word):
        build()


def test_zeroed_head_makes_the_first_step_of_the_body_vanish():
    scope = Zeroed(All(), "head.*")
    learner = GradientLearner(network(), GradientDescent(0.1, 2), scope)
    phis = Method(learner, Query(), Adjoint(), name="zeroing").trajectory(episodes().support)
    assert not phis[0]["head.weight"].any() and not phis[0]["head.bias"].any()
    assert torch.equal(phis[1]["body.1.weight"], phis[0]["body.1.weight"])
    assert not torch.equal(phis[2]["body.1.weight"], phis[1]["body.1.weight"])
    grads = Method(learner, Query(), Adjoint(), name="zeroing").meta_gradient(episodes()).grads
    assert not grads["learner.model.head.weight"].any()
    assert grads["learner.model.body.1.weight"].any()


def test_zeroed_refuses_what_its_scope_does_not_adapt():
    with pytest.raises(ValueError, match="stay there"):
        GradientLearner(network(), GradientDescent(0.1, 2), Zeroed(Only("body.*"), "head.*"))


def test_one_bootstrapped_step_and_squared_distance_is_maml():
    """With outputs linear in the weights that move, and L = 1, the two directions agree.

    The target is phi - r grad L(phi), and d/dphi |z(phi) - z(target)|^2 / m = 2 r / m J J^T ... so
    for one bias as the only weight it is 2 r times MAML's gradient.
    """

    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))

        def forward(self, x):
            return x[:, :1] ** 2 + self.offset

    task, rate = curves(), 0.05
    solver = GradientDescent(0.1, 3)
    maml = Method(
        GradientLearner(Offset(), solver, inner="mse"), Query("mse"), Adjoint(), name="maml"
    )
    learner = GradientLearner(Offset(), GradientDescent(0.1, 3), inner="mse")
    found = (
        Method(learner, Bootstrapped("mse", extra=1, target_lr=rate), Adjoint())
        .meta_gradient(task)
        .grads
    )
    expected = maml.meta_gradient(task).grads
    for k, v in expected.items():
        torch.testing.assert_close(found[k], 2 * rate * v)


@pytest.mark.parametrize("kind", ["classes", "values"])
@pytest.mark.parametrize("extra", [1, 3])
def test_bootstrapped_gradient_holds_the_target_constant(kind, extra):
    """Against autograd of the distance to a target that was computed before, by hand."""
    loss, task = ("cross_entropy", episodes()) if kind == "classes" else ("mse", curves())
    model = network(3 if kind == "classes" else 1)
    learner = GradientLearner(model, GradientDescent(0.1, 2), inner=loss)
    objective, query = Bootstrapped(loss, extra=extra, target_lr=0.2), Query(loss)
    plain = GradientLearner(model, GradientDescent(0.1, 2 + extra - 1), inner=loss)
    meta = {k: v.detach().requires_grad_() for k, v in plain.named_parameters()}
    far = plain.adapt(meta, task.support)
    phi = {k: v.detach().requires_grad_() for k, v in far.phi.items()}
    losses = query.losses(plain, meta, far._replace(phi=phi), task).losses
    slopes = torch.autograd.grad(losses.sum(), list(phi.values()))
    target = {k: v.detach() - 0.2 * g for (k, v), g in zip(phi.items(), slopes, strict=True)}
    goal = plain.predict(meta, far._replace(phi=target), task.query.x, task.support).detach()
    near = learner.adapt(meta, task.support)
    found = plain.predict(meta, near, task.query.x, task.support)
    if kind == "classes":
        distance = nn.functional.kl_div(
            found.log_softmax(2), goal.log_softmax(2), log_target=True, reduction="none"
        ).sum(2)
    else:
        distance = (found - goal).square().squeeze(-1)
    expected = torch.autograd.grad(distance.mean(), list(meta.values()))
    for estimator in (Unrolled(), Adjoint()):
        result = Method(learner, objective, estimator).meta_gradient(task)
        torch.testing.assert_close(result.loss, distance.mean())
        for k, v in zip(meta, expected, strict=True):
            torch.testing.assert_close(result.grads["learner." + k], v, rtol=1e-9, atol=1e-12)
    stats = Method(learner, objective, Unrolled()).meta_gradient(task).stats
    expected = query.losses(plain, meta, near, task).losses.detach()
    torch.testing.assert_close(stats["query_loss"], expected)


def test_bootstrapping_goes_on_with_any_solver():
    learner = GradientLearner(network(), Momentum(0.1, 2))
    grads = Method(learner, Bootstrapped(extra=4), Adjoint()).meta_gradient(episodes()).grads
    assert all(g.any() for g in grads.values())


@pytest.mark.parametrize(("name", "value"), [("extra", 0), ("target_lr", 0.0)])
def test_bootstrapping_refuses(name, value):
    with pytest.raises(ValueError, match=name):
        Bootstrapped(**{name: value})


def test_bootstrapping_needs_to_know_how_outputs_are_compared():
    def loss(outputs, y):
        return nn.functional.cross_entropy(outputs, y)

    with pytest.raises(ValueError, match=r'say distance="kl".*or distance="squared"'):
        Bootstrapped(loss)
    learner, task = GradientLearner(network(), GradientDescent(0.1, 2)), episodes()
    said = Method(learner, Bootstrapped(loss, distance="kl")).meta_gradient(task)
    known = Method(learner, Bootstrapped("cross_entropy")).meta_gradient(task)
    for k, v in known.grads.items():
        torch.testing.assert_close(said.grads[k], v, rtol=1e-11, atol=1e-13)


def test_bootstrapping_needs_steps_to_go_on():
    with pytest.raises(ValueError, match=r"`Bootstrapped`.*`ProtoLearner` has none"):
        Method(ProtoLearner(network(None)), Bootstrapped(), Unrolled())
