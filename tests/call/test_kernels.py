"""The closed forms give the derivatives of PyTorch's own layers, first and second."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from innerloop.call import kernels
from innerloop.call.kernels import Convolution, Normalisation
from innerloop.call.swap import closed_form


def draw(*shape: int, innermost: bool = False) -> Tensor:
    x = torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    )
    if innermost:
        x = x.to(memory_format=torch.channels_last)
    return x.requires_grad_()


@pytest.mark.parametrize(
    "stride, padding, dilation, groups", [(1, 0, 1, 1), (2, 1, 1, 2), (1, 2, 2, 1)]
)
@pytest.mark.parametrize("innermost", [True, False])
def test_convolution(
    stride: int, padding: int, dilation: int, groups: int, innermost: bool
) -> None:
    shape = ((stride,) * 2, (padding,) * 2, (dilation,) * 2, groups)
    x = draw(2, 4, 6, 5, innermost=innermost)
    w, b = draw(6, 4 // groups, 3, 3, innermost=innermost), draw(6)

    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return Convolution.apply(x, w, b, shape)

    torch.testing.assert_close(ours(x, w, b), F.conv2d(x, w, b, *shape))
    assert gradcheck(ours, (x, w, b)) and gradgradcheck(ours, (x, w, b))


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 1), (2, 1, 0)])
def test_max_pooling(kernel: int, stride: int, padding: int) -> None:
    layer = nn.MaxPool2d(kernel, stride, padding, ceil_mode=True)
    swapped = closed_form(layer)
    x = draw(2, 3, 5, 4, innermost=True)
    torch.testing.assert_close(swapped(x), layer(x))
    assert "MaxPooling" in swapped(x).grad_fn.name()
    assert gradcheck(swapped, x) and gradgradcheck(swapped, x)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("innermost", [True, False])
def test_normalisation(affine: bool, innermost: bool) -> None:
    x = draw(3, 4, 5, 2, innermost=innermost)
    own = (draw(4), draw(4) if affine else None) if affine else ()

    def ours(x: Tensor, *own: Tensor) -> Tensor:
        return Normalisation.apply(x, *(own or (None, None)), 1e-3)

    expected = F.batch_norm(x, None, None, *own, training=True, eps=1e-3)
    torch.testing.assert_close(ours(x, *own), expected)
    assert gradcheck(ours, (x, *own)) and gradgradcheck(ours, (x, *own))


@pytest.mark.parametrize("part", [0, 1])
def test_derivatives_that_reach_only_some_inputs(part: int) -> None:
    """A cotangent of the weight's gradient alone, and of the input's alone."""
    x, w, b = draw(3, 4, 5, 5), draw(4), draw(4)
    ours = torch.autograd.grad(
        Normalisation.apply(x, w, b, 1e-3).sin().sum(), (x, w), create_graph=True
    )
    plain = F.batch_norm(x, None, None, w, b, training=True, eps=1e-3)
    theirs = torch.autograd.grad(plain.sin().sum(), (x, w), create_graph=True)
    a = torch.autograd.grad(ours[part].square().sum(), (x, w, b))
    e = torch.autograd.grad(theirs[part].square().sum(), (x, w, b))
    torch.testing.assert_close(a, e)


def test_statistics_with_channels_innermost_are_those_of_double_precision() -> None:
    """PyTorch's own kernel for this layout sums in float32 one by one: off by 1e-4 here."""
    x = (2 * draw(25, 8, 84, 84) + 1).detach()
    exact = F.batch_norm(x, None, None, training=True)
    single = x.float().to(memory_format=torch.channels_last).requires_grad_()
    y = Normalisation.apply(single, None, None, 1e-5)
    assert (y.double() - exact).abs().max() < 5e-6
    # The backward pass sums the same way, over more values than `LONG`.
    assert single.numel() // 8 > kernels.LONG
    direction = draw(25, 8, 84, 84).detach()
    (gx,) = torch.autograd.grad(y, single, direction.float())
    x.requires_grad_()
    (expected,) = torch.autograd.grad(F.batch_norm(x, None, None, training=True), x, direction)
    assert (gx.double() - expected).abs().max() < 5e-6


def test_only_layers_that_are_known_exactly_are_swapped() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        Own(2, 2, 3),
        nn.BatchNorm2d(2),
        nn.ConvTranspose2d(2, 2, 3),
    )
    assert [i for i, layer in enumerate(model) if closed_form(layer) is not None] == [0, 4]


def test_a_third_derivative_is_refused() -> None:
    x, w, b = draw(2, 2, 3, 3), draw(2), draw(2)
    y = Normalisation.apply(x, w, b, 1e-3).pow(3).sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(g.square().sum(), x, create_graph=True)


@pytest.mark.parametrize("absent", ["weight", "bias"])
def test_half_an_affine_pair(absent: str) -> None:
    w = None if absent == "weight" else draw(4)
    b = None if absent == "bias" else draw(4)
    own = [v for v in (w, b) if v is not None]
    x = draw(3, 4, 5, 2)
    ours = torch.autograd.grad(Normalisation.apply(x, w, b, 1e-3).sin().sum(), [x, *own])
    plain = F.batch_norm(x, None, None, w, b, training=True, eps=1e-3)
    torch.testing.assert_close(ours, torch.autograd.grad(plain.sin().sum(), [x, *own]))
