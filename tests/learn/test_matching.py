"""Matching networks against the paper's sums written out, example by example."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from innerloop import Batch, Method, Task
from innerloop.doctor import central_differences
from innerloop.doctor.gradient import flat_gradient
from innerloop.estimate import Unrolled
from innerloop.learn import FullContext, MatchingLearner
from innerloop.methods import matching
from innerloop.models import mlp
from innerloop.objective import Query


def episodes(tasks=2, way=3, shot=2, queries=4):
    torch.manual_seed(1)
    y = torch.stack([torch.randperm(way * shot) % way for _ in range(tasks)])
    x = torch.randn(tasks, way * shot, 2, dtype=torch.float64)
    query = torch.randn(tasks, queries, 2, dtype=torch.float64)
    return Task(Batch(x, y), Batch(query, torch.arange(queries).expand(tasks, -1) % way))


def network():
    torch.manual_seed(0)
    return mlp(2, None, (4,), activation="tanh").double()


def probabilities(f, g, y, way, temperature):
    """p(k | x) for one query embedding f, support embeddings g and labels y."""
    scores = [math.exp(torch.cosine_similarity(f, gi, dim=0) / temperature) for gi in g]
    return [
        sum(s for s, yi in zip(scores, y, strict=True) if yi == k) / sum(scores) for k in range(way)
    ]


def full_context(context: FullContext, support, query):
    """g of every support feature and f of every query feature of one task, by torch's own cells."""

    def cell(part, inputs, x, h, c):
        weights = getattr(context, part)
        own = {"weight_ih": weights["input"], "weight_hh": weights["state"]}
        own |= {"bias_ih": weights["bias"], "bias_hh": torch.zeros_like(weights["bias"])}
        return functional_call(nn.LSTMCell(inputs, 4).double(), own, (x, (h, c)))

    n, zero = len(support), support.new_zeros(4)
    onward, reverse = [], []
    h = c = zero
    for i in range(n):
        h, c = cell("onward", 4, support[i], h, c)
        onward.append(h)
    h = c = zero
    for i in reversed(range(n)):
        h, c = cell("reverse", 4, support[i], h, c)
        reverse.insert(0, h)
    g = [onward[i] + reverse[i] + support[i] for i in range(n)]
    f = []
    for x in query:
        h = c = zero
        for _ in range(context.reads):
            a = torch.stack([h @ gi for gi in g]).softmax(0)
            r = sum(ai * gi for ai, gi in zip(a, g, strict=True))
            h, c = cell("query", 8, torch.cat([x, r]), h, c)
            h = h + x
        f.append(h)
    return f, g


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("reads", [None, 1, 3])
def test_outputs_are_the_papers_log_probabilities(reads, temperature):
    task, model = episodes(), network()
    method = matching(model, reads=reads, temperature=temperature)
    outputs = method.query_outputs(task)[0]
    for i in range(2):
        f, g = (model(b.x[i]).detach() for b in (task.query, task.support))
        if reads is not None:
            with torch.no_grad():
                f, g = full_context(method.learner.context, g, f)
        for j in range(4):
            expected = probabilities(f[j], g, task.support.y[i], 3, temperature)
            assert outputs[i, j].exp().tolist() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(outputs.exp().sum(-1), torch.ones(2, 4).double())


@pytest.mark.parametrize("reads", [None, 2])
def test_gradient_against_central_differences(reads):
    method, task = matching(network(), reads=reads), episodes()
    found = flat_gradient(method, task, Unrolled())
    directions = torch.randn(5, len(found), dtype=torch.float64)
    slopes = central_differences(method, task, directions, step=1e-6)
    torch.testing.assert_close(directions @ found, slopes, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("reads", [None, 2])
def test_adapted_module_predicts_as_the_method_does(reads):
    method, task = matching(network(), reads=reads, temperature=0.3, norm="support"), episodes()
    module = method.adapt(task.support.x[1], task.support.y[1])
    expected = method.query_outputs(task)[0, 1]
    torch.testing.assert_close(module(task.query.x[1]), expected, rtol=1e-12, atol=1e-12)
    assert not any(p.requires_grad and p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("reads", [None, 2])
def test_chunks_agree(reads):
    task = episodes(tasks=3)
    one, all_ = (matching(network(), reads=reads, chunk=c) for c in (1, 3))
    if reads:
        all_.learner.context.load_state_dict(one.learner.context.state_dict())
    a, b = one.meta_gradient(task).grads, all_.meta_gradient(task).grads
    for k in a:
        torch.testing.assert_close(a[k], b[k], rtol=1e-12, atol=1e-14)


def test_order_of_the_support_set_counts_in_full_context_only():
    task = episodes(tasks=1)
    turned = Task(Batch(*(t.flip(1) for t in task.support[:2])), task.query)
    plain, full = matching(network()), matching(network(), reads=2)
    torch.testing.assert_close(plain.query_outputs(turned), plain.query_outputs(task))
    assert not torch.allclose(full.query_outputs(turned), full.query_outputs(task), rtol=1e-4)


def test_any_number_of_classes_after_training():
    method = matching(network())
    assert method.query_outputs(episodes(way=5))[0].shape == (2, 4, 5)


def test_temperature_is_above_zero():
    with pytest.raises(ValueError, match="temperature > 0, got temperature=0"):
        matching(network(), temperature=0)


def test_full_context_needs_a_width():
    with pytest.raises(ValueError, match="width"):
        MatchingLearner(nn.Linear(2, 4), reads=2)
    learner = MatchingLearner(nn.Linear(2, 4).double(), reads=2, width=4)
    assert Method(learner, Query(), Unrolled(), name="matching").query_outputs(
        episodes()
    ).shape == (1, 2, 4, 3)
    with pytest.raises(ValueError, match="reads"):
        MatchingLearner(network(), reads=0)
