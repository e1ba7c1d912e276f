"""Losses and metrics of stacked tasks, against torch on one task at a time."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop import Batch, Method, Task, methods
from innerloop.learn import GradientLearner, ProtoLearner
from innerloop.objective import Metric, Query, accuracy, as_loss, as_metric, per_task
from innerloop.solve import GradientDescent

TASKS, N, CLASSES = 3, 8, 4


def scores(*more: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(TASKS, N, CLASSES, *more, generator=generator, dtype=torch.float64)


def labels(*more: int, ignored: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, CLASSES, (TASKS, N, *more), generator=generator)
    if ignored is not None:
        y[torch.rand(y.shape, generator=generator) < 0.4] = ignored
    return y


@pytest.mark.parametrize("more", [(), (3, 2)], ids=["classes", "pixels"])
@pytest.mark.parametrize("ignored", [None, -100, 2])
def test_ignored_labels_count_neither_in_loss_nor_accuracy(ignored, more) -> None:
    outputs, y = scores(*more), labels(*more, ignored=ignored)
    chosen = -100 if ignored is None else ignored
    given = [
        nn.CrossEntropyLoss(ignore_index=chosen),
        partial(F.cross_entropy, ignore_index=chosen),
    ]
    for loss in ["cross_entropy", *given] if chosen == -100 else given:
        found = as_loss(loss)
        losses = found(outputs, Batch(outputs, y))
        right = found.metric.value(outputs, Batch(outputs, y))
        assert found.metric.name == "accuracy" and found.labels == "classes"
        for i in range(TASKS):
            expected = F.cross_entropy(outputs[i], y[i], ignore_index=chosen)
            torch.testing.assert_close(losses[i], expected)
            kept = y[i] != chosen
            hits = [
                bool(o.argmax() == c)
                for o, c in zip(outputs[i].movedim(1, -1)[kept], y[i][kept], strict=True)
            ]
            assert float(right[i]) == pytest.approx(sum(hits) / len(hits), abs=1e-15)
    assert kept.double().mean() > 0 and (ignored is None or kept.double().mean() < 1)


def test_ignored_labels_in_a_whole_meta_gradient() -> None:
    """Leaving labels out is the same as leaving the examples out, where examples do not meet."""
    torch.manual_seed(0)
    model = nn.Linear(2, CLASSES).double()
    x = torch.randn(2, 1, N, 2, dtype=torch.float64)
    y = torch.arange(N).remainder(CLASSES).expand(1, N).clone()
    left_out = y.clone()
    left_out[0, 5:] = -100
    method = methods.maml(model, lr=0.3, steps=2)
    found = method.meta_gradient(Task(Batch(x[0], left_out), Batch(x[1], left_out)))
    short = Task(Batch(x[0, :, :5], y[:, :5]), Batch(x[1, :, :5], y[:, :5]))
    expected = method.meta_gradient(short)
    torch.testing.assert_close(found.grads, expected.grads)
    torch.testing.assert_close(found.stats, expected.stats)


WEIGHT = torch.tensor(
    [[1, 2, 3, 0, 1, 2, 1, 2], [2, 2, 2, 2, 2, 2, 2, 2], [3, 1, 1, 1, 1, 0, 0, 1]]
)


def repeated(v: Tensor) -> list[Tensor]:
    """The examples of each task, each as often as its weight says."""
    return [row.repeat_interleave(times, 0) for row, times in zip(v, WEIGHT, strict=True)]


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "mse", "l1", "huber"])
@pytest.mark.parametrize("more", [(), (3,)], ids=["flat", "pixels"])
def test_weights_of_examples_are_repeated_examples(name, more) -> None:
    loss, outputs = as_loss(name), scores(*more)
    y = labels(*more) if name == "cross_entropy" else scores(*more, seed=2).sigmoid().round()
    weighted = Batch(outputs, y, WEIGHT.double())
    many = list(zip(repeated(outputs), repeated(y), strict=True))
    for value in (loss, loss.metric.value):
        expected = [value(o[None], Batch(o[None], c[None])) for o, c in many]
        torch.testing.assert_close(value(outputs, weighted), torch.cat(expected))
        plain = value(outputs, Batch(outputs, y))
        assert not torch.allclose(value(outputs, weighted)[[0, 2]], plain[[0, 2]])
        torch.testing.assert_close(value(outputs, weighted)[1], plain[1])


@pytest.mark.parametrize("make", [methods.maml, methods.protonet, methods.fomaml])
def test_a_weighted_support_set_is_a_repeated_one(make) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()
    x = torch.randn(2, TASKS, N, 2, dtype=torch.float64)
    y = torch.arange(N).remainder(CLASSES).expand(TASKS, N)
    method = make(model)
    tasks = Task(Batch(x[0], y, WEIGHT.double()), Batch(x[1], y, WEIGHT.flip(1).double()))
    found = method.meta_gradient(tasks)
    turned = WEIGHT.flip(1)
    alone = [
        Task(
            Batch(sx[None], sy[None]),
            Batch(q.repeat_interleave(w, 0)[None], c.repeat_interleave(w, 0)[None]),
        )
        for sx, sy, q, c, w in zip(repeated(x[0]), repeated(y), x[1], y, turned, strict=True)
    ]
    expected = method.meta_gradient(alone)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.grads, expected.grads, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.stats, expected.stats)
    plain = method.meta_gradient(Task(Batch(x[0], y), Batch(x[1], y)))
    assert not torch.allclose(plain.loss, found.loss)


def test_who_cannot_weigh_examples_says_so() -> None:
    outputs, y = scores(), labels()
    weighted = Batch(outputs, y, torch.ones(TASKS, N, dtype=torch.float64))
    for loss in (nn.CrossEntropyLoss(), per_task(lambda o, c: o.flatten(1).sum(1))):
        with pytest.raises(ValueError, match=r"a loss that knows single examples.*cross_entropy"):
            as_loss(loss)(outputs, weighted)
    x = torch.randn(TASKS, N, 2)
    batch = Batch(x, labels(), torch.ones(TASKS, N))
    with pytest.raises(ValueError, match="fits all support examples alike"):
        methods.r2d2(nn.Linear(2, 5)).meta_gradient(Task(batch, batch))


def test_bad_weights_are_refused() -> None:
    x, y = torch.randn(TASKS, N, 2), labels()
    model = nn.Linear(2, CLASSES)
    for weight in (torch.ones(TASKS), torch.ones(TASKS, N, dtype=torch.int64)):
        batch = Batch(x, y, weight)
        with pytest.raises(ValueError, match="a weight for each example of support"):
            methods.maml(model).meta_gradient(Task(batch, batch))


def test_the_metric_may_be_another_one() -> None:
    def largest(outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.flatten(1).amax(1)

    torch.manual_seed(0)
    x = torch.randn(TASKS, N, 2)
    tasks = Task(Batch(x, x[..., :1]), Batch(x, x[..., :1]))
    learner = GradientLearner(nn.Linear(2, 1), GradientDescent(0.1, 1), inner="mse")
    for metric, name in (("mae", "mae"), (Metric("largest", True, largest), "largest")):
        method = Method(learner, Query("mse", metric=metric))
        stats = method.meta_gradient(tasks).stats
        assert set(stats) == {"loss", "query_loss", name}
        outputs = method.query_outputs(tasks)[-1]
        expected = (outputs - tasks.query.y).abs().mean((1, 2)) if name == "mae" else (
            outputs.amax((1, 2))
        )  # fmt: skip
        torch.testing.assert_close(stats[name], expected)
    with pytest.raises(ValueError, match="unknown metric 'r2'; use one of accuracy"):
        as_metric("r2")


def test_without_a_known_metric_the_loss_itself_is_reported() -> None:
    def cubed(outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).abs().pow(3).mean()

    found = as_loss(cubed)
    assert (found.labels, found.distance) == (None, None)
    assert (found.metric.name, found.metric.larger_is_better) == ("query_loss", False)
    outputs, y = scores(), scores(seed=3)
    value = found.metric.value(outputs, Batch(outputs, y))
    torch.testing.assert_close(value, (outputs - y).abs().pow(3).mean((1, 2)))
    said = as_loss(cubed, labels="values", metric="mse")
    assert (said.labels, said.metric.name) == ("values", "mse")


def test_outputs_that_are_not_numbers_are_never_right() -> None:
    outputs = torch.full((1, 2, 3), float("nan"))
    y = torch.zeros(1, 2, dtype=torch.int64)
    assert float(accuracy().value(outputs, Batch(outputs, y))) == 0
    bits = as_metric("bit_accuracy")
    assert float(bits.value(outputs, Batch(outputs, torch.zeros(1, 2, 3)))) == 0


def test_outputs_that_are_trees_are_read_by_their_logits() -> None:
    outputs, y = scores(), labels()
    loss = as_loss("cross_entropy")
    torch.testing.assert_close(
        loss({"logits": outputs, "hidden": 1 + outputs}, Batch(outputs, y)),
        loss(outputs, Batch(outputs, y)),
    )
    with pytest.raises(ValueError, match=r"one called `logits`, got \['class', 'box'\]|box"):
        loss({"class": outputs, "box": outputs}, Batch(outputs, y))


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "mse", "l1", "huber"])
def test_losses_go_to_other_processes(name) -> None:
    loss = pickle.loads(pickle.dumps(as_loss(name)))
    outputs = scores()
    y = labels() if name == "cross_entropy" else outputs.sigmoid()
    batch = Batch(outputs, y)
    torch.testing.assert_close(loss(outputs, batch), as_loss(name)(outputs, batch))
    torch.testing.assert_close(
        loss.metric.value(outputs, batch), as_loss(name).metric.value(outputs, batch)
    )


def test_prototypes_of_weighted_examples_are_weighted_means() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2, bias=False).double()
    x = torch.randn(1, 4, 2, dtype=torch.float64)
    y, w = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[1.0, 3.0, 1.0, 1.0]]).double()
    point = ProtoLearner(model).adapt(
        {f"model.{k}": p.detach() for k, p in model.named_parameters()}, Batch(x, y, w)
    )
    z = model(x[0]).detach()
    expected = torch.stack([(z[0] + 3 * z[1]) / 4, (z[2] + z[3]) / 2])
    torch.testing.assert_close(point.phi["prototypes"][0], expected)
