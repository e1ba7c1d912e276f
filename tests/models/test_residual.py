"""ResNet-12, wide residual networks and the network of R2-D2: sizes of the papers, second order."""

import pytest
import torch
from torch import nn

import innerloop
from innerloop import Batch, Task, methods
from innerloop.models import DropBlock, r2d2_net, resnet12, wide_resnet
from innerloop.solve import GradientDescent
from innerloop.testing import Case, check_case


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("build", "parameters", "features"),
    [
        (lambda: resnet12(None), 12_424_320, 16_000),
        (lambda: resnet12(5), 12_424_320 + 5 * 16_000 + 5, 16_000),
        (lambda: resnet12(None, features="mean"), 12_424_320, 640),
        (lambda: resnet12(None, size=32, block_size=2), 12_424_320, 2_560),
        (
            lambda: resnet12(None, widths=(64, 128, 256, 512), features="mean"),
            7_996_800,
            512,
        ),
        (
            lambda: resnet12(None, widths=(64, 128, 256, 512), last_skip=False),
            7_996_800 - 256 * 512 - 2 * 512,
            12_800,
        ),
        (lambda: wide_resnet(10), 36_479_194, 640),
        (lambda: wide_resnet(10, depth=16, width=4), 2_748_890, 256),
        (lambda: r2d2_net(None), 2_605_056, 31_104 + 41_472),
        (lambda: r2d2_net(None, size=32), 2_605_056, 3_456 + 4_608),
        (lambda: r2d2_net(None, size=28, channels=1), 2_603_328, 1_536 + 2_048),
        (lambda: r2d2_net(None, widths=(64,) * 4), 113_088, 5_184 * 2),
        (lambda: r2d2_net(None, size=28, widths=(64,) * 4), 113_088, 256 * 2),
    ],
)
def test_sizes_of_the_papers(build, parameters, features):
    with torch.device("meta"):
        model = build()
    assert count(model) == parameters
    assert model.features == features


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda n: resnet12(n), 84),
        (lambda n: resnet12(n, size=32, features="mean"), 32),
        (lambda n: wide_resnet(n), 84),
        (lambda n: r2d2_net(n), 84),
    ],
)
def test_shapes_at_full_size(build, size):
    with torch.device("meta"):
        x = torch.empty(3, 3, size, size)
        model, bare = build(5), build(None)
    assert model(x).shape == (3, 5)
    assert bare(x).shape == (3, bare.features)
    assert {k.split(".")[0] for k, _ in model.named_parameters()} == {"body", "head"}


def test_maps_of_resnet12_halve_four_times():
    with torch.device("meta"):
        model, x = resnet12(5), torch.empty(1, 3, 84, 84)
    sides = []
    for block in model.body[:4]:
        x = block(x)
        sides.append((x.shape[1], x.shape[-1]))
    assert sides == [(64, 42), (160, 21), (320, 10), (640, 5)]


def test_where_resnet12_drops():
    net = resnet12(5, size=32, widths=(2, 2, 2, 2), drop=0.2, block_size=2)
    kinds = [type(block.drop) for block in net.body[:4]]
    assert kinds == [nn.Dropout, nn.Dropout, DropBlock, DropBlock]
    assert (net.body[0].drop.p, net.body[3].drop.drop, net.body[3].drop.size) == (0.2, 0.2, 2)
    still = resnet12(5, size=32, widths=(2, 2, 2, 2), drop=0.0)
    assert not any(isinstance(m, nn.Dropout | DropBlock) for m in still.modules())


def test_a_residual_block_is_the_sum_it_says():
    """Against the equations, written out on the block's own weights."""
    torch.manual_seed(0)
    block = resnet12(5, size=16, widths=(3, 2, 2, 2), drop=0.0).double().body[0]
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)

    def norm(z, layer):
        mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), correction=0, keepdim=True)
        scaled = (z - mean) / (var + layer.eps).sqrt()
        return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]

    def leaky(z):
        return torch.where(z > 0, z, 0.1 * z)

    conv = torch.nn.functional.conv2d
    y = leaky(norm(conv(x, block.conv1.weight, padding=1), block.norm1))
    y = leaky(norm(conv(y, block.conv2.weight, padding=1), block.norm2))
    y = norm(conv(y, block.conv3.weight, padding=1), block.norm3)
    y = leaky(y + norm(conv(x, block.shortcut[0].weight), block.shortcut[1]))
    expected = y.unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_initial_weights_by_fan_out():
    torch.manual_seed(0)
    for conv in (resnet12(5).body[2].conv2, wide_resnet(5, depth=10).body[3].conv2):
        expected = (2 / (9 * conv.out_channels)) ** 0.5
        assert abs(conv.weight.std().item() / expected - 1) < 0.01
        assert conv.bias is None


SMALL = {
    "resnet12": (
        lambda: resnet12(3, size=16, widths=(2, 3, 3, 4), drop=0.2, block_size=2),
        (3, 16, 16),
    ),
    "boil": (
        lambda: resnet12(
            3, size=16, widths=(2, 2, 3, 3), features="mean", drop=0.0, last_skip=False
        ),
        (3, 16, 16),
    ),
    "wide resnet": (lambda: wide_resnet(3, depth=10, width=1, drop=0.2), (3, 8, 8)),
    "r2d2": (lambda: r2d2_net(3, size=16, widths=(2, 3, 3, 3), last_activation=False), (3, 16, 16)),
    "no norm": (lambda: resnet12(3, size=16, widths=(2, 2, 2, 2), norm=None), (3, 16, 16)),
    "group norm": (lambda: wide_resnet(3, depth=10, width=1, norm="group"), (3, 8, 8)),
}


@pytest.mark.parametrize("name", SMALL)
def test_second_order_and_batching(name):
    """`check` compares double backward with finite differences; chunks agree on random masks."""
    build, shape = SMALL[name]
    torch.manual_seed(0)
    model = build().double()
    x = torch.randn(2, 6, *shape, dtype=torch.float64)
    y = (torch.arange(6) % 3).expand(2, 6)
    assert innerloop.check(model, "cross_entropy", (x[0], y[0])).ok
    tasks = Task(Batch(x, y), Batch(x.flip(1), y.flip(1)))
    found = []
    for chunk in (1, 2):
        torch.manual_seed(5)
        found.append(methods.maml(model, lr=0.1, steps=2, chunk=chunk).meta_gradient(tasks))
    for key, grad in found[0].grads.items():
        torch.testing.assert_close(grad, found[1].grads[key], rtol=0, atol=1e-12)
    assert torch.isfinite(methods.protonet(model).meta_gradient(tasks).loss)


def test_a_residual_block_conforms():
    """The whole conformance suite on the two blocks that end in DropBlock."""

    def model() -> nn.Module:
        net = resnet12(3, channels=1, size=16, widths=(1, 1, 1, 2), drop=0.3, block_size=2)
        return nn.Sequential(net.body[2:], net.head)

    case = Case(
        "residual blocks", model, lambda: GradientDescent(0.2, 2), shape=(1, 4, 4), step=1e-6
    )
    found = check_case(case)
    assert not found.failures() and found.parameters <= 200


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: resnet12(5, size=15), "16"),
        (lambda: resnet12(5, widths=(1, 2, 3)), "four widths"),
        (lambda: resnet12(0), "at least 1"),
        (lambda: resnet12(5, features="max"), "flatten"),
        (lambda: resnet12(5, drop=1.0), "drop"),
        (lambda: resnet12(5, block_size=0), "side"),
        (lambda: wide_resnet(5, depth=27), "28"),
        (lambda: wide_resnet(5, depth=4), "10"),
        (lambda: wide_resnet(5, width=0), "at least 1"),
        (lambda: wide_resnet(5, drop=-1.0), "probability"),
        (lambda: r2d2_net(5, size=15), "16"),
        (lambda: r2d2_net(5, widths=(1, 2)), "four"),
        (lambda: r2d2_net(5, drop=1.5), "probability"),
        (lambda: r2d2_net(0), "at least 1"),
    ],
)
def test_bad_arguments_are_refused_with_the_fix(build, word):
    with torch.device("meta"), pytest.raises(ValueError, match=word):
        build()
