"""DropBlock: where the squares lie, how many there are, and that a mask can be drawn again."""

import pytest
import torch
from torch import nn

from innerloop import Batch, Task, methods
from innerloop.core import streams
from innerloop.models import DropBlock, RampedDropBlock, resnet12


def lost(layer: DropBlock, *shape: int, seed: int = 0) -> torch.Tensor:
    """Where the layer drops on ones of this shape, bool."""
    torch.manual_seed(seed)
    return layer(torch.ones(shape, dtype=torch.float64)) == 0


def covered(seeds: torch.Tensor, size: int) -> torch.Tensor:
    """The union of the squares with these upper left corners, by a loop."""
    n, c, rows, columns = seeds.shape
    out = torch.zeros(n, c, rows + size - 1, columns + size - 1, dtype=torch.bool)
    for i, k, row, column in seeds.nonzero().tolist():
        out[i, k, row : row + size, column : column + size] = True
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_squares_start_where_the_generator_says(size):
    gamma = 0.3 / size**2 * 9 * 7 / ((9 - size + 1) * (7 - size + 1))
    torch.manual_seed(0)
    seeds = torch.rand(4, 3, 9 - size + 1, 7 - size + 1) < gamma
    assert torch.equal(lost(DropBlock(0.3, size), 4, 3, 9, 7), covered(seeds, size))


def test_rate_and_scale():
    """The expected share lost: squares overlap, so it is 1 - (1 - gamma)^(squares over a pixel)."""
    layer = DropBlock(0.2, 3)
    gamma = 0.2 / 9 * 20 * 20 / (18 * 18)
    over = torch.nn.functional.conv_transpose2d(torch.ones(1, 1, 18, 18), torch.ones(1, 1, 3, 3))
    expected = float((1 - (1 - gamma) ** over).mean())
    share = torch.stack([lost(layer, 50, 10, 20, 20, seed=s).double().mean() for s in range(4)])
    assert abs(float(share.mean()) - expected) < 0.002
    assert 0.15 < expected < 0.2
    torch.manual_seed(3)
    out = layer(torch.ones(5, 4, 20, 20, dtype=torch.float64))
    torch.testing.assert_close(out.mean(), torch.tensor(1.0, dtype=torch.float64))
    assert len(out.unique()) == 2


def test_small_maps_cut_the_square():
    for side in (1, 2, 4):
        mask = lost(DropBlock(0.4, 5), 500, 4, side, side)
        whole = mask.flatten(2)
        assert torch.equal(whole.all(2), whole.any(2))  # a map is lost as a whole or not at all
        assert abs(float(mask.double().mean()) - 0.4) < 0.03
    assert lost(DropBlock(0.4, 3), 200, 2, 2, 6).any()


def test_everything_lost_is_zero_not_nan():
    torch.manual_seed(0)
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    outs = torch.stack([DropBlock(0.9, 1)(x) for _ in range(20)])
    assert torch.isfinite(outs).all() and (outs == 0).any()
    (grad,) = torch.autograd.grad(outs.sum(), x)
    assert torch.isfinite(grad).all()


def test_evaluation_and_rate_zero_do_nothing():
    x = torch.randn(2, 3, 8, 8)
    assert DropBlock(0.5, 3).eval()(x) is x
    assert DropBlock(0.0, 3)(x) is x


def test_the_ramp_scales_the_rate_and_is_saved():
    layer = RampedDropBlock(0.5, 2, until=1.0)
    before = torch.get_rng_state()
    assert not lost(layer, 50, 2, 6, 6).any()
    assert not torch.equal(before, torch.get_rng_state())  # drawn all the same
    layer.at_progress(0.5)
    half = lost(layer, 200, 2, 6, 6).double().mean()
    layer.at_progress(1.0)
    assert 0.45 < half / lost(layer, 200, 2, 6, 6).double().mean() < 0.62
    layer.at_progress(0.25)
    assert layer.state_dict()["reached"] == 0.25


def test_masks_are_those_of_the_named_stream():
    """A method replays the same mask, one task or two at a time, and a ramp is seen at once."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        RampedDropBlock(0.4, 2, until=1.0),
        nn.Flatten(),
        nn.Linear(72, 3),
    ).double()
    net[1].at_progress(1.0)
    x = torch.randn(2, 6, 1, 6, 6, dtype=torch.float64)
    y = (torch.arange(6) % 3).expand(2, 6)
    tasks = Task(Batch(x, y), Batch(x, y))
    found = []
    for chunk in (1, 2):
        torch.manual_seed(7)
        found.append(methods.maml(net, lr=0.1, steps=2, chunk=chunk).meta_gradient(tasks))
    for name, grad in found[0].grads.items():
        torch.testing.assert_close(grad, found[1].grads[name], rtol=0, atol=1e-13)
    method = methods.maml(net, lr=0.1, steps=0)
    with streams.common(11), streams.replay("model", "query", device=x.device):
        one = net(x[0])
    with streams.common(11):
        rows = method.learner.call(dict(net.named_parameters()), set(), x, "query", None)
    torch.testing.assert_close(rows[0], one, rtol=0, atol=0)
    net[1].at_progress(0.0)
    with streams.common(11):
        quiet = method.learner.call(dict(net.named_parameters()), set(), x, "query", None)
    torch.testing.assert_close(quiet[0], net.eval()(x[0]), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("numbers", "word"), [((1.0, 3), "drop"), ((-0.1, 3), "drop"), ((0.1, 0), "side")]
)
def test_bad_numbers_are_refused(numbers, word):
    with pytest.raises(ValueError, match=word):
        DropBlock(*numbers)


def test_a_ramped_layer_follows_the_progress_of_a_method():
    model = resnet12(2, size=32, widths=(2, 2, 3, 3), block_size=2, features="mean", ramp_until=0.5)
    layers = [m for m in model.modules() if isinstance(m, DropBlock)]
    assert [type(layer) for layer in layers] == [RampedDropBlock] * 2
    method = methods.maml(model, lr=0.1, steps=1)
    batch = Batch(torch.randn(1, 2, 3, 32, 32), torch.tensor([[0, 1]]))
    tasks = Task(batch, batch)
    for fraction, reached in ((0.0, 0.0), (0.2, 0.4), (0.5, 1.0), (0.9, 1.0), (0.25, 0.5)):
        method.value(tasks, progress=fraction)
        assert [float(layer.reached) for layer in layers] == pytest.approx([reached] * 2)
    plain = resnet12(2, size=32, widths=(2, 2, 3, 3), block_size=2, features="mean")
    assert not any(isinstance(m, RampedDropBlock) for m in plain.modules())
    with pytest.raises(ValueError, match="0 < until <= 1"):
        RampedDropBlock(until=0.0)
