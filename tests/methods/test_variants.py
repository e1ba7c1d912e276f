"""The named methods beyond the classic ones: built by name, run, adapted, and their defaults."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from innerloop import Batch, Method, Task, methods
from innerloop.config import METHODS, MLP, Conv4, Glyphs, RunConfig, Sine, launch, load
from innerloop.estimate import Adjoint, FirstOrder, HessianFree, Unrolled
from innerloop.models import mlp
from innerloop.solve import DropGrad, MetaCurvature, MetaLSTM, Sign
from innerloop.train.settings import Settings

CURVES = (
    "alpha_maml", "bias_transformation", "cavia", "dropgrad", "es_maml", "hf_maml",
    "meta_curvature", "meta_lstm", "sign_maml", "zeroing", "bootstrapped",
)  # fmt: skip
CLASSES = (*CURVES, "maml_plus_plus", "matching", "nil", "proto_maml")


def config(name: str, data, model, **settings) -> RunConfig:
    hints = {f.name for f in dataclasses.fields(METHODS[name])}
    fitting = {k: v for k, v in settings.items() if k in hints}
    return RunConfig(
        name=name,
        data=data,
        model=model,
        method=METHODS[name](**fitting),
        train=Settings(iterations=2, meta_batch=2, validate_every=2, validate_tasks=2, log_every=1),
    )


@pytest.mark.parametrize("name", CURVES)
def test_every_method_runs_on_curves_by_its_name(name):
    run = config(name, Sine(shot=4, queries=4), MLP(hidden=(6,)), loss="mse", pairs=2, steps=2)
    method, splits = run.build()
    tasks = splits.train.sample(torch.Generator().manual_seed(0), 3)
    found = method.meta_gradient(tasks)
    assert torch.isfinite(found.loss) and any(g.any() for g in found.grads.values())
    module = method.adapt(tasks.support.x[0], tasks.support.y[0])
    assert module(tasks.query.x[0]).shape == tasks.query.y[0].shape


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_runs_on_images_by_its_name(name):
    data = Glyphs(way=3, shot=2, queries=1)
    run = config(name, data, Conv4(filters=4), pairs=2, steps=1)
    method, splits = run.build()
    tasks = splits.train.sample(torch.Generator().manual_seed(0), 2)
    found = method.meta_gradient(tasks)
    assert torch.isfinite(found.loss) and any(g.any() for g in found.grads.values())
    assert found.stats["accuracy"].shape == (2,)
    outputs = method.query_outputs(tasks)
    assert outputs.shape[1:] == (2, 3, 3)
    module = method.eval().adapt(tasks.support.x[0], tasks.support.y[0])
    torch.testing.assert_close(
        module(tasks.query.x[0]).softmax(1),
        method.query_outputs(tasks)[-1, 0].softmax(1),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["cavia", "meta_lstm", "bias_transformation"])
def test_a_run_is_trained_and_loaded_again(name, tmp_path):
    run = config(name, Sine(shot=4, queries=4), MLP(hidden=(6,)), loss="mse", steps=2)
    state = launch(run, tmp_path / "run")
    assert state.step == 2
    _, method, step = load(tmp_path / "run", weights="last")
    assert int(step) == 2 and isinstance(method, Method)


def pieces(name: str, **settings):
    method = getattr(methods, name)(mlp(2, 3, (4,)), **settings)
    return method, method.learner.solver


def test_defaults_are_those_of_the_papers():
    method, solver = pieces("cavia")
    assert (solver.rate.lr, solver.steps) == (1.0, 1)
    assert method.learner.names == ["context"] and len(method.learner.model.context) == 5
    _, solver = pieces("sign_maml")
    assert isinstance(solver, Sign) and (solver.base.rate.lr, solver.steps) == (0.0035, 5)
    _, solver = pieces("dropgrad")
    assert isinstance(solver, DropGrad) and solver.p == 0.1 and solver.noise == "gaussian"
    method, solver = pieces("meta_lstm")
    assert isinstance(solver, MetaLSTM) and (solver.steps, solver.hidden) == (12, 20)
    assert isinstance(method.estimator, FirstOrder)
    assert isinstance(pieces("meta_lstm", estimator=Adjoint())[0].estimator, Adjoint)
    method, solver = pieces("meta_curvature")
    assert isinstance(solver, MetaCurvature) and isinstance(method.estimator, Adjoint)
    assert isinstance(pieces("hf_maml")[0].estimator, HessianFree)
    assert isinstance(pieces("proto_maml")[0].estimator, FirstOrder)


def test_the_users_model_is_trained_through_the_method():
    """A context or a bias transformation is put into a copy that shares the weights."""
    for name in ("cavia", "bias_transformation"):
        model = mlp(2, 3, (4,))
        method = getattr(methods, name)(model)
        before = model.head.weight.clone()
        x, y = torch.randn(2, 6, 2), torch.arange(6).expand(2, 6) % 3
        method.loss(Task(Batch(x, y), Batch(x, y))).backward()
        torch.optim.SGD(method.parameters(), lr=1.0).step()
        assert not torch.equal(model.head.weight, before)


def test_nil_is_matching_on_the_features_of_a_trained_model():
    torch.manual_seed(0)
    model = mlp(2, 3, (4,))
    methods.anil(model)
    x, y = torch.randn(2, 6, 2), torch.arange(6).expand(2, 6) % 3
    tasks = Task(Batch(x, y), Batch(x + 0.1, y))
    nil = methods.nil(model)
    expected = methods.matching(model.body).query_outputs(tasks)
    torch.testing.assert_close(nil.query_outputs(tasks), expected)
    assert isinstance(nil.estimator, Unrolled)
    assert {id(p) for p in nil.parameters()} == {id(p) for p in model.body.parameters()}
