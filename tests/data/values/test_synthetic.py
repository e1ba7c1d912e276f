import math

import pytest
import torch

from innerloop.core.streams import generator
from innerloop.core.types import Batch
from innerloop.data.values.synthetic import LinearGaussian, Sine


def test_sine_follows_the_published_ranges():
    source = Sine(shot=5, queries=10, dtype=torch.float64)
    task, curves = source.sample_with_curves(generator(0, "sine"), 4000)
    assert task.support.x.shape == (4000, 5, 1) and task.query.y.shape == (4000, 10, 1)
    for value, low, high in (
        (curves.amplitude, 0.1, 5.0),
        (curves.phase, 0.0, math.pi),
        (task.query.x, -5.0, 5.0),
    ):
        assert low <= value.min() < low + 0.01 and high - 0.01 < value.max() <= high
        assert abs(value.mean() - (low + high) / 2) < 0.05 * (high - low)
    for batch in task:
        expected = curves.amplitude[:, None] * torch.sin(batch.x - curves.phase[:, None])
        assert torch.allclose(batch.y, expected, atol=1e-14)


def test_a_frequency_that_varies():
    """The family of Meta-SGD: y = A sin(w x + b), w from U[0.8, 1.2], b from U[0, pi]."""
    source = Sine(frequency=(0.8, 1.2), phase=(-math.pi, 0.0), dtype=torch.float64)
    task, curves = source.sample_with_curves(generator(0, "sine"), 4000)
    assert 0.8 <= curves.frequency.min() < 0.801 and 1.199 < curves.frequency.max() <= 1.2
    assert abs(curves.frequency.mean() - 1.0) < 0.01
    b = -curves.phase
    assert 0 <= b.min() < 0.01 and math.pi - 0.01 < b.max() <= math.pi
    for batch in task:
        angle = curves.frequency[:, None] * batch.x + b[:, None]
        assert torch.allclose(batch.y, curves.amplitude[:, None] * torch.sin(angle), atol=1e-13)
    assert source.describe()["frequency"] == "0.8..1.2"


def test_a_range_of_frequencies_leaves_the_other_draws_alone():
    one, many = Sine(), Sine(frequency=(0.5, 2.0))
    (a, waves), (b, others) = (s.sample_with_curves(generator(1, "x"), 5) for s in (one, many))
    assert torch.equal(a.support.x, b.support.x) and torch.equal(a.query.x, b.query.x)
    assert torch.equal(waves.amplitude, others.amplitude) and torch.equal(waves.phase, others.phase)
    assert (waves.frequency == 1).all() and not torch.equal(a.query.y, b.query.y)


def test_sine_is_a_function_of_the_generator():
    source = Sine(shot=3, queries=4)
    a, b = (source.sample(generator(1, "x"), 5) for _ in range(2))
    c = source.sample(generator(2, "x"), 5)
    assert torch.equal(a.support.x, b.support.x) and torch.equal(a.query.y, b.query.y)
    assert not torch.equal(a.support.x, c.support.x)
    assert a.support.x.dtype == torch.float32


def test_sine_can_be_moved_out_of_its_range():
    source = Sine(amplitude=(5.0, 10.0), phase=(math.pi, 2 * math.pi))
    _, curves = source.sample_with_curves(generator(0), 100)
    assert curves.amplitude.min() >= 5 and curves.phase.min() >= math.pi
    assert source.describe()["amplitude"] == "5..10"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(shot=0), "support set would be empty"),
        (dict(queries=0), "query set would be empty"),
        (dict(x=(1.0, -1.0)), r"x must be a finite range \(low, high\), got \(1.0, -1.0\)"),
        (dict(phase=(0.0, math.inf)), "phase must be a finite range"),
        (dict(frequency=(1.2, 0.8)), "frequency must be a finite range"),
    ],
)
def test_sine_refuses_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Sine(**settings)


def linear(**changes):
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return LinearGaussian(**{**dict(mean=mean, shot=6, queries=8), **changes})


def test_without_noise_the_optimum_is_the_true_weight():
    task, weight = linear().sample_with_weights(generator(0), 7)
    assert task.support.x.shape == (7, 6, 3) and task.support.y.shape == (7, 6, 1)
    assert torch.allclose(LinearGaussian.optimum(task.support), weight, atol=1e-10)


def test_the_optimum_is_stationary_with_noise_and_penalty():
    task = linear(noise=0.3).sample(generator(0), 4)
    centre = torch.tensor([0.2, 0.1, -0.4], dtype=torch.float64)
    w = LinearGaussian.optimum(task.support, penalty=0.7, centre=centre).requires_grad_()
    residual = task.support.y - task.support.x @ w.unsqueeze(-1)
    loss = residual.square().mean((1, 2)) + 0.35 * (w - centre).square().sum(1)
    (slope,) = torch.autograd.grad(loss.sum(), w)
    assert slope.abs().max() < 1e-12
    task_free = LinearGaussian.optimum(task.support)
    assert (task_free - w).abs().max() > 1e-2


def test_the_mean_is_the_best_start_for_one_gradient_step():
    source = linear(noise=0.2, spread=0.8)
    task = source.sample(generator(3), 20000)

    def outer(start):
        w = start.expand(20000, 3).unsqueeze(-1)
        slope = 2 / 6 * task.support.x.mT @ (task.support.x @ w - task.support.y)
        return (task.query.y - task.query.x @ (w - 0.1 * slope)).square().mean()

    at_mean = outer(source.mean)
    for move in torch.eye(3, dtype=torch.float64):
        assert outer(source.mean + 0.3 * move) > at_mean
        assert outer(source.mean - 0.3 * move) > at_mean


def test_weights_are_spread_around_the_mean():
    source = linear(spread=0.5)
    _, weight = source.sample_with_weights(generator(0), 20000)
    assert torch.allclose(weight.mean(0), source.mean, atol=0.02)
    assert torch.allclose(weight.std(0), torch.full((3,), 0.5, dtype=torch.float64), atol=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(mean=torch.zeros(2, 2)), r"shape \(d,\)"),
        (dict(mean=torch.zeros(2, dtype=torch.int64)), "floating point"),
        (dict(spread=-1.0), "spread and noise must be >= 0"),
        (dict(shot=0), "support set would be empty"),
    ],
)
def test_linear_refuses_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        linear(**settings)


def test_an_undetermined_optimum_is_refused():
    batch = Batch(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match="2 examples do not determine 3 weights"):
        LinearGaussian.optimum(batch)
