"""Task-robust weights: the two estimates by hand, the simplex, a saddle point that is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

import innerloop
from innerloop import Batch, Task
from innerloop.models import mlp
from innerloop.train.task_weights import TaskWeights, projected

LR = 0.1


def method(estimator=None, model=None, steps=1):
    torch.manual_seed(0)
    model = model or mlp(2, 1, (4,), activation="tanh").double()
    return innerloop.methods.maml(model, lr=LR, steps=steps, loss="mse", estimator=estimator)


def tasks(n=5):
    torch.manual_seed(1)
    x = torch.randn(2, n, 6, 2, dtype=torch.float64)
    y = x.prod(-1, keepdim=True)
    return Task(Batch(x[0], y[0]), Batch(x[1], y[1]))


def one_task(model, task, i):
    """Loss and exact meta-gradient of task i after one step, by plain autograd."""
    sx, sy, qx, qy = (t[i] for b in task for t in b[:2])
    theta = dict(model.named_parameters())
    inner = (functional_call(model, theta, (sx,)) - sy).square().mean()
    grads = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
    phi = {k: v - LR * g for (k, v), g in zip(theta.items(), grads, strict=True)}
    loss = (functional_call(model, phi, (qx,)) - qy).square().mean()
    return loss.detach(), torch.autograd.grad(loss, list(theta.values()))


def by_hand(model, task, group, p, q):
    n = len(group)
    loss, total = 0.0, None
    for i, g in enumerate(group.tolist()):
        each, grads = one_task(model, task, i)
        factor = p[g] / q[g] / n
        loss = loss + factor * each
        total = [factor * v + (total[j] if total else 0) for j, v in enumerate(grads)]
    return loss, total


@pytest.mark.parametrize("frequency", [None, [0.2, 0.5, 0.3]])
def test_the_weighted_gradient_is_that_of_a_plain_loop(frequency):
    built, task = method(), tasks()
    weights = TaskWeights("abc", lr=1.0, frequency=frequency)
    weights.p = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)
    group = torch.tensor([2, 0, 0, 1, 2])
    loss, expected = by_hand(
        built.learner.model, task, group, weights.p.tolist(), frequency or [1 / 3] * 3
    )
    found = built.meta_gradient(task, weight=weights.factors(group))
    torch.testing.assert_close(found.loss, loss, rtol=1e-12, atol=0)
    for g, e in zip(found.grads.values(), expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)
    singly = torch.stack([one_task(built.learner.model, task, i)[0] for i in range(5)])
    torch.testing.assert_close(found.stats["loss"], singly, rtol=1e-12, atol=0)


def test_equal_weights_are_the_method_itself():
    built, task = method(), tasks()
    weights = TaskWeights("ab", lr=1.0)
    found = built.meta_gradient(task, weight=weights.factors(torch.tensor([0, 1, 1, 0, 1])))
    plain = built.meta_gradient(task)
    torch.testing.assert_close(found.loss, plain.loss, rtol=1e-12, atol=0)
    for k, g in plain.grads.items():
        torch.testing.assert_close(found.grads[k], g, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("estimator", ["FirstOrder", "Unrolled", "Reptile"])
def test_every_estimator_is_weighted(estimator):
    built, task = method(getattr(innerloop.estimate, estimator)()), tasks(3)
    weights = TaskWeights("ab", lr=1.0)
    weights.p = torch.tensor([0.9, 0.1], dtype=torch.float64)
    group = torch.tensor([1, 0, 1])
    found = built.meta_gradient(task, weight=weights.factors(group))
    singly = [
        built.meta_gradient(Task(*(Batch(b.x[i : i + 1], b.y[i : i + 1]) for b in task)))
        for i in range(3)
    ]
    factors = [2 * 0.1 / 3, 2 * 0.9 / 3, 2 * 0.1 / 3]
    for k, g in found.grads.items():
        expected = sum(f * s.grads[k] for f, s in zip(factors, singly, strict=True))
        torch.testing.assert_close(g, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("frequency", [[1 / 3] * 3, [0.2, 0.5, 0.3]])
def test_both_estimates_are_unbiased(frequency):
    """Over all draws of two groups, each with its probability: sum_g p_g grad F_g, and F itself."""
    built, task = method(), tasks(3)
    p = [0.6, 0.1, 0.3]
    singly = [one_task(built.learner.model, task, g) for g in range(3)]
    gradient, losses = 0.0, torch.zeros(3, dtype=torch.float64)
    for drawn in itertools.product(range(3), repeat=2):
        chance = math.prod(frequency[g] for g in drawn)
        weights = TaskWeights("abc", lr=1.0, frequency=frequency, update="exponentiated")
        weights.p = torch.tensor(p, dtype=torch.float64)
        group = torch.tensor(drawn)
        taken = Task(*(Batch(b.x[group], b.y[group]) for b in task))
        found = built.meta_gradient(taken, weight=weights.factors(group))
        gradient = gradient + chance * next(iter(found.grads.values()))
        before = weights.p.log()
        weights.step(found.stats["loss"], group)
        # log p moves by the ascent, up to one number for all groups.
        moved = weights.p.log() - before
        ascent = torch.zeros(3, dtype=torch.float64)
        for g in drawn:
            ascent[g] += singly[g][0] / frequency[g] / 2
        torch.testing.assert_close(moved - moved[0], ascent - ascent[0], rtol=1e-9, atol=1e-12)
        losses += chance * ascent
    expected = sum(p[g] * singly[g][1][0] for g in range(3))
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(losses, torch.stack([s[0] for s in singly]), rtol=1e-10, atol=0)


def test_projection_is_the_nearest_point_of_the_simplex():
    """p is nearest if and only if no vertex lies beyond it: <v - p, vertex - p> <= 0."""
    generator = torch.Generator().manual_seed(0)
    for m in (2, 3, 10):
        for scale in (0.01, 1.0, 100.0):
            point = scale * torch.randn(m, generator=generator, dtype=torch.float64)
            p = projected(point)
            assert float(p.sum()) == pytest.approx(1.0, abs=1e-12) and bool((p >= 0).all())
            beyond = (torch.eye(m, dtype=torch.float64) - p) @ (point - p)
            assert float(beyond.max()) <= 1e-10 * scale
    inside = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    torch.testing.assert_close(projected(inside), inside)


class Constant(nn.Module):
    """theta, whatever the input: a group with the answer c has the loss (theta - c)^2."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return self.theta.expand(len(x), 1)


@pytest.mark.parametrize(("update", "lr"), [("projected", 0.01), ("exponentiated", 0.05)])
def test_the_saddle_point_of_three_parabolas(update, lr):
    """max over c in (0, 1, 4) of (theta - c)^2 is least at theta = 2, held there by 0 and 4."""
    built = method(model=Constant(), steps=0)
    x = torch.zeros(3, 1, 1, dtype=torch.float64)
    batch = Batch(x, torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64).reshape(3, 1, 1))
    task, group = Task(batch, batch), torch.arange(3)
    weights = TaskWeights(["zero", "one", "four"], lr=lr, update=update)
    optimizer = torch.optim.SGD(built.parameters(), lr=0.1)
    for _ in range(600):
        optimizer.zero_grad()
        losses = built.meta_gradient(task).stats["loss"]
        built.loss(task, weight=weights.factors(group)).backward()
        optimizer.step()
        weights.step(losses, group)
    assert float(built.learner.model.theta.detach()) == pytest.approx(2.0, abs=0.01)
    assert weights.p.tolist() == pytest.approx([0.5, 0.0, 0.5], abs=0.02)


def test_weights_are_kept_and_belong_to_their_groups():
    weights = TaskWeights("abc", lr=0.1)
    weights.step(torch.tensor([1.0, 2.0]), torch.tensor([0, 2]))
    again = TaskWeights("abc", lr=0.1)
    again.load_state_dict(weights.state_dict())
    assert torch.equal(again.p, weights.p) and not torch.equal(
        weights.p, TaskWeights("abc", lr=1).p
    )
    with pytest.raises(ValueError, match="other groups"):
        TaskWeights("abd", lr=0.1).load_state_dict(weights.state_dict())


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda w: TaskWeights("a", lr=1.0), "at least two groups"),
        (lambda w: TaskWeights("aa", lr=1.0), "different names"),
        (lambda w: TaskWeights("ab", lr=-1.0), "lr >= 0"),
        (lambda w: TaskWeights("ab", lr=1.0, update="other"), "projected"),
        (lambda w: TaskWeights("ab", lr=1.0, frequency=[0.5, 0.6]), "add up to 1"),
        (
            lambda w: method().meta_gradient(tasks(), weight=w.factors(torch.zeros(4).long())),
            "per task",
        ),
        (lambda w: w.factors(torch.full((5,), 2)), "0 to 1"),
        (lambda w: w.step(torch.tensor([1.0, math.nan]), torch.tensor([0, 1])), "finite"),
    ],
)
def test_bad_arguments_are_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call(TaskWeights("ab", lr=1.0))


def test_a_persistent_solver_remembers_all_groups_together():
    """One call for all tasks: its memory is the mean over all of them, whatever their weights."""
    model = mlp(2, 1, (4,)).double()
    built = innerloop.methods.reptile(model, lr=0.1, steps=2, loss="mse", persistent=True)
    weights = TaskWeights("ab", lr=1.0)
    weights.p = torch.tensor([0.9, 0.1], dtype=torch.float64)
    factors = weights.factors(torch.tensor([0, 1, 1, 0, 1]))
    torch.manual_seed(0)
    plain = built.meta_gradient(tasks())
    torch.manual_seed(0)
    found = built.meta_gradient(tasks(), weight=factors)
    assert found.memory
    for k, v in plain.memory.items():
        torch.testing.assert_close(found.memory[k], v, rtol=1e-12, atol=0)
