"""Convolution and batch normalisation with second derivatives that cost what they should.

Double backward through PyTorch's own layers gives the same numbers at two to four times the price:
its convolution computes weight gradients with batch and channels exchanged, and its batch
normalisation falls apart into some twenty passes over the activations. Here both are closed forms.
They are made for one task at a time: no `vmap`, no forward mode.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_aten = torch.ops.aten
LONG = 2**14
"""Values per channel from which sums in a backward pass are made column by column."""


class Convolution(Function):
    """y = conv(x, w) + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, shape: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.shape = shape
        ctx.biased = b is not None
        return _convolve(x, w, b, shape)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        needed = (*ctx.needs_input_grad[:2], ctx.biased and ctx.needs_input_grad[2])
        return (*_ConvolutionBackward.apply(gy, x, w, ctx.shape, needed), None)


class _ConvolutionBackward(Function):
    """(gx, gw, gb), bilinear in gy and in w, x: every derivative is a convolution again."""

    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, x: Tensor, w: Tensor, shape: tuple[Any, ...], needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(gy, x, w)
        ctx.shape = shape
        ctx.set_materialize_grads(False)
        return _gradients(gy, x, w, shape, needed)

    @staticmethod
    def backward(
        ctx: Any, cx: Tensor | None, cw: Tensor | None, cb: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gy, x, w = ctx.saved_tensors
        to_gy, to_x, to_w = ctx.needs_input_grad[:3]
        c_gy = None
        if to_gy and cx is not None:
            c_gy = _convolve(cx, w, cb, ctx.shape)
        if to_gy and cw is not None:
            more = _convolve(x, cw, cb if c_gy is None else None, ctx.shape)
            c_gy = more if c_gy is None else c_gy + more
        if to_gy and c_gy is None and cb is not None:
            c_gy = cb.reshape(-1, *[1] * (gy.dim() - 2)).expand_as(gy)
        wanted = (to_x and cw is not None, to_w and cx is not None, False)
        c_x, c_w = None, None
        if any(wanted):
            other = x if cx is None else cx
            c_x, c_w, _ = _gradients(gy, other, w if cw is None else cw, ctx.shape, wanted)
        return c_gy, c_x, c_w, None, None


def _convolve(x: Tensor, w: Tensor, b: Tensor | None, shape: tuple[Any, ...]) -> Tensor:
    stride, padding, dilation, groups = shape
    none = (0,) * len(stride)
    return _aten.convolution(x, w, b, stride, padding, dilation, False, none, groups)


def _gradients(
    gy: Tensor, x: Tensor, w: Tensor, shape: tuple[Any, ...], needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """(gx, gw, gb) as far as they are needed."""
    stride, padding, dilation, groups = shape
    none, bias = (0,) * len(stride), [len(w)]
    # PyTorch sums the bias gradient over scattered memory where channels lie innermost: on the
    # first layer of a network that takes as long as the weight gradient.
    apart = needed[2] and not gy.is_contiguous()
    wanted = (*needed[:2], needed[2] and not apart)
    gx, gw, gb = _aten.convolution_backward(
        gy, x, w, bias, stride, padding, dilation, False, none, groups, wanted
    )
    return gx, gw, gy.sum((0, *range(2, gy.dim()))) if apart else gb


class Normalisation(Function):
    """y = w xhat + b, xhat = (x - mean) r, r = (var + eps)^(-1/2), per channel over the batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
        y, mean, r = _normalise(x, w, b, eps)
        ctx.save_for_backward(x, w, mean, r)
        ctx.eps, ctx.biased = eps, b is not None
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, w, mean, r = ctx.saved_tensors
        gx, gw, gb = _NormalisationBackward.apply(gy, x, w, mean, r, ctx.eps)
        return gx, gw if w is not None else None, gb if ctx.biased else None, None


class _NormalisationBackward(Function):
    """With B = sum gy and C = sum gy xhat over the N values of a channel, s = w r:

        gx = s (gy - (B + xhat C) / N),   gw = C,   gb = B.

    For cotangents X, c, b of the three, S0 = sum X, S1 = sum X xhat, A = sum X gy,
    Q = A - (S0 B + S1 C) / N and k = c - s S1 / N:

        gy:  s (X - (S0 + xhat S1) / N) + c xhat + b
        w:   r Q
        x:   r (k (gy - B/N - xhat C/N) - s C/N (X - S0/N - xhat S1/N)) - w Q r^2 xhat / N
    """

    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, x: Tensor, w: Tensor | None, mean: Tensor, r: Tensor, eps: float
    ) -> tuple[Tensor | None, ...]:
        gx, gw, gb = _pull(gy, x, w, mean, r, eps, [True, True, True])
        ctx.save_for_backward(gy, x, w, mean, r, gw, gb)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return gx, gw, gb

    @staticmethod
    def backward(
        ctx: Any, cx: Tensor | None, cw: Tensor | None, cb: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # Mean and deviation are constants here: a third derivative would be wrong in silence.
            raise NotImplementedError(
                "third derivatives of batch normalisation are not built (does the model's forward "
                "pass take gradients itself?): use chunk=2 or more, or another normalisation"
            )
        gy, x, w, mean, r, big_c, big_b = ctx.saved_tensors
        shape = (-1, *[1] * (x.dim() - 2))
        cw = torch.zeros_like(mean) if cw is None else cw
        cb = torch.zeros_like(mean) if cb is None else cb
        tilt = cw * r
        shift = torch.addcmul(cb, tilt, mean, value=-1).reshape(shape)
        if cx is None:
            along = _pull(gy, x, cw, mean, r, ctx.eps, [True, False, False])[0]
            flat = torch.addcmul(shift, x, tilt.reshape(shape))
            return flat, along, None, None, None, None
        c_gy, s1, s0 = _pull(cx, x, w, mean, r, ctx.eps, [True, True, True])
        assert c_gy is not None
        c_gy.addcmul_(x, tilt.reshape(shape)).add_(shift)
        zero, one = torch.zeros_like(mean), torch.ones_like(r)
        a = _pull(gy, cx, None, zero, one, ctx.eps, [False, True, False])[1]
        n = x.numel() // x.shape[1]
        q = torch.add(a, torch.addcmul(s0 * big_b, s1, big_c), alpha=-1 / n)
        s = r if w is None else w * r
        rn = r / n
        # c_x = k gy - drop cx + slope x + level, channel by channel.
        k = torch.addcmul(tilt, s1, s * rn, value=-1)
        drop = s * rn * big_c
        slope = torch.addcmul(drop * s1, k, big_c, value=-1).addcmul_(q, s * r, value=-1).mul_(rn)
        level = torch.addcmul(drop * s0, k, big_b, value=-1).div_(n).addcmul_(slope, mean, value=-1)
        c_x = torch.addcmul(level.reshape(shape), x, slope.reshape(shape))
        c_x.addcmul_(gy, k.reshape(shape)).addcmul_(cx, drop.reshape(shape), value=-1)
        return c_gy, c_x, None if w is None else r * q, None, None, None


def _normalise(
    x: Tensor, w: Tensor | None, b: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(w xhat + b, mean, r)."""
    if not _in_columns(x):
        return _aten.native_batch_norm(x, w, b, None, None, True, 0.0, eps)
    means, variances = _aten.batch_norm_update_stats(_columns(x), None, None, 0.0)
    spread, mean = torch.var_mean(means.view(x.shape[3], -1), 0, correction=0)
    r = variances.view(x.shape[3], -1).mean(0).add_(spread).add_(eps).rsqrt_()
    scale = r if w is None else w * r
    shift = torch.addcmul(torch.zeros_like(r) if b is None else b, mean, scale, value=-1)
    return torch.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1)), mean, r


def _pull(
    gy: Tensor,
    x: Tensor,
    w: Tensor | None,
    mean: Tensor,
    r: Tensor,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor | None, Tensor, Tensor]:
    """(s (gy - (B + xhat C) / N), C, B) in two passes over the activations."""
    if x.numel() < LONG * x.shape[1] or not (_in_columns(x) and _in_columns(gy)):
        return _aten.native_batch_norm_backward(gy, x, w, None, None, mean, r, True, eps, wanted)
    width = x.shape[3]
    _, big_c, big_b = _aten.native_batch_norm_backward(
        _columns(gy),
        _columns(x),
        None,
        None,
        None,
        mean.repeat(width),
        r.repeat(width),
        True,
        eps,
        [False, True, True],
    )
    big_c, big_b = (v.view(width, -1).sum(0) for v in (big_c, big_b))
    if not wanted[0]:
        return None, big_c, big_b
    n = x.numel() // x.shape[1]
    s = r if w is None else w * r
    slope = (s * r * big_c).div_(-n)
    level = torch.addcmul(s * big_b / -n, slope, mean, value=-1)
    gx = torch.addcmul(level.view(-1, 1, 1), x, slope.view(-1, 1, 1))
    return gx.addcmul_(gy, s.view(-1, 1, 1)), big_c, big_b


def _in_columns(x: Tensor) -> bool:
    """Whether PyTorch would sum these activations one after another in float32.

    Its CPU kernels for channels innermost do: on 84 x 84 maps that puts the variance off by 1e-4.
    Summed column by column, and then over the columns, the error is that of rounding.
    """
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.dim() == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _columns(x: Tensor) -> Tensor:
    """(n, c, h, w) with channels innermost as (1, w c, n h, 1): every pixel column by itself."""
    n, c, h, w = x.shape
    return x.as_strided((1, w * c, n * h, 1), (x.numel(), 1, w * c, w * c))
