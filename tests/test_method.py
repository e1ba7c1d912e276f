"""A method in the hand: gradients, losses, adapted modules, refusals."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop import Batch, Method, Task, methods
from innerloop.estimate import Adjoint, FirstOrder, Implicit, Reptile, Unrolled
from innerloop.learn import GradientLearner, MiniBatches, ProtoLearner
from innerloop.objective import Proximal, Query, Regulariser, per_task
from innerloop.scope import Context, Except, Only
from innerloop.solve import (
    Adam,
    GradientDescent,
    MetaLSTM,
    Momentum,
    PerLayerPerStep,
    Sign,
)

TASKS, N, CLASSES = 3, 6, 3


def conv(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        *middle,
        nn.Tanh(),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    ).double()


def draw(tasks: int = TASKS, shape: tuple[int, ...] = (1, 6, 6)) -> Task:
    torch.manual_seed(1)
    y = torch.stack([torch.randperm(N) % CLASSES for _ in range(tasks)])
    x, q = torch.randn(2, tasks, N, *shape, dtype=torch.float64)
    return Task(Batch(x, y), Batch(q, y))


def by_hand(model: nn.Module, tasks: Task, lr: float, steps: int) -> dict[str, Tensor]:
    """MAML as in a textbook: one task after another, ordinary autograd."""
    meta = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(tasks.support.x)):
        phi = meta
        for _ in range(steps):
            out = functional_call(model, phi, (tasks.support.x[i],))
            grads = torch.autograd.grad(
                F.cross_entropy(out, tasks.support.y[i]), list(phi.values()), create_graph=True
            )
            phi = {k: v - lr * g for (k, v), g in zip(phi.items(), grads, strict=True)}
        out = functional_call(model, phi, (tasks.query.x[i],))
        total = total + F.cross_entropy(out, tasks.query.y[i]) / len(tasks.support.x)
    found = torch.autograd.grad(total, list(meta.values()))
    return dict(zip(meta, found, strict=True))


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.LayerNorm([2, 6, 6]),
        nn.InstanceNorm2d(2, affine=True),
        nn.GroupNorm(1, 2),
        nn.MaxPool2d(1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_gradient_is_that_of_a_plain_loop(layer: nn.Module, chunk: int) -> None:
    model, tasks = conv(layer), draw()
    found = methods.maml(model, lr=0.3, steps=3, chunk=chunk).meta_gradient(tasks)
    expected = by_hand(model, tasks, 0.3, 3)
    assert list(found.grads) == [f"learner.model.{k}" for k in expected]
    for k, v in expected.items():
        torch.testing.assert_close(found.grads[f"learner.model.{k}"], v, rtol=1e-10, atol=1e-13)


def test_grads_are_keyed_as_trainable_parameters_unused_ones_included() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(4, 3)
            self.unused = nn.Linear(4, 3)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(self.frozen(x))

    method = methods.meta_sgd(Model().double())
    found = method.meta_gradient(draw(shape=(4,)))
    named = {k: p for k, p in method.named_parameters() if p.requires_grad}
    assert list(found.grads) == list(named)
    assert not any("frozen" in k for k in named)
    assert all(found.grads[k].shape == p.shape for k, p in named.items())
    still = [k for k, g in found.grads.items() if not g.any()]
    assert still == [k for k in named if "unused" in k]


def test_a_forward_that_closes_over_the_original_module_is_refused() -> None:
    """Such a model is computed from weights that nobody adapts: zero meta-gradients, in silence."""
    model = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}).double()
    outside = nn.Linear(4, 3).double()
    model.forward = lambda x: outside(x)  # type: ignore[method-assign]
    for chunk in (1, 3):
        method = Method(GradientLearner(model, GradientDescent(0.1, 1)), Query(), chunk=chunk)
        with pytest.raises(
            ValueError,
            match=r"ModuleDict depend on none of its parameters.*forward been taken from another",
        ):
            method.meta_gradient(draw(shape=(4,)))


def test_a_support_loss_that_reaches_nothing_that_is_adapted_is_refused() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)

    learner = GradientLearner(Half().double(), GradientDescent(0.1, 1), Only("b.*"))
    with pytest.raises(ValueError, match=r"none of the adapted parameters \(b\.weight, b\.bias\)"):
        Method(learner, Query()).meta_gradient(draw(shape=(4,)))


def test_an_outer_loss_that_reaches_no_meta_parameter_is_refused() -> None:
    class Nothing(Query):
        def losses(self, learner, meta, point, task):
            found = super().losses(learner, meta, point, task)
            return found._replace(losses=found.losses.detach())

    for estimator in (Adjoint(), Unrolled(), FirstOrder()):
        for steps in (1, 2):
            learner = GradientLearner(conv(), GradientDescent(0.1, steps))
            with pytest.raises(ValueError, match="outer loss reaches none of the meta-parameters"):
                Method(learner, Nothing(), estimator).meta_gradient(draw())


def test_parameters_without_gradient_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)

    method = methods.maml(Half().double(), steps=1)
    with caplog.at_level(logging.WARNING, "innerloop"):
        for _ in range(2):
            method.meta_gradient(draw(shape=(4,)))
    assert [r.message for r in caplog.records] == [
        "the meta-gradient does not reach model.b.weight, model.b.bias"
    ]


def test_loss_backward_gives_the_meta_gradient() -> None:
    method, tasks = methods.maml(conv(), lr=0.2, steps=2), draw()
    found = method.meta_gradient(tasks)
    (3 * method(tasks)).backward()
    for k, p in method.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, 3 * found.grads[k])
    assert torch.equal(method.loss(tasks).detach(), found.loss)


def test_the_model_is_left_as_it_was() -> None:
    model = conv(nn.BatchNorm2d(2), nn.Dropout(0.5))
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    method = methods.maml(model, lr=0.2, steps=2)
    tasks = draw()
    method.meta_gradient(tasks)
    method.query_outputs(tasks, 4)
    method.adapt(tasks.support.x[0], tasks.support.y[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("norm", ["batch", "support"])
@pytest.mark.parametrize("make", [methods.maml, methods.protonet])
def test_the_adapted_module_predicts_what_the_method_predicts(make: object, norm: str) -> None:
    tasks = draw(1)
    method = make(conv(nn.BatchNorm2d(2)), norm=norm)  # type: ignore[operator]
    module = method.adapt(tasks.support.x[0], tasks.support.y[0])
    outputs = method.query_outputs(tasks)[-1, 0]
    assert not module.training
    for mode in (False, True) if norm == "batch" else (False,):
        torch.testing.assert_close(module.train(mode)(tasks.query.x[0]).detach(), outputs)
    if isinstance(method.learner, GradientLearner):
        assert type(module) is type(method.learner.model)
    assert all(p.grad_fn is None for p in module.parameters())


def test_more_steps_than_trained_and_none() -> None:
    method, tasks = methods.maml(conv(), lr=0.2, steps=2), draw()
    outputs = method.query_outputs(tasks, 5)
    assert outputs.shape == (6, TASKS, N, CLASSES)
    torch.testing.assert_close(method.query_outputs(tasks, 2), outputs[:3])
    start = method.adapt(tasks.support.x[0], tasks.support.y[0], steps=0)
    model = method.learner.model
    assert all(
        torch.equal(a, b) for a, b in zip(start.parameters(), model.parameters(), strict=True)
    )
    states = method.trajectory(tasks.support, 5)
    assert len(states) == 6 and all(v.shape[0] == TASKS for v in states[0].values())


def test_rates_past_the_trained_steps_repeat_the_last_and_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    learner = GradientLearner(conv(), GradientDescent(PerLayerPerStep(0.1), 2))
    method = Method(learner, Query(), Adjoint(), name="lslr")
    with caplog.at_level(logging.WARNING, "innerloop"):
        method.query_outputs(draw(), 5)
    assert [r.message for r in caplog.records] == [
        "inner step 3 was not trained: it reuses the rates of step 2"
    ]


def test_scopes_adapt_what_they_say() -> None:
    tasks = draw()
    for scope, moved in ((Only("4.*"), "4."), (Except("4.*"), "0.")):
        learner = GradientLearner(conv(), GradientDescent(0.5, 1), scope)
        first, last = Method(learner, Query(), Adjoint(), name="scope").trajectory(tasks.support)
        assert all(k.startswith(moved) for k in last)
        assert any(not torch.equal(first[k], last[k]) for k in last)


def test_a_context_starts_from_zero_and_is_not_learned() -> None:
    class Contextual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.context = nn.Parameter(torch.full((2,), 7.0))
            self.net = nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(torch.cat([x, self.context.expand(len(x), 2)], 1))

    tasks = draw(shape=(4,))
    learner = GradientLearner(Contextual().double(), GradientDescent(1.0, 2), Context())
    method = Method(learner, Query(), Adjoint(), name="cavia")
    first, *_, last = method.trajectory(tasks.support)
    assert not first["context"].any() and last["context"].any()
    found = method.meta_gradient(tasks).grads
    reference = Method(learner, Query(), Unrolled(), name="cavia").meta_gradient(tasks).grads
    assert not found["learner.model.context"].any()
    for k, g in reference.items():
        torch.testing.assert_close(found[k], g, rtol=1e-11, atol=1e-13)


def test_per_task_losses_regularisers_and_callables() -> None:
    tasks = draw()
    smooth = per_task(
        lambda out, y: F.cross_entropy(out.transpose(1, 2), y, reduction="none").mean(1),
        labels="classes",
        metric="accuracy",
    )
    found = []
    for loss in ("cross_entropy", nn.CrossEntropyLoss(), F.cross_entropy, smooth):
        smallness = Regulariser(lambda w: 0.1 * sum(v.square().sum() for v in w.values()))
        learner = GradientLearner(conv(), GradientDescent(0.2, 2), inner=[loss, smallness])
        objective = Query(loss)
        assert objective.loss.labels == "classes" and objective.metric.name == "accuracy"
        found.append(Method(learner, objective, Adjoint()).meta_gradient(tasks))
    for other in found[1:]:
        for k, g in found[0].grads.items():
            torch.testing.assert_close(other.grads[k], g, rtol=1e-11, atol=1e-13)
        assert torch.equal(other.stats["accuracy"], found[0].stats["accuracy"])
    plain = methods.maml(conv(), lr=0.2, steps=2).meta_gradient(tasks)
    assert not torch.allclose(plain.loss, found[0].loss)


def test_dense_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(1, CLASSES, 1).double()
    x = torch.randn(2, 4, 1, 5, 5, dtype=torch.float64)
    y = torch.randint(0, CLASSES, (2, 4, 5, 5))
    found = methods.maml(model, lr=0.1, steps=2).meta_gradient(Task(Batch(x, y), Batch(x, y)))
    assert found.stats["accuracy"].shape == (2,)


def test_reptile_keeps_the_mean_of_adams_moments() -> None:
    model = conv()
    method = methods.reptile(model, lr=1e-2, steps=3, batch_size=2)
    tasks = draw()
    torch.manual_seed(0)
    first = method.meta_gradient(tasks)
    solver = method.learner.solver  # type: ignore[union-attr]
    assert int(solver.count) == 0, "a meta-gradient stores nothing"
    method.commit(first)
    assert int(solver.count) == 3
    torch.manual_seed(0)
    second = method.meta_gradient(tasks)
    method.commit(second)
    assert int(solver.count) == 6
    method.loss(tasks)
    assert int(solver.count) == 9, "loss is a step of a training"
    assert any(not torch.equal(first.grads[k], second.grads[k]) for k in first.grads)
    fresh = methods.reptile(model, lr=1e-2, steps=3, batch_size=2, persistent=False)
    torch.manual_seed(0)
    once = fresh.meta_gradient(tasks)
    torch.manual_seed(0)
    again = fresh.meta_gradient(tasks)
    assert all(torch.equal(once.grads[k], again.grads[k]) for k in once.grads)


def test_persistent_moments_do_not_depend_on_the_chunk() -> None:
    tasks, kept = draw(), []
    for chunk in (1, 3):
        method = methods.reptile(conv(), lr=1e-2, steps=3, batch_size=2, chunk=chunk)
        for seed in (0, 1):
            torch.manual_seed(seed)
            method.commit(method.meta_gradient(tasks))
        assert any(v.any() for v in method.buffers())
        kept.append(dict(method.named_buffers()))
    for k, v in kept[0].items():
        torch.testing.assert_close(v, kept[1][k], rtol=1e-10, atol=1e-14)


def test_a_tolerance_that_is_never_reached_is_said(caplog: pytest.LogCaptureFixture) -> None:
    method = methods.imaml(conv(), steps=2, tolerance=1e-9)
    with caplog.at_level(logging.WARNING, "innerloop"):
        stats = method.meta_gradient(draw()).stats
    assert not stats["inner_converged"].any()
    assert any("did not reach the inner gradient tolerance" in r.message for r in caplog.records)
    loose = methods.imaml(conv(), steps=400, tolerance=1e-3).meta_gradient(draw()).stats
    assert loose["inner_converged"].all()
    assert (loose["inner_gradient_norm"] <= 1e-3).all()


def test_task_by_task_stopping_equals_stopping_together() -> None:
    tasks = draw()
    grads = [
        methods.imaml(conv(), steps=60, tolerance=0.05, cg_steps=20, chunk=chunk)
        .meta_gradient(tasks)
        .grads
        for chunk in (1, 3)
    ]
    for k, g in grads[0].items():
        torch.testing.assert_close(g, grads[1][k], rtol=1e-9, atol=1e-12)


REFUSALS = {
    "no penalty": (
        lambda m: Method(
            GradientLearner(m, GradientDescent(0.1, 1)), Query(), Implicit(), name="m"
        ),
        r"`Implicit` cannot differentiate `GradientLearner`: `GradientDescent` without a penalty"
        r".*Proximal",
    ),
    "mini-batches": (
        lambda m: Method(
            GradientLearner(
                m,
                GradientDescent(0.1, 1),
                inner=["cross_entropy", Proximal(1.0)],
                examples=MiniBatches(2),
            ),
            Query(),
            Implicit(),
            name="m",
        ),
        "mini-batched support",
    ),
    "steps of one length": (
        lambda m: Method(
            GradientLearner(
                m, Sign(GradientDescent(0.1, 1)), inner=["cross_entropy", Proximal(1.0)]
            ),
            Query(),
            Implicit(),
            name="m",
        ),
        r"`Sign`: its steps have one length.*Use `GradientDescent`",
    ),
    "a learned update": (
        lambda m: Method(
            GradientLearner(m, MetaLSTM(1), inner=["cross_entropy", Proximal(1.0)]),
            Query(),
            Implicit(),
            name="m",
        ),
        r"`MetaLSTM`: a learned update rests",
    ),
    "no steps to sweep": (
        lambda m: Method(ProtoLearner(m), Query(), Adjoint(), name="m"),
        r"`Adjoint` cannot differentiate `ProtoLearner`.*Use `Unrolled\(\)`",
    ),
    "no steps for reptile": (
        lambda m: Method(ProtoLearner(m), Query(), Reptile(), name="m"),
        r"`Reptile` cannot.*Use `Unrolled\(\)`",
    ),
    "negative steps": (lambda m: methods.maml(m, steps=-1), r"steps >= 0, got steps=-1"),
    "fractional steps": (lambda m: methods.maml(m, steps=1.5), "got steps=1.5"),
    "lambda zero": (lambda m: methods.imaml(m, lam=0.0), r"lam > 0"),
    "lambda negative": (lambda m: methods.imaml(m, lam=-1.0), r"lam > 0"),
    "rate": (lambda m: methods.maml(m, lr=float("nan")), "finite inner learning rate"),
    "tolerance": (lambda m: methods.imaml(m, tolerance=0.0), "tolerance > 0"),
    "tolerance with mini-batches": (
        lambda m: GradientLearner(m, Adam(0.1, 2, tolerance=0.1), examples=MiniBatches(2)),
        "one inner objective",
    ),
    "chunk": (lambda m: methods.maml(m, chunk=0), "chunk >= 1"),
    "loss name": (lambda m: methods.maml(m, loss="crossentropy"), "unknown loss 'crossentropy'"),
    "policy": (lambda m: methods.maml(m, norm="eval"), "unknown normalisation policy 'eval'"),
    "pattern": (lambda m: methods.anil(m, head="haed.*"), "no parameter of the model matches"),
    "momentum": (lambda m: Momentum(0.1, 1, beta=1.0), r"momentum in \[0, 1\)"),
    "adam": (lambda m: Adam(0.1, 1, eps=0.0), "eps > 0"),
    "no parameters": (lambda m: methods.maml(nn.Flatten()), "no parameters"),
    "all frozen": (
        lambda m: methods.maml(m.requires_grad_(False)),
        "leaves no trainable parameter to adapt",
    ),
    "not a module": (lambda m: methods.maml(lambda x: x), "expected an nn.Module"),
    "truncation": (lambda m: Adjoint(last=-1), "last >= 0"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_pieces_and_the_fix(name: str) -> None:
    build, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        build(conv())


def bad_tasks() -> dict[str, tuple[Task, str]]:
    good = draw()
    (x, y, _), query = good
    return {
        "empty support": (Task(Batch(x[:, :0], y[:, :0]), query), "support set is empty"),
        "way": (
            Task(Batch(x, y + 5), query),
            "labels run from 5 to 7, but the model has 3 outputs",
        ),
        "float labels": (Task(Batch(x, y.double()), query), "expects integer class labels"),
        "precision": (Task(Batch(x.float(), y), query), "x is torch.float32 but the model's"),
        "integer pixels": (Task(Batch(x.byte(), y), Batch(query.x.byte(), y)), "divide pixels"),
        "no task axis": (Task(Batch(x[0, 0, 0, 0], y[0]), query), "leading task axis"),
        "lengths": (Task(Batch(x, y[:, :-1]), query), "disagree in axis 0"),
        "task counts": (Task(Batch(x[:2], y[:2]), query), "support holds 2 tasks and query 3"),
        "structures": (Task(Batch({"a": x}, y), query), "trees of different structure"),
        "weights": (Task(Batch(x, y, torch.ones(3, 2)), query), "a weight for each example of"),
        "frames": (Task(Batch(x, [y]), Batch(query.x, y[:, :-1])), "disagree in axis 0"),
        "nan": (Task(Batch(x / 0, y), query), "NaN or infinite"),
        "not a task": ((x, y), "expected innerloop.Task"),  # type: ignore[dict-item]
    }


@pytest.mark.parametrize("name", bad_tasks())
def test_bad_tasks_are_refused(name: str) -> None:
    tasks, message = bad_tasks()[name]
    with pytest.raises(ValueError, match=message):
        methods.maml(conv()).meta_gradient(tasks)


def test_a_model_that_vmap_cannot_batch_runs_task_by_task_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            h = super().forward(x)
            return 2 * h if h.sum().item() > 0 else h

    model, tasks = Branching(4, CLASSES).double(), draw(shape=(4,))
    method = methods.maml(model, lr=0.3, steps=3)
    with caplog.at_level(logging.WARNING, "innerloop"):
        found = [method.meta_gradient(tasks) for _ in range(2)]
    expected = by_hand(model, tasks, 0.3, 3)
    for k, v in expected.items():
        for one in found:
            torch.testing.assert_close(one.grads[f"learner.model.{k}"], v, rtol=1e-10, atol=1e-13)
    assert sum("cannot run several tasks at once" in r.message for r in caplog.records) == 1


def test_an_integer_loss_and_one_that_is_not_averaged_are_refused() -> None:
    accuracy = lambda out, y: (out.argmax(1) == y).sum()  # noqa: E731
    with pytest.raises(ValueError, match="has no gradient"):
        methods.maml(conv(), loss=accuracy).meta_gradient(draw())
    rows = nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(ValueError, match="expected a scalar"):
        methods.maml(conv(), loss=rows).meta_gradient(draw())


def test_regression_labels_of_another_shape_are_refused() -> None:
    model = nn.Linear(2, 1).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64)
    batch = Batch(x, x[..., 0])
    with pytest.raises(ValueError, match=r"reshape y, e\.g\. y\.unsqueeze\(-1\)"):
        methods.maml(model, loss="mse").meta_gradient(Task(batch, batch))


def test_adapt_refuses_bad_support() -> None:
    method = methods.maml(conv())
    x, y, _ = draw(1).support
    with pytest.raises(ValueError, match="support set is empty"):
        method.adapt(x[0, :0], y[0, :0])
    with pytest.raises(ValueError, match="got steps=-2"):
        method.adapt(x[0], y[0], steps=-2)
    with pytest.raises(ValueError, match="expected tensors"):
        method.adapt(x[0].numpy(), y[0])  # type: ignore[arg-type]


def test_one_class_is_said_once_and_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    method, (support, query) = methods.maml(conv()), draw()
    alone = Task(Batch(support.x, torch.ones_like(support.y)), query)
    with caplog.at_level(logging.WARNING, "innerloop"):
        for _ in range(2):
            assert method.meta_gradient(alone).loss.isfinite()
        method.adapt(support.x[0], torch.ones_like(support.y[0]))
    assert [r.message for r in caplog.records] == [
        "the support set of task 0 holds one class only (1): it cannot tell classes apart"
    ]


def test_support_and_query_may_have_examples_of_other_shapes() -> None:
    """Pooled features: a model that reads images of any size."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES)
    ).double()
    (x, y, _), query = draw()
    found = methods.maml(model, lr=0.2, steps=2).meta_gradient(Task(Batch(x[..., :-1], y), query))
    expected = by_hand(model, Task(Batch(x[..., :-1], y), query), 0.2, 2)
    for k, v in expected.items():
        torch.testing.assert_close(found.grads[f"learner.model.{k}"], v, rtol=1e-10, atol=1e-13)


def test_first_order_costs_no_curvature_and_keeps_direct_paths() -> None:
    """With a learned rate, dphi/drate is a direct path and stays; curvature does not."""
    tasks = draw()
    learner = GradientLearner(conv(), GradientDescent(PerLayerPerStep(0.2), 2))
    first = Method(learner, Query(), FirstOrder(), name="f").meta_gradient(tasks).grads
    exact = Method(learner, Query(), Adjoint(), name="e").meta_gradient(tasks).grads
    rates = [k for k in first if ".rate." in k]
    assert rates and all(first[k].any() for k in rates)
    last = [first[k][1] for k in rates]
    # The last step's rates see no later curvature, so there both agree.
    torch.testing.assert_close(last, [exact[k][1] for k in rates], rtol=1e-10, atol=1e-13)
    assert any(not torch.allclose(first[k][0], exact[k][0]) for k in rates)
