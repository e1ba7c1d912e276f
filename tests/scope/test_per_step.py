"""BatchNorm parameters of every inner step, against a plain loop; MAML++ and its switches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop import Batch, Method, Task, methods
from innerloop.estimate import Adjoint, FirstOrder, FirstOrderFirst, Unrolled
from innerloop.learn import GradientLearner
from innerloop.models import Conv4
from innerloop.objective import MultiStep, Query
from innerloop.scope import All, Except, PerStep
from innerloop.solve import Fixed, GradientDescent, PerLayerPerStep


class Net(nn.Sequential):
    def __init__(self, *, affine: bool = True) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4, affine=affine), nn.Tanh(),
            nn.Linear(4, 2),
        )  # fmt: skip
        self.double()


def draw(tasks: int = 3) -> Task:
    g = torch.Generator().manual_seed(1)

    def batch(n: int) -> Batch:
        x = torch.randn(tasks, n, 3, generator=g, dtype=torch.float64)
        return Batch(x, torch.arange(n).remainder(2).expand(tasks, n).contiguous())

    return Task(batch(4), batch(6))


def per_step(steps: int, norm: str | None = None) -> GradientLearner:
    return GradientLearner(Net(), GradientDescent(0.3, steps), PerStep(All()), norm=norm)


def lively(learner: GradientLearner) -> GradientLearner:
    """Every step has its own values, far from the others."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in (
            *learner.scope.later.parameters(),
            learner.model[1].weight,
            learner.model[1].bias,
        ):
            p.add_(0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return learner


def forward(phi: dict[str, Tensor], x: Tensor, gamma: Tensor, beta: Tensor, seen: Tensor) -> Tensor:
    """The network in plain tensors, normalised by the statistics of `seen`."""
    h, s = x @ phi["0.weight"].T, seen @ phi["0.weight"].T
    h = (h - s.mean(0)) / (s.var(0, correction=0) + 1e-5).sqrt() * gamma + beta
    return h.tanh() @ phi["3.weight"].T + phi["3.bias"]


def by_hand(learner: GradientLearner, tasks: Task, steps: int, norm: str) -> tuple[Tensor, Tensor]:
    """Query outputs (S+1, T, n, 2), and the flat meta-gradient of the last losses' mean."""
    params = dict(learner.named_parameters())

    def row(t: int) -> tuple[Tensor, Tensor]:
        t = min(t, learner.solver.steps - 1)
        if t == 0:
            return params["model.1.weight"], params["model.1.bias"]
        return params["scope.later.1/weight"][t - 1], params["scope.later.1/bias"][t - 1]

    outputs, total = [], 0.0
    for i in range(len(tasks.support.x)):
        phi = {k: params[f"model.{k}"] for k in ("0.weight", "3.weight", "3.bias")}
        x, q = tasks.support.x[i], tasks.query.x[i]
        seen = x if norm == "support" else q
        told = [forward(phi, q, *row(0), seen)]
        for t in range(steps):
            loss = F.cross_entropy(forward(phi, x, *row(t), x), tasks.support.y[i])
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {k: v - 0.3 * g for (k, v), g in zip(phi.items(), grads, strict=True)}
            told.append(forward(phi, q, *row(t), seen))
        outputs.append(torch.stack(told))
        total = total + F.cross_entropy(told[-1], tasks.query.y[i])
    grads = torch.autograd.grad(total / len(outputs), list(params.values()))
    return torch.stack(outputs, 1).detach(), torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize("norm", ["batch", "support"])
def test_outputs_and_gradient_are_those_of_a_plain_loop(norm):
    tasks = draw()
    learner = lively(per_step(3, norm))
    assert learner.names == ["0.weight", "3.weight", "3.bias"]
    outputs, gradient = by_hand(learner, tasks, 3, norm)
    for estimator in (Unrolled(), Adjoint(), Adjoint(store_every=2)):
        method = Method(learner, Query(), estimator, name="own")
        torch.testing.assert_close(method.query_outputs(tasks), outputs)
        found = torch.cat([g.flatten() for g in method.meta_gradient(tasks).grads.values()])
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)
    assert (found.abs() > 1e-12).all(), "every step's parameters take part"
    module = method.adapt(tasks.support.x[0], tasks.support.y[0])
    torch.testing.assert_close(module(tasks.query.x[0]), outputs[-1, 0])


def test_all_steps_start_alike_and_then_it_is_plain_maml():
    tasks = draw()
    own = per_step(3)
    assert {k: tuple(v.shape) for k, v in own.scope.later.items()} == {
        "1/weight": (2, 4),
        "1/bias": (2, 4),
    }
    plain = methods.maml(Net(), lr=0.3, steps=3, scope=Except("1.*"))
    torch.testing.assert_close(
        Method(own, Query(), Adjoint(), name="own").query_outputs(tasks), plain.query_outputs(tasks)
    )


def test_more_steps_than_trained_reuse_the_last_and_say_so(caplog):
    tasks = draw()
    learner = lively(per_step(2))
    outputs, _ = by_hand(learner, tasks, 4, "batch")
    torch.testing.assert_close(
        Method(learner, Query(), Adjoint(), name="own").query_outputs(tasks, 4), outputs
    )
    assert [r.message for r in caplog.records] == [
        "inner step 3 was not trained: it reuses the normalisation of step 2"
    ]


@pytest.mark.parametrize("steps", [0, 1])
def test_few_steps_need_no_other_parameters(steps):
    learner = per_step(steps)
    assert not list(learner.scope.later.parameters())
    Method(learner, Query(), Adjoint(), name="own").meta_gradient(draw())


def test_a_record_repeats_the_eager_engine():
    eager = Method(lively(per_step(3)), Query(), Adjoint(), name="own")
    traced = Method(lively(per_step(3)), Query(), Adjoint(), name="own")
    traced.use("traced")
    for _ in range(2):
        found, expected = traced.meta_gradient(draw()), eager.meta_gradient(draw())
        torch.testing.assert_close(found.grads, expected.grads, rtol=1e-10, atol=1e-12)


def test_nothing_to_keep_per_step_is_refused():
    for model in (Net(affine=False), nn.Sequential(nn.Linear(3, 2))):
        with pytest.raises(ValueError, match="no BatchNorm layer with a trainable"):
            methods.maml_plus_plus(model)
    assert methods.maml_plus_plus(nn.Sequential(nn.Linear(3, 2)), per_step_norm=False)


def test_every_part_of_maml_plus_plus_can_be_left_out():
    def parts(**settings) -> tuple[bool, ...]:
        method = methods.maml_plus_plus(Net(), **settings)
        learner = method.learner
        return (
            isinstance(method.objective, MultiStep),
            isinstance(learner.solver.rate, PerLayerPerStep),
            isinstance(learner.scope, PerStep),
            isinstance(method.estimator, FirstOrderFirst),
        )

    assert parts() == (True, True, True, False)
    assert parts(first_order_until=0.5) == (True, True, True, True)
    assert parts(multi_step_until=0) == (False, True, True, False)
    assert parts(lslr=False) == (True, False, True, False)
    assert parts(per_step_norm=False) == (True, True, False, False)
    for name in ("multi_step_until", "first_order_until"):
        with pytest.raises(ValueError, match=f"fraction 0 <= {name} <= 1, got {name}=2"):
            methods.maml_plus_plus(Net(), **{name: 2})


def test_with_every_part_left_out_it_is_maml():
    tasks = draw()
    bare = methods.maml_plus_plus(
        Net(), lr=0.3, steps=3, multi_step_until=0, lslr=False, per_step_norm=False
    )
    assert type(bare.learner) is GradientLearner and type(bare.learner.solver.rate) is Fixed
    plain = methods.maml(Net(), lr=0.3, steps=3)
    torch.testing.assert_close(
        bare.meta_gradient(tasks).grads, plain.meta_gradient(tasks).grads, rtol=0, atol=0
    )


def test_the_whole_method_on_a_convolutional_network():
    torch.manual_seed(0)
    method = methods.maml_plus_plus(
        Conv4(3, filters=4, pool="max", slope=0.01).double(), steps=3, first_order_until=0.5
    )
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 6, 1, 28, 28, generator=g, dtype=torch.float64)
    tasks = Task(*(Batch(v, torch.arange(6).remainder(3).expand(2, 6)) for v in (x, 1 - x)))
    for fraction in (0.0, 0.05, 0.4):
        found = method.meta_gradient(tasks, progress=fraction)
        first = method.replace(estimator=FirstOrder()).meta_gradient(tasks, progress=fraction)
        torch.testing.assert_close(found.grads, first.grads)
    exact = Method(method.learner, Query(), Unrolled(), name="exact").meta_gradient(tasks)
    torch.testing.assert_close(method.meta_gradient(tasks, progress=0.5).grads, exact.grads)
