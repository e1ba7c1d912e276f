"""Shapes, scopes, initialisations and refusals of the backbones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from innerloop.models import Contextual, Conv4, fully_connected, mini_imagenet_conv4, mlp


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "shape", "outputs", "parameters"),
    [
        (mlp(1, 1), (3, 1), 1, 80 + 1640 + 41),
        (fully_connected(5), (4, 1, 28, 28), 5, None),
        (Conv4(5), (2, 1, 28, 28), 5, 112_261),
        (Conv4(5, features="flatten"), (2, 1, 28, 28), 5, None),
        (Conv4(5, pool="max"), (2, 1, 28, 28), 5, 112_261),
        (Conv4(20, channels=3, size=27, filters=8, features="flatten"), (2, 3, 27, 27), 20, None),
        (mini_imagenet_conv4(5), (2, 3, 84, 84), 5, 32_901),
        # Reptile on miniImageNet keeps the odd row: 6 x 6 x 32 features in place of 5 x 5 x 32.
        (
            Conv4(5, channels=3, size=84, filters=32, pool="max-same", features="flatten"),
            (2, 3, 84, 84),
            5,
            32_901 + 5 * 32 * (36 - 25),
        ),
        (Conv4(5, filters=48, pool="max", slope=0.01), (2, 1, 28, 28), 5, None),
        (Contextual(mlp(1, 2), 5), (3, 1), 2, None),
    ],
)
def test_shapes_and_sizes(model, shape, outputs, parameters):
    assert model(torch.randn(shape)).shape == (shape[0], outputs)
    assert parameters is None or count(model) == parameters


def test_body_and_head_are_named_and_partition_the_weights():
    for model in (mlp(1, 1), Conv4(5), mini_imagenet_conv4(5), fully_connected(5)):
        names = {k.split(".")[0] for k, _ in model.named_parameters()}
        assert names == {"body", "head"}
        assert [k for k, _ in model.named_parameters() if k.startswith("head.")] == [
            "head.weight",
            "head.bias",
        ]


@pytest.mark.parametrize("build", [Conv4, lambda n: mlp(784, n), fully_connected])
def test_no_head_gives_the_features(build):
    model = build(None)
    x = torch.randn(2, 1, 28, 28)
    assert model(x).shape == (2, model.features)
    assert torch.equal(model(x), model.body(x))


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "layer", None])
def test_backbones_keep_no_statistics(norm):
    model = Conv4(5, filters=4, norm=norm)
    assert not list(model.buffers())
    assert torch.isfinite(model(torch.randn(3, 1, 28, 28))).all()


def test_running_statistics_on_request():
    assert dict(Conv4(5, track_running_stats=True).named_buffers())
    assert dict(mlp(3, 2, norm=True, track_running_stats=True).named_buffers())


def test_strided_padding_is_the_mirror_image_of_tensorflow_same():
    """Flip the images and the kernels, pad right and bottom: the same features come out."""
    torch.manual_seed(0)
    model = Conv4(5, filters=6, features="flatten").double()
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    z = x.flip(-1, -2)
    for conv, norm, _ in model.body[:4]:
        both = 1 if z.shape[-1] % 2 else 0
        z = F.pad(z, (both, 1, both, 1))
        z = norm(F.conv2d(z, conv.weight.flip(-1, -2), conv.bias, stride=2)).relu()
    torch.testing.assert_close(z.flip(-1, -2).flatten(1), model.body(x), rtol=0, atol=1e-12)


def test_truncated_normal_initialisation():
    torch.manual_seed(0)
    model = mlp(1, 1, init="truncated_normal")
    weights = model.body[3].weight
    assert weights.abs().max() <= 0.02
    assert 0.0080 < weights.std() < 0.0095  # a normal cut at 2 std has 0.88 of its deviation
    assert all(not p.any() for k, p in model.named_parameters() if k.endswith("bias"))


def test_conv_initialisations():
    torch.manual_seed(0)
    xavier, maml = Conv4(5, init="xavier"), Conv4(5, init="maml")
    bound = (6 / (9 * 64 + 9 * 64)) ** 0.5
    for model in (xavier, maml):
        weight = model.body[1][0].weight
        assert 0.99 * bound < weight.abs().max() <= bound
        assert not model.body[0][0].bias.any()
    assert 0.9 < maml.head.weight.std() < 1.1 and not maml.head.bias.any()
    assert xavier.head.weight.std() < 0.3
    imaml = Conv4(5, init="imaml").body[1][0]
    assert 1.73 * 0.99 * bound < imaml.weight.abs().max() <= 1.73 * bound
    assert imaml.bias.min() >= 0 and 0.04 < imaml.bias.max() <= 0.05


def test_slope_is_the_activation_below_zero():
    torch.manual_seed(0)
    leaky, plain = Conv4(5, slope=0.01, filters=4, blocks=1), Conv4(5, filters=4, blocks=1)
    plain.load_state_dict(leaky.state_dict())
    x = torch.randn(2, 1, 28, 28)
    before = plain.body[0][1](plain.body[0][0](x))
    torch.testing.assert_close(leaky.body[0](x), before.clamp(min=0) + 0.01 * before.clamp(max=0))
    torch.testing.assert_close(plain.body[0](x), before.clamp(min=0))


def test_stacked_weights_run_under_vmap():
    for model, x in (
        (Contextual(mlp(1, 1), 2), torch.randn(4, 5, 1)),
        (Conv4(3, filters=2), torch.randn(4, 5, 1, 28, 28)),
    ):
        stacked = {k: v.expand(4, *v.shape) for k, v in model.named_parameters()}
        out = torch.func.vmap(lambda p, x, m=model: torch.func.functional_call(m, p, (x,)))(
            stacked, x
        )
        torch.testing.assert_close(out, torch.stack([model(xi) for xi in x]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: mlp(0, 1), "at least 1"),
        (lambda: mlp(1, None, hidden=()), "hidden"),
        (lambda: mlp(1, 1, activation="step"), "relu"),
        (lambda: mlp(1, 1, init="xavier"), "truncated_normal"),
        (lambda: mlp(1, 1, init="truncated_normal", std=0.0), "positive"),
        (lambda: mlp(1, 1, norm="instance"), "layer"),
        (lambda: mlp(1, 1, norm="bach"), "batch"),
        (lambda: mlp(1, 1, norm="layer", track_running_stats=True), "running"),
        (lambda: Conv4(5, pool="mean"), "max-same"),
        (lambda: Conv4(5, features="max"), "flatten"),
        (lambda: Conv4(5, init="he"), "xavier"),
        (lambda: Conv4(0), "at least 1"),
        (lambda: Conv4(5, size=8, pool="max"), "16"),
    ],
)
def test_bad_arguments_are_refused_with_the_fix(build, word):
    with pytest.raises(ValueError, match=word):
        build()
