"""The conventional baselines."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from innerloop.config.baselines import pretrained
from innerloop.core import streams
from innerloop.core.types import Batch, Task
from innerloop.data.images.episodes import Episodes
from innerloop.data.pool import ClassPool
from innerloop.data.source import Splits
from innerloop.data.values.synthetic import Sine
from innerloop.methods import scratch
from innerloop.models import mlp
from innerloop.train.baseline import AllClasses, Pooled


def episodes(classes: int = 6, **options: Any) -> Episodes:
    """Images whose first pixel says their class."""
    images = torch.rand(classes * 4, 1, 3, 3, generator=streams.generator(0, "images"))
    label = torch.arange(classes).repeat_interleave(4)
    images[:, 0, 0, 0] = label.float()
    pool = ClassPool(
        images, label, [f"c{i}" for i in range(classes)], torch.zeros(classes).long(), ["all"]
    )
    return Episodes(pool, way=3, shot=1, queries=2, **options)


def test_all_classes_carry_their_label_in_the_pool() -> None:
    source = AllClasses(episodes())
    assert source.spec.outputs == 6
    support, query = source.sample(streams.generator(0, "t"), 4)
    assert query.x.shape == (1, 4 * 3 * 3, 1, 3, 3)
    assert torch.equal(query.x[0, :, 0, 0, 0].long(), query.y[0])
    assert torch.equal(support.x, query.x)
    assert len(query.y.unique()) == 6


def test_pre_training_needs_lasting_classes() -> None:
    with pytest.raises(ValueError, match="Sine has none"):
        AllClasses(Sine())


def test_pooled_regression_holds_all_points() -> None:
    source = Sine(shot=4, queries=3)
    pooled = Pooled(source).sample(streams.generator(0, "t"), 2)
    plain = source.sample(streams.generator(0, "t"), 2)
    assert torch.equal(pooled.query.x, torch.cat([plain.support.x, plain.query.x], 1))
    assert torch.equal(pooled.query.y, torch.cat([plain.support.y, plain.query.y], 1))


def test_the_gradient_is_that_of_ordinary_training() -> None:
    model = mlp(9, 3, (5,)).double()
    method = pretrained(model, classes=6, lr=0.1, steps=2).double()
    source = AllClasses(episodes())
    query = source.sample(streams.generator(0, "t"), 2).query
    batch = Batch(query.x.double(), query.y)
    result = method.meta_gradient(Task(batch, batch))
    wide = copy.deepcopy(method.joint.learner.model)
    loss = F.cross_entropy(wide(batch.x[0]), batch.y[0])
    loss.backward()
    assert float(result.loss) == pytest.approx(loss.item())
    expected = {k: p.grad for k, p in wide.named_parameters()}
    names = dict(method.named_parameters())
    assert result.grads.keys() == names.keys()
    joint = {k: g for k, g in result.grads.items() if k.startswith("joint")}
    for name, grad in expected.items():
        assert grad is not None
        found = next(g for k, g in joint.items() if k.endswith(name))
        assert torch.allclose(found, grad, atol=1e-12), name
    fresh = [g for k, g in result.grads.items() if k.startswith("tune")]
    assert len(fresh) == 2 and not any(g.any() for g in fresh)


def test_fine_tuning_starts_from_the_trained_body_and_a_fresh_head() -> None:
    model = mlp(9, 3, (5,))
    method = pretrained(model, classes=6, lr=0.1, steps=2)
    bodies = [method.joint.learner.model.body, method.tune.learner.model.body]
    assert bodies[0] is bodies[1]
    tasks = episodes().sample(streams.generator(0, "t"), 2)
    outputs = method.query_outputs(tasks, 4)
    assert outputs.shape == (5, 2, 6, 3)
    assert not outputs[0].any()
    assert outputs[1].any()
    with torch.no_grad():
        for p in method.joint.parameters():
            p.mul_(2.0)
    assert not torch.equal(method.query_outputs(tasks, 4)[1], outputs[1])
    assert method.describe()["method"] == "pretrained"
    adapted = method.adapt(tasks.support.x[0], tasks.support.y[0])
    assert adapted(tasks.query.x[0]).shape == (6, 3)


def test_scratch_is_gradient_descent_on_the_support_set() -> None:
    model = mlp(1, 1, (5,)).double()
    method = scratch(model, lr=0.1, steps=3, loss="mse")
    assert method.describe()["method"] == "scratch"
    tasks = Sine(dtype=torch.float64).sample(streams.generator(0, "t"), 1)
    ours = copy.deepcopy(model)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(ours(tasks.support.x[0]), tasks.support.y[0]).backward()
        optimizer.step()
    expected = ours(tasks.query.x[0])
    assert torch.allclose(method.query_outputs(tasks)[-1, 0], expected, atol=1e-12)


def test_a_head_is_needed() -> None:
    with pytest.raises(ValueError, match="linear `head`"):
        pretrained(mlp(9, None, (5,)), classes=6)


def test_splits_of_the_baseline_keep_the_test_tasks() -> None:
    from innerloop.config import METHODS, pieces

    source = episodes()
    splits = Splits(source, source, source)
    changed = pieces.training_sources(METHODS["pretrained"](), splits)
    assert changed.test is source and isinstance(changed.train, AllClasses)
    assert pieces.training_sources(METHODS["maml"](), splits) is splits
