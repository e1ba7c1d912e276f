"""Inner solvers that step along a gradient. Gradient in, step out; they never call autograd."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ..core import trees
from ..core.contract import Cotangents, Memory, Point, Program, Refusal, View
from ..core.types import Params
from .rates import Fixed, Rate, as_rate
from .solver import Solver


class _Rated(Solver):
    """A solver whose step is the rate times a direction."""

    def __init__(self, lr: float | Rate, steps: int, tolerance: float | None):
        super().__init__(steps, tolerance)
        self.rate = as_rate(lr)

    def _create(self, shapes: dict[str, torch.Size], dtype: torch.dtype) -> None:
        if self.rate.bound and any(True for _ in self.rate.parameters()):
            raise ValueError(
                f"this {type(self.rate).__name__} already belongs to another solver, which learns "
                "its values; give each solver a rate of its own"
            )
        self.rate.bind(shapes, self.steps, dtype)
        self.rate.bound = True

    def _moved(self, hyper: Params, t: int, phi: Params, direction: Params) -> Params:
        """phi - rate * direction, tensor by tensor."""
        rates = {k.removeprefix("rate."): v for k, v in hyper.items()}
        moved = {}
        for k, v in phi.items():
            rate = self.rate.at(rates, t, k)
            moved[k] = (
                v - rate * direction[k]
                if isinstance(rate, Tensor)
                else torch.add(v, direction[k], alpha=-rate)  # half the passes, here and backwards
            )
        return moved

    def key(self, t: int) -> Hashable:
        return self.rate.key(t)

    def _told(self, name: str) -> str:
        return f"{super()._told(name)}, rate {self.rate.describe()}"


class GradientDescent(_Rated):
    """phi' = phi - rate * g. Source: Finn et al. 2017, eq. 1."""

    def __init__(self, lr: float | Rate, steps: int, *, tolerance: float | None = None):
        super().__init__(lr, steps, tolerance)

    def init(self, phi: Params) -> Params:
        return {}

    key = _Rated.key

    def step(self, hyper: Params, point: Point, view: View) -> Point:
        t, phi, _ = point
        return Point(t + 1, self._moved(hyper, t, phi, view.grad), {})

    def pull(self, hyper: Params, point: Point, view: View, lam: Params, mu: Params) -> Cotangents:
        """(lam, -rate lam): the factor (I - rate H) of the product, once u meets the Hessian."""
        if not isinstance(self.rate, Fixed):
            return super().pull(hyper, point, view, lam, mu)
        u = torch._foreach_mul(list(lam.values()), -self.rate.lr) if lam else []
        return Cotangents(lam, dict(zip(lam, u, strict=True)), None, {}, {})

    def pull_constant(self, lam: Params, mu: Params) -> tuple[Params, Params] | None:
        return (lam, mu) if isinstance(self.rate, Fixed) else None

    def describe(self) -> str:
        return self._told("gradient descent")


class Momentum(_Rated):
    """m' = beta m + g; phi' = phi - rate * m', or with Nesterov: phi - rate * (g + beta m').

    The conventions are those of `torch.optim.SGD(momentum=beta, nesterov=...)`.
    """

    def __init__(
        self,
        lr: float | Rate,
        steps: int,
        *,
        beta: float = 0.9,
        nesterov: bool = False,
        tolerance: float | None = None,
    ):
        super().__init__(lr, steps, tolerance)
        if not 0 <= beta < 1:
            raise ValueError(f"expected a momentum in [0, 1), got beta={beta!r}")
        self.beta = beta
        self.nesterov = nesterov

    def init(self, phi: Params) -> Params:
        return trees.zeros_like(phi)

    key = _Rated.key

    def step(self, hyper: Params, point: Point, view: View) -> Point:
        t, phi, state = point
        grad = view.grad
        momentum = {k: self.beta * state[k] + grad[k] for k in phi}
        ahead = {k: grad[k] + self.beta * momentum[k] for k in phi} if self.nesterov else momentum
        return Point(t + 1, self._moved(hyper, t, phi, ahead), momentum)

    def describe(self) -> str:
        return self._told(f"{'Nesterov' if self.nesterov else 'momentum'} {self.beta:g}")


class Adam(_Rated):
    """Adam that can be differentiated where a gradient entry is exactly zero.

    m' = b1 m + (1-b1) g, v' = b2 v + (1-b2) g^2, phi' = phi - rate * m^ / sqrt(v^ + eps^2).

    The derivative of sqrt is infinite at zero and an epsilon added to the root does not help
    (infinity times zero), so epsilon stands inside: this differs from `torch.optim.Adam` by less
    than eps / sqrt(v^) relatively. With `persistent=True` the moments outlive the task, as in
    Reptile's released code: the learner keeps their mean over tasks and starts from it next time.

    Source: Kingma & Ba 2015, algorithm 1; Reptile's inner optimiser has betas=(0, 0.999).
    """

    def __init__(
        self,
        lr: float | Rate,
        steps: int,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        persistent: bool = False,
        tolerance: float | None = None,
    ):
        super().__init__(lr, steps, tolerance)
        if not all(0 <= b < 1 for b in betas):
            raise ValueError(f"expected betas in [0, 1), got {betas!r}")
        if not eps > 0:
            raise ValueError(f"expected eps > 0 (the root is differentiated), got eps={eps!r}")
        if persistent and tolerance is not None:
            raise ValueError(
                "persistent moments count every step, and a tolerance leaves steps out: use "
                "persistent=False or tolerance=None"
            )
        self.betas = betas
        self.eps = eps
        self.persistent = persistent

    def _create(self, shapes: dict[str, torch.Size], dtype: torch.dtype) -> None:
        super()._create(shapes, dtype)
        if self.persistent:
            for k, shape in shapes.items():
                for moment in "mv":
                    self.register_buffer(_slot(moment, k), torch.zeros(shape, dtype=dtype))
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def init(self, phi: Params) -> Params:
        state = {f"{m}.{k}": torch.zeros_like(v) for m in "mv" for k, v in phi.items()}
        if self.persistent:
            slots = dict(self.named_buffers())
            state = {k: slots[_slot(*k.split(".", 1))].expand_as(v) for k, v in state.items()}
        return state

    def keep(self, state: Params) -> None:
        slots = dict(self.named_buffers())
        for k, v in state.items():
            slots[_slot(*k.split(".", 1))].copy_(v)
        slots["count"] += self.steps

    def step(self, hyper: Params, point: Point, view: View) -> Point:
        t, phi, state = point
        grad = view.grad
        b1, b2 = self.betas
        m = {k: b1 * state["m." + k] + (1 - b1) * grad[k] for k in phi}
        v = {k: b2 * state["v." + k] + (1 - b2) * _squared(grad[k]) for k in phi}
        count = t + 1 + (int(self.get_buffer("count")) if self.persistent else 0)
        first, second = 1 - b1**count, 1 - b2**count
        ahead = {k: _over_root(m[k] / first, v[k] / second, self.eps) for k in phi}
        after = {f"m.{k}": m[k] for k in phi} | {f"v.{k}": v[k] for k in phi}
        return Point(t + 1, self._moved(hyper, t, self._decayed(hyper, t, phi), ahead), after)

    def _decayed(self, hyper: Params, t: int, phi: Params) -> Params:
        """The weights that the step starts from."""
        return phi

    def key(self, t: int) -> Hashable:
        return t  # the corrections of the moments count the steps

    def refuse(self, view: type) -> Refusal | None:
        if view is Memory and self.persistent:
            return None
        if view is Program and self.persistent:
            return Refusal("the solver's state outlives the task", 'Use engine="eager"')
        return super().refuse(view)

    def describe(self) -> str:
        kept = ", moments kept between tasks" if self.persistent else ""
        return self._told(f"Adam betas {self.betas[0]:g}, {self.betas[1]:g}{kept}")


class AdamW(Adam):
    """Adam with decoupled weight decay: phi' = (1 - rate decay) phi - rate m^ / sqrt(v^ + eps^2).

    Decay towards zero, not towards the start (that is `Proximal`). All else as `Adam`.
    Raises ValueError unless 0 <= decay < inf.

    Source: Loshchilov & Hutter 2019, algorithm 2, with the rate as in `torch.optim.AdamW`.
    """

    def __init__(
        self,
        lr: float | Rate,
        steps: int,
        *,
        decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        persistent: bool = False,
        tolerance: float | None = None,
    ):
        super().__init__(
            lr, steps, betas=betas, eps=eps, persistent=persistent, tolerance=tolerance
        )
        if not 0 <= decay < float("inf"):
            raise ValueError(f"expected a weight decay >= 0, such as 0.01, got decay={decay!r}")
        self.decay = decay

    def _decayed(self, hyper: Params, t: int, phi: Params) -> Params:
        return self._moved(hyper, t, phi, {k: self.decay * v for k, v in phi.items()})

    def describe(self) -> str:
        return f"{super().describe()}, weight decay {self.decay:g}"


def _squared(g: Tensor) -> Tensor:
    """Entry by entry; a complex number counts as a pair of real ones, as in `torch.optim.Adam`."""
    return torch.complex(g.real**2, g.imag**2) if g.is_complex() else g**2


def _over_root(m: Tensor, v: Tensor, eps: float) -> Tensor:
    """m / sqrt(v + eps^2), complex numbers as pairs of real ones."""
    if m.is_complex():
        return torch.complex(_over_root(m.real, v.real, eps), _over_root(m.imag, v.imag, eps))
    return m / (v + eps**2).sqrt()


def _slot(moment: str, name: str) -> str:
    return f"{moment}/{name.replace('.', '/')}"
