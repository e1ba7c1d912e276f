"""The derivatives that meta-learning takes, each tried on one pure function.

Every probe raises what torch raises; the ones that compare numbers return a relative error, so
that a derivative which is silently wrong is found as well as one that does not exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import vmap

from ..core.types import Params

Function = Callable[[Params, Params], Tensor]

FINITE_STEPS = (1e-4, 1e-6, 1e-8)
"""Lengths of displacement; a kink that lies within one of them lies outside the next."""


@dataclass(frozen=True)
class Target:
    """A scalar function of tensors to differentiate (`primals`) and of other tensors (`data`).

    `many` is its sum over stacked tasks, by default the summed `vmap`. `seed` is set where the
    function draws random numbers, which are then the same at each evaluation.
    """

    function: Function
    primals: Params
    data: Params
    seed: int | None = None
    many: Function | None = None

    @property
    def exact(self) -> bool:
        """Whether all numbers are in double precision, so that derivatives can be compared."""
        return all(v.dtype == torch.float64 for v in self.primals.values())

    @property
    def tolerance(self) -> float:
        """How far two exact ways to the same derivative may lie apart, relative to its size."""
        return 1e-8 if self.exact else 0.05

    def __call__(self, primals: Params, data: Params | None = None) -> Tensor:
        with self.replay():
            return self.function(primals, self.data if data is None else data)

    @contextlib.contextmanager
    def replay(self) -> Iterator[None]:
        """The same random numbers at each evaluation, where the function draws any."""
        if self.seed is None:
            yield
            return
        devices = {v.device for v in self.primals.values() if v.device.type == "cuda"}
        with torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(self.seed)
            yield

    def direction(self, seed: int) -> Params:
        """A random tangent of unit length."""
        generator = torch.Generator().manual_seed(seed)
        draw = {
            k: torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v)
            for k, v in self.primals.items()
        }
        length = float(torch.stack([d.norm() for d in draw.values()]).norm())
        return {k: d / length for k, d in draw.items()}

    def without(self, names: list[str]) -> Target:
        """The same function of fewer primals; `names` become constants."""
        if not names:
            return self
        held = {k: self.primals[k] for k in names}
        rest = {k: v for k, v in self.primals.items() if k not in held}
        return Target(lambda p, d: self.function(held | p, d), rest, self.data, self.seed)

    def moved(self, direction: Params, distance: float) -> Params:
        """The primals plus `distance` times `direction`."""
        return {k: v + distance * direction[k] for k, v in self.primals.items()}


def gradient(target: Target, primals: Params | None = None) -> Params:
    """The gradient in the primals, by ordinary autograd; zero where there is no dependence."""
    leaves = _leaves(target.primals if primals is None else primals)
    return _pull(target(leaves), leaves)


def unused(target: Target) -> list[str]:
    """The primals that the function does not depend on."""
    leaves = _leaves(target.primals)
    value = target(leaves)
    if not value.requires_grad:
        return list(leaves)
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return [k for k, g in zip(leaves, found, strict=True) if g is None]


def slope_error(target: Target) -> float:
    """Relative error of the gradient against finite differences of the value (float64 only)."""
    v, first = target.direction(1), gradient(target)
    slope = _dot(first, v)
    floor = 1e-6 * float(_flat(first).norm())
    return min(
        _relative(
            slope, (target(target.moved(v, h)) - target(target.moved(v, -h))) / (2 * h), floor
        )
        for h in FINITE_STEPS
    )


def double_backward(target: Target, tangent: Params | None = None) -> Params:
    """A Hessian-vector product by reverse mode over reverse mode."""
    v = target.direction(2) if tangent is None else tangent
    leaves = _leaves(target.primals)
    first = _pull(target(leaves), leaves, create_graph=True)
    return _pull(_dot(first, v), leaves)


def curvature_error(target: Target) -> float:
    """Relative error of `double_backward` against finite differences of the gradient (float64)."""
    v = target.direction(2)
    exact, floor = _flat(double_backward(target)), 1e-6 * float(_flat(gradient(target)).norm())
    errors = []
    for h in FINITE_STEPS:
        up, down = gradient(target, target.moved(v, h)), gradient(target, target.moved(v, -h))
        errors.append(_relative(exact, (_flat(up) - _flat(down)) / (2 * h), floor))
    return min(errors)


def forward_mode(target: Target, tangent: Params | None = None) -> float:
    """A Hessian-vector product by forward over reverse; its distance from `double_backward`."""
    v = target.direction(2) if tangent is None else tangent
    with forward_ad.dual_level():
        duals = {k: forward_ad.make_dual(p, v[k]) for k, p in _leaves(target.primals).items()}
        first = _pull(target(duals), duals)
        tangents = {k: forward_ad.unpack_dual(g).tangent for k, g in first.items()}
    product = {k: torch.zeros_like(v[k]) if t is None else t for k, t in tangents.items()}
    return _relative(_flat(product), _flat(double_backward(target, v)), floor=1e-9)


def task_batching(target: Target) -> float:
    """Gradient and Hessian product of the sum over two batched tasks against one at a time."""
    together, tangent = batched(target)
    found = [gradient(together), double_backward(together, tangent)]
    errors = []
    for row in range(2):
        primals = {k: v[row] for k, v in together.primals.items()}
        alone = replace(target, primals=primals)
        single = [gradient(alone), double_backward(alone, {k: v[row] for k, v in tangent.items()})]
        for many, one in zip(found, single, strict=True):
            rows = {k: g[row] for k, g in many.items()}
            errors.append(_relative(_flat(rows), _flat(one), floor=1e-9))
    return max(errors)


def batched_forward_mode(target: Target) -> float:
    """`forward_mode` of the sum over two batched tasks."""
    together, tangent = batched(target)
    return forward_mode(together, tangent)


def batched(target: Target) -> tuple[Target, Params]:
    """The sum of the function over two tasks with different primals, and a tangent for it."""
    primals = {k: torch.stack([v, 1.03 * v]) for k, v in target.primals.items()}
    data = {k: torch.stack([v, v]) for k, v in target.data.items()}
    tangent = {k: torch.stack([v, v]) for k, v in target.direction(2).items()}

    def summed(p: Params, d: Params) -> Tensor:
        return vmap(target.function, randomness="same")(p, d).sum()

    return Target(target.many or summed, primals, data, target.seed), tangent


def _leaves(primals: Params) -> Params:
    return {k: v.detach().requires_grad_() for k, v in primals.items()}


def _pull(value: Tensor, leaves: Params, *, create_graph: bool = False) -> Params:
    zeros = {k: torch.zeros_like(v) for k, v in leaves.items()}
    if not value.requires_grad:
        return zeros
    found = torch.autograd.grad(
        value, list(leaves.values()), create_graph=create_graph, allow_unused=True
    )
    pairs = zip(leaves, found, strict=True)
    return zeros | {k: g for k, g in pairs if g is not None}


def _dot(a: Params, b: Params) -> Tensor:
    return torch.stack([(a[k] * b[k]).sum() for k in a]).sum()


def _flat(tree: Params) -> Tensor:
    return torch.cat([v.detach().reshape(-1) for v in tree.values()])


def _relative(value: Tensor, reference: Tensor, floor: float) -> float:
    """|value - reference| / |reference|, a reference below `floor` counting as `floor`."""
    size = max(float(reference.detach().norm()), floor, 1e-300)
    return float((value - reference).detach().norm()) / size
