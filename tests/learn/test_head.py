"""Heads as learners: adapted modules, gradients, labels, health, refusals."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable

import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from innerloop import Batch, Method, Task, methods
from innerloop.estimate import Adjoint, EvolutionStrategies, Unrolled
from innerloop.heads import SVM, Logistic, Ridge, quadratic
from innerloop.learn import HeadLearner
from innerloop.objective import Query

TASKS, N, CLASSES = 3, 6, 3

METHODS: dict[str, Callable[..., Method]] = {
    "r2d2": lambda m, **k: methods.r2d2(m, lam=0.3, **k),
    "lrd2": lambda m, **k: methods.lrd2(m, lam=0.3, steps=3, **k),
    "svm": lambda m, **k: methods.metaoptnet(m, c=0.5, **k),
    "ridge": lambda m, **k: methods.metaoptnet(m, head="ridge", lam=0.3, **k),
    "smoothed": lambda m, **k: methods.metaoptnet(m, label_smoothing=0.1, **k),
}


def body(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), *middle, nn.Tanh(), nn.AvgPool2d(3), nn.Flatten()
    ).double()


def draw(tasks: int = TASKS, classes: int = CLASSES) -> Task:
    generator = torch.Generator().manual_seed(1)
    y = torch.stack([torch.randperm(N, generator=generator) % classes for _ in range(tasks)])
    x = torch.randn(2, tasks, N, 1, 6, 6, generator=generator, dtype=torch.float64)
    return Task(Batch(x[0], y), Batch(x[1], y))


@pytest.mark.parametrize("norm", ["batch", "support"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_the_adapted_module_predicts_what_the_method_predicts(
    name: str, classes: int, norm: str
) -> None:
    tasks = draw(1, classes)
    method = METHODS[name](body(nn.BatchNorm2d(3)), norm=norm)
    module = method.adapt(tasks.support.x[0], tasks.support.y[0])
    outputs = method.query_outputs(tasks)
    assert outputs.shape == (1, 1, N, classes)
    assert not module.training and isinstance(module.get_submodule("head"), nn.Linear)
    torch.testing.assert_close(module(tasks.query.x[0]).detach(), outputs[0, 0])


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_one_task_after_another(name: str) -> None:
    """Autograd through the head on plain modules, no ModelCall, no chunks."""
    tasks = draw()
    method = METHODS[name](body(), chunk=TASKS)
    found = method.meta_gradient(tasks)
    learner = method.learner
    assert isinstance(learner, HeadLearner)
    hyper = dict(learner.head.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for i in range(TASKS):
        z, q = learner.model(tasks.support.x[i]), learner.model(tasks.query.x[i])
        weight, bias, _ = learner.head.fit(hyper, z[None], one_hot(tasks.support.y[i : i + 1]))
        outputs = q @ weight[0].T + bias[0]
        outputs = outputs if learner.scale is None else learner.scale * outputs
        total = (
            total
            + method.objective.loss(
                outputs[None], Batch(outputs[None], tasks.query.y[i : i + 1])
            ).sum()
            / TASKS
        )
    torch.testing.assert_close(found.loss, total.detach())
    expected = torch.autograd.grad(total, list(learner.parameters()))
    for (k, _), g in zip(learner.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found.grads[f"learner.{k}"], g, rtol=1e-9, atol=1e-13)
        assert g.any(), f"{k} has no gradient: nothing is compared"


@pytest.mark.parametrize("name", METHODS)
def test_one_task_at_a_time_is_all_at_once(name: str) -> None:
    one, all_ = (METHODS[name](body(), chunk=c).meta_gradient(draw()) for c in (1, TASKS))
    for k, g in one.grads.items():
        torch.testing.assert_close(g, all_.grads[k], rtol=1e-10, atol=1e-14)
    assert one.stats.keys() == all_.stats.keys()
    assert all(v.shape == (TASKS,) for v in one.stats.values())


def test_what_is_learned() -> None:
    def learned(method: Method) -> dict[str, float]:
        return {
            k.removeprefix("learner."): float(p.detach())
            for k, p in method.named_parameters()
            if ".model." not in k
        }

    assert learned(methods.r2d2(body())) == pytest.approx(
        {"scale": 10, "head.lam.log": 3.912023005428146}
    )
    assert learned(methods.r2d2(body(), loss="mse")) == pytest.approx(
        {"scale": 1, "shift": 0, "head.lam.log": 3.912023005428146}
    )
    assert learned(methods.lrd2(body(), lam=1.0)) == {"head.lam.log": 0}
    assert learned(methods.metaoptnet(body())) == {"scale": 1}
    assert learned(methods.metaoptnet(body(), head="ridge")) == {"scale": 2}


def test_metaoptnets_ridge_is_the_dual_problem_of_the_authors() -> None:
    """alpha = 2 (K + 50 I)^-1 y, logits = gamma sum_i alpha_i <z_i, x> with gamma = 1."""
    tasks = draw(1)
    method = methods.metaoptnet(body(), head="ridge")
    model = method.learner.model
    with torch.no_grad():
        z, q = model(tasks.support.x[0]), model(tasks.query.x[0])
    y = one_hot(tasks.support.y[0]).double()
    alpha = 2 * torch.linalg.solve(z @ z.T + 50 * torch.eye(N), y)
    torch.testing.assert_close(method.query_outputs(tasks)[0, 0], q @ z.T @ alpha)


def test_label_smoothing_is_the_authors() -> None:
    loss = methods.metaoptnet(body(), label_smoothing=0.1).objective.loss
    outputs = torch.randn(TASKS, N, 5, dtype=torch.float64)
    y = torch.arange(N).expand(TASKS, N) % 5
    smooth = one_hot(y).double() * (1 - 0.1) + (1 - one_hot(y).double()) * 0.1 / 4
    expected = -(smooth * log_softmax(outputs, 2)).sum(2).mean(1)
    batch = Batch(outputs, y)
    torch.testing.assert_close(loss(outputs, batch), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(loss))(outputs, batch), expected)


def test_values_are_fitted_by_ridge() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TASKS, 12, 4, generator=generator, dtype=torch.float64)
    y = torch.cat([x.sum(2, keepdim=True), x[..., :1] ** 2], 2)
    tasks = Task(Batch(x[:, :8], y[:, :8]), Batch(x[:, 8:], y[:, 8:]))
    method = methods.r2d2(nn.Linear(4, 7).double(), lam=0.01, loss="mse")
    found = method.query_outputs(tasks)[0]
    z = method.learner.model(x).detach()
    ones = torch.ones(TASKS, 12, 1, dtype=torch.float64)
    z = torch.cat([z, ones], 2)
    for i in range(TASKS):
        model = SklearnRidge(alpha=0.01 * 8, fit_intercept=False).fit(z[i, :8], y[i, :8])
        torch.testing.assert_close(found[i], torch.as_tensor(model.predict(z[i, 8:])))
    grads = method.meta_gradient(tasks).grads
    assert grads["learner.shift"].any() and grads["learner.scale"].any()
    module = method.adapt(x[0, :8], y[0, :8])
    torch.testing.assert_close(module(x[0, 8:]).detach(), found[0])


def test_any_number_of_classes_and_shots() -> None:
    method = methods.r2d2(nn.Linear(3, 4), lam=0.1)
    for way, shot in ((2, 1), (5, 3), (20, 1)):
        x, y = torch.randn(2, way * shot, 3), torch.arange(way).repeat(2, shot)
        assert method.query_outputs(Task(Batch(x, y), Batch(x, y))).shape == (1, 2, way * shot, way)


def test_training_lowers_the_loss_and_moves_what_is_learned() -> None:
    for name, make in METHODS.items():
        method = make(body())
        before = {k: p.detach().clone() for k, p in method.named_parameters()}
        optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = method.loss(draw())
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.97 * losses[0], name
        assert all(not torch.equal(p, before[k]) for k, p in method.named_parameters()), name


def test_evolution_strategies_take_a_head_too() -> None:
    learner = HeadLearner(body(), Ridge(0.3), scale=1.0)
    estimator = EvolutionStrategies(pairs=200, sigma=1e-3)
    torch.manual_seed(0)
    rough = Method(learner, Query(), estimator, name="es").meta_gradient(draw()).grads
    exact = Method(learner, Query(), Unrolled(), name="exact").meta_gradient(draw()).grads
    a, b = (torch.cat([g.flatten() for g in found.values()]) for found in (rough, exact))
    assert torch.cosine_similarity(a, b, dim=0) > 0.8


def test_recurrent_features_run_one_task_at_a_time() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    x, y = torch.randn(2, 6, 3, 2), torch.arange(6).repeat(2, 1) % 3
    found = methods.metaoptnet(Last()).meta_gradient(Task(Batch(x, y), Batch(x, y)))
    assert all(g.isfinite().all() and g.any() for g in found.grads.values())


def test_health_is_in_the_stats(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "innerloop"):
        stats = methods.metaoptnet(body()).meta_gradient(draw()).stats
    assert stats["inner_converged"].dtype == torch.bool and stats["inner_converged"].all()
    assert (stats["inner_gap"] >= 0).all() and (stats["inner_gap"] < 1e-12).all()
    assert (stats["inner_iterations"] >= 3).all()
    assert not caplog.records
    one, five = (
        methods.lrd2(body(), lam=0.3, steps=s).meta_gradient(draw()).stats["inner_gradient_norm"]
        for s in (1, 5)
    )
    assert (five < 0.1 * one).all()
    assert set(methods.r2d2(body()).meta_gradient(draw()).stats) == {
        "loss",
        "query_loss",
        "accuracy",
    }


def test_a_solve_that_did_not_converge_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quadratic, "MOST", 2)
    tasks = draw()
    for use in (
        lambda m: m.meta_gradient(tasks),
        lambda m: m.adapt(tasks.support.x[0], tasks.support.y[0]),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "innerloop"):
            use(methods.metaoptnet(body()))
        assert ["not solved to the end" in r.message for r in caplog.records] == [True]


def bad_tasks() -> dict[str, tuple[Task, str]]:
    (x, y, _), query = draw()
    return {
        "a gap": (Task(Batch(x, 2 * y), query), "among 0..4 has no support example"),
        "from one": (Task(Batch(x, y + 1), query), "among 0..3 has no support example"),
        "negative": (Task(Batch(x, y - 1), query), r"class labels 0, 1, 2.*from -1 up"),
        "values": (Task(Batch(x, y.double()), query), r"class labels 0, 1, 2.*got torch.float64"),
        "one-hot": (Task(Batch(x, one_hot(y)), query), r"shape \(T, n\), got torch.int64"),
        "more ways in the query": (
            Task(Batch(x, y), Batch(query.x, query.y + 1)),
            "labels run from 1 to 3, but the model has 3 outputs",
        ),
        "nan": (Task(Batch(x / 0, y), query), "NaN or infinite"),
    }


@pytest.mark.parametrize("name", bad_tasks())
def test_bad_tasks_are_refused(name: str) -> None:
    tasks, message = bad_tasks()[name]
    with pytest.raises(ValueError, match=message):
        methods.r2d2(body()).meta_gradient(tasks)


REFUSALS: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "values on an SVM": (
        lambda m: HeadLearner(m, SVM(), targets="values"),
        "`SVM` separates classes",
    ),
    "values on logistic": (
        lambda m: HeadLearner(m, Logistic(), targets="values"),
        r"use `Ridge\(\)`",
    ),
    "scale": (lambda m: methods.r2d2(m, scale=-1.0), "finite scale > 0"),
    "scale zero": (lambda m: methods.r2d2(m, scale=0.0), "finite scale > 0"),
    "lam": (lambda m: methods.lrd2(m, lam=0.0), "finite lam > 0"),
    "c": (lambda m: methods.metaoptnet(m, c=-0.1), "finite c > 0"),
    "steps": (lambda m: methods.lrd2(m, steps=0), "at least one Newton step"),
    "head": (lambda m: methods.metaoptnet(m, head="svc"), "expected head="),
    "smoothing": (lambda m: methods.metaoptnet(m, label_smoothing=1.0), r"in \[0, 1\)"),
    "policy": (lambda m: methods.r2d2(m, norm="eval"), "unknown normalisation policy"),
    "estimator": (
        lambda m: Method(HeadLearner(m, Ridge()), Query(), Adjoint(), name="m"),
        r"Use `Unrolled\(\)`",
    ),
    "a loss of which nothing is known": (
        lambda m: methods.r2d2(m, loss=lambda out, y: (out - y).square().mean()),
        r'as_loss\(loss, labels="classes"\)',
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    build, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        build(body())


def test_values_of_the_wrong_kind_or_shape_and_maps_are_refused() -> None:
    x, y = torch.randn(2, 4, 3), torch.randn(2, 4)
    for targets, got in ((y, r"got torch.float32 of shape \(2, 4\)"), (y.long(), "torch.int64")):
        batch = Batch(x, targets)
        with pytest.raises(ValueError, match=got):
            methods.r2d2(nn.Linear(3, 2), loss="mse").meta_gradient(Task(batch, batch))
    images = nn.Conv2d(1, 2, 3).double()
    with pytest.raises(ValueError, match=r"expected features \(n, d\).*flatten or pool"):
        methods.r2d2(images).meta_gradient(draw())


def test_words() -> None:
    assert methods.metaoptnet(body(nn.BatchNorm2d(3)), norm="support").describe() == {
        "method": "metaoptnet",
        "scope": "none",
        "solver": "multi-class SVM, c 0.1, damping 1, learned scale",
        "norm": "support",
        "loss": "cross_entropy",
        "estimator": "unrolled",
    }
    assert "5 Newton steps, lam 50, learned" in methods.lrd2(body()).describe()["solver"]
    assert methods.r2d2(body()).describe()["solver"].startswith("ridge regression, lam 50, learned")
