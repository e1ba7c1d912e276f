"""Solvers that hand another solver a changed gradient. They stack, and fit every solver."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable
from typing import Literal

import torch
from torch import Tensor, nn

from ..core import streams, trees
from ..core.contract import Given, Optimum, Path, Point, Program, Refusal, View
from ..core.types import Params
from .solver import Solver

Noise = Literal["binary", "gaussian", "uniform"]


class Transformed(Solver):
    """`base` stepping along f(g) in place of the inner gradient g.

    A gradient tolerance still looks at g itself. What the transform learns stands under its own
    name, what `base` learns under `base.*`.
    """

    def __init__(self, base: Solver):
        if not isinstance(base, Solver):
            raise ValueError(
                f"expected the solver whose gradient is changed, got {type(base).__name__}; write "
                f"e.g. {type(self).__name__}(GradientDescent(0.01, 5))"
            )
        reason = base.refuse(Path)
        if reason is not None:
            raise ValueError(
                f"`{type(self).__name__}` changes the gradient that another solver steps along: "
                f"{reason.reason}. {reason.fix}."
            )
        super().__init__(base.steps, base.tolerance)
        self.base = base

    def _create(self, shapes: dict[str, torch.Size], dtype: torch.dtype) -> None:
        self.base.bind(shapes, dtype)

    @abstractmethod
    def transform(self, hyper: Params, t: int, grad: Params) -> Params:
        """f(g) at step t, leaves (T, ...). `hyper` holds this module's parameters."""

    def init(self, phi: Params) -> Params:
        return self.base.init(phi)

    def step(self, hyper: Params, point: Point, view: View) -> Point:
        changed = Given(view.losses, self.transform(hyper, point.t, view.grad))
        return self.base.step(trees.under("base.", hyper), point, changed)

    def key(self, t: int) -> Hashable:
        return self.base.key(t)

    def refuse(self, view: type) -> Refusal | None:
        return self.base.refuse(view)

    def keep(self, state: Params) -> None:
        self.base.keep(state)


class DropGrad(Transformed):
    """g <- n * g entry by entry, E[n] = 1 and Var[n] = p / (1 - p), drawn anew at every step.

    `noise` is "binary": n = Bernoulli(1 - p) / (1 - p); "gaussian": N(1, p / (1 - p)); "uniform":
    the uniform law of the same mean and variance. As with dropout, nothing is dropped in eval mode
    (`method.eval()`): the paper regularises meta-training only. `p` may be changed between outer
    steps, as the paper's linear schedule does.

    All tasks of a meta-batch share one n per step, where the authors draw one per task: results
    then do not depend on `chunk`. Their code draws the Gaussian noise with standard deviation p,
    which is not the variance of the paper that is used here.

    Source: Tseng et al. 2020 (DropGrad); p = 0.1 to 0.2. The uniform law is ours.
    """

    def __init__(self, base: Solver, p: float = 0.1, *, noise: Noise = "gaussian"):
        super().__init__(base)
        if not 0 <= p < 1:
            raise ValueError(f"expected a drop rate in [0, 1), got p={p!r}; the paper uses 0.1")
        if noise not in ("binary", "gaussian", "uniform"):
            raise ValueError(f'expected noise="binary", "gaussian" or "uniform", got {noise!r}')
        self.p = p
        self.noise = noise

    def transform(self, hyper: Params, t: int, grad: Params) -> Params:
        if not self.training or self.p == 0:
            return grad
        return {k: g * self._draw(t, k, g) for k, g in grad.items()}

    def key(self, t: int) -> Hashable:
        return t

    def refuse(self, view: type) -> Refusal | None:
        if view is Program:
            return Refusal("gradient dropout draws anew at every call", 'Use engine="eager"')
        return super().refuse(view)

    def _draw(self, t: int, name: str, g: Tensor) -> Tensor:
        """n for one tensor; the same numbers each time step t is replayed."""
        stream = streams.generator(streams.current(), "dropgrad", t, name, device=g.device)
        spread = math.sqrt(self.p / (1 - self.p))
        values = torch.empty(g.shape[1:], dtype=g.dtype, device=g.device)
        if self.noise == "gaussian":
            return 1 + spread * values.normal_(generator=stream)
        chance = values.uniform_(generator=stream)
        if self.noise == "uniform":
            return 1 + spread * math.sqrt(3) * (2 * chance - 1)
        return (chance >= self.p).to(g.dtype) / (1 - self.p)

    def describe(self) -> str:
        return f"{self.base.describe()}, {self.noise} gradient dropout {self.p:g}"


class Sign(Transformed):
    """g <- sign(g), entry by entry: a step of the same length for every weight.

    The derivative of the sign is zero, so that `FirstOrder()` is exact and `Adjoint()` only slower.

    Source: Fan, Ram, Liu 2021 (Sign-MAML).
    """

    def transform(self, hyper: Params, t: int, grad: Params) -> Params:
        return {k: g.sign() for k, g in grad.items()}

    def refuse(self, view: type) -> Refusal | None:
        if view is Optimum:
            return Refusal(
                "`Sign`: its steps have one length everywhere and never come to rest",
                "Use `GradientDescent` or `NewtonCG`",
            )
        return super().refuse(view)

    def describe(self) -> str:
        return f"{self.base.describe()}, sign of the gradient"


class Clip(Transformed):
    """g <- g min(1, bound / ||g||), the norm of each task's whole gradient.

    As `torch.nn.utils.clip_grad_norm_`, but differentiated: where it bites, the step depends on
    the length of the gradient no more. Raises ValueError unless bound > 0.
    """

    def __init__(self, base: Solver, bound: float):
        super().__init__(base)
        if not 0 < bound < math.inf:
            raise ValueError(f"expected a largest gradient norm > 0, got bound={bound!r}")
        self.bound = bound

    def transform(self, hyper: Params, t: int, grad: Params) -> Params:
        square = trees.dot(grad, grad)
        long = square > self.bound**2
        # The branch that is not taken is differentiated as well: a root must not see a zero.
        factor = torch.where(long, self.bound * torch.where(long, square, 1.0).rsqrt(), 1.0)
        return {k: g * trees.rows(factor, g) for k, g in grad.items()}

    def describe(self) -> str:
        return f"{self.base.describe()}, gradient norm at most {self.bound:g}"


class MetaCurvature(Transformed):
    """g <- M g with learned, Kronecker-factored M: G <- G x_1 M_out x_2 M_in x_3 M_kernel.

    A weight's gradient, seen as (outputs, inputs, kernel positions), is multiplied by one square
    matrix along each of its axes; a vector (bias, norm) entry by entry by a learned vector. All
    start as the identity, so that the first step is the base solver's. A linear layer from n to m
    entries costs n^2 + m^2 meta-parameters.

    Source: Park & Oliva 2019 (Meta-Curvature); identity and vectors of ones from their code.
    """

    def __init__(self, base: Solver):
        super().__init__(base)
        self.factors = nn.ParameterDict()

    def _create(self, shapes: dict[str, torch.Size], dtype: torch.dtype) -> None:
        super()._create(shapes, dtype)
        for name, shape in shapes.items():
            if len(shape) < 2:
                self.factors[_factor(name, "vector")] = nn.Parameter(torch.ones(shape, dtype=dtype))
                continue
            for axis, size in _axes(shape).items():
                self.factors[_factor(name, axis)] = nn.Parameter(torch.eye(size, dtype=dtype))

    def transform(self, hyper: Params, t: int, grad: Params) -> Params:
        return {k: self._curved(hyper, k, g) for k, g in grad.items()}

    def _curved(self, hyper: Params, name: str, g: Tensor) -> Tensor:
        def factor(axis: str) -> Tensor:
            return hyper["factors." + _factor(name, axis)]

        if g.dim() < 3:
            return g * factor("vector")
        axes = _axes(g.shape[1:])
        flat = g.reshape(len(g), *axes.values())
        if "kernel" in axes:
            flat = factor("in") @ (flat @ factor("kernel").mT)
        else:
            flat = flat @ factor("in").mT
        flat = factor("out") @ flat.reshape(len(g), axes["out"], -1)
        return flat.reshape(g.shape)

    def describe(self) -> str:
        return f"{self.base.describe()}, meta-curvature"


def _axes(shape: torch.Size) -> dict[str, int]:
    """The axes of a weight that get a matrix: outputs, inputs, and all kernel positions as one."""
    axes = {"out": shape[0], "in": shape[1]}
    return axes | {"kernel": math.prod(shape[2:])} if len(shape) > 2 else axes


def _factor(name: str, axis: str) -> str:
    return f"{name.replace('.', '/')}/{axis}"
