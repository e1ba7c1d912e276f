"""Curvature oracles: the products (H_phi,phi u, H_meta,phi u) of the inner objective's Hessian.

All three linearise F(meta, phi) = (inner losses, inner gradient) at one step and pull a cotangent
(l, u) back through it. No Hessian is formed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from . import path as loop
from . import trees
from .contract import IterativeLearner
from .types import Batch, Params


@dataclass(frozen=True)
class Where:
    """The inner objective at one step: everything it depends on but phi's displacement."""

    learner: IterativeLearner
    meta: Params
    t: int
    phi: Params
    support: Batch


class Linearised(ABC):
    """The inner objective around one point."""

    losses: Tensor
    grad: Params

    @abstractmethod
    def pull(
        self, u: Params, loss_cotangent: Tensor | None = None, *, again: bool = False
    ) -> tuple[Params, Params]:
        """(H_phi,phi u + l g, H_meta,phi u + l dL/dmeta), entries that vanish left out.

        `u` has leaves (T, ...), `loss_cotangent` l is (T,) or None. `again` keeps what a further
        call needs.
        """


class Curvature(ABC):
    """How the inner objective is linearised."""

    @abstractmethod
    def at(self, where: Where) -> Linearised:
        """Losses, gradient and products at one point."""

    @abstractmethod
    def describe(self) -> str:
        """The oracle in a few words."""


class ReverseOverReverse(Curvature):
    """Back-propagate through the back-propagation: exact, for any layer with double backward."""

    def at(self, where: Where) -> Linearised:
        return _Reverse(where)

    def describe(self) -> str:
        return "reverse over reverse"


class ForwardOverReverse(Curvature):
    """The directional derivative of the gradient, at the memory of one gradient.

    Exact where torch's forward-mode rules for the layers' backward passes are; some layers have
    none (recurrent ones, GroupNorm), and `innerloop.check` compares them on your model.
    """

    def at(self, where: Where) -> Linearised:
        return _Forward(where)

    def describe(self) -> str:
        return "forward over reverse"


class FiniteDifference(Curvature):
    """Central difference [g(phi + r u) - g(phi - r u)] / 2r with r = displacement / ||u|| per task.

    The error is O(displacement^2) on smooth models until rounding takes over; a ReLU or max-pool
    kink within the displacement adds an error of order one, and float32 leaves hardly any window
    between the two. `displacement` is a length in weight space; by default the cube root of the
    rounding unit times 1 + ||phi||.

    Source: Fallah et al. 2020 (HF-MAML), eq. 15.
    """

    def __init__(self, displacement: float | None = None):
        if displacement is not None and not displacement > 0:
            raise ValueError(f"expected a displacement > 0 or None, got {displacement!r}")
        self.displacement = displacement

    def at(self, where: Where) -> Linearised:
        return _Difference(where, self.displacement)

    def describe(self) -> str:
        return "finite difference"


class _Reverse(Linearised):
    def __init__(self, where: Where):
        self._inputs = _named(trees.leaves(where.phi), where.meta)
        phi = {k: self._inputs["phi " + k] for k in where.phi}
        with torch.enable_grad():
            losses, grad = loop.inner_gradient(
                where.learner, where.meta, where.t, phi, where.support, create_graph=True
            )
        self._losses, self._grad = losses, grad
        self.losses, self.grad = losses.detach(), trees.detach(grad)

    def pull(
        self, u: Params, loss_cotangent: Tensor | None = None, *, again: bool = False
    ) -> tuple[Params, Params]:
        found = trees.pull(
            [self._losses, *self._grad.values()],
            self._inputs,
            [loss_cotangent, *(u.get(k) for k in self._grad)],
            retain_graph=again,
        )
        return _parted(found)


class _Forward(Linearised):
    def __init__(self, where: Where):
        self._where = where
        self.losses, self.grad = gradient_at(where)

    def pull(
        self, u: Params, loss_cotangent: Tensor | None = None, *, again: bool = False
    ) -> tuple[Params, Params]:
        where = self._where
        inputs = _named(trees.leaves(where.phi), where.meta)
        with torch.enable_grad(), forward_ad.dual_level():
            # phi_0 is a view that repeats the meta-parameters, and a dual number needs its own
            # memory. The tangent of the gradient is H u.
            phi = {
                k: forward_ad.make_dual(inputs["phi " + k].contiguous(), u[k].contiguous())
                if k in u
                else inputs["phi " + k]
                for k in where.phi
            }
            losses = where.learner.inner_losses(where.meta, where.t, phi, where.support)
            inputs |= {"phi " + k: v for k, v in phi.items()}
            found = trees.pull([losses], inputs, [torch.ones_like(losses)])
            tangents = {k: forward_ad.unpack_dual(v).tangent for k, v in found.items()}
        products = _parted({k: v.detach() for k, v in tangents.items() if v is not None})
        return _with_loss(products, where, loss_cotangent)


class _Difference(Linearised):
    def __init__(self, where: Where, displacement: float | None):
        self._where = where
        self._displacement = displacement
        self.losses, self.grad = gradient_at(where)

    def pull(
        self, u: Params, loss_cotangent: Tensor | None = None, *, again: bool = False
    ) -> tuple[Params, Params]:
        where = self._where
        if not u:
            return _with_loss(({}, {}), where, loss_cotangent)
        length = trees.norm(u)
        reach: Tensor | float | None = self._displacement
        if reach is None:
            reach = torch.finfo(length.dtype).eps ** (1 / 3) * (1 + trees.norm(where.phi))
        # A task whose direction is zero has product zero; any r will do.
        r = reach / torch.where(length > 0, length, torch.ones_like(length))
        total: Params = {}
        for sign in (1.0, -1.0):
            moved = {
                k: v + sign * trees.rows(r, v) * u[k] if k in u else v for k, v in where.phi.items()
            }
            inputs = _named(trees.leaves(moved), where.meta)
            phi = {k: inputs["phi " + k] for k in where.phi}
            with torch.enable_grad():
                losses = where.learner.inner_losses(where.meta, where.t, phi, where.support)
                # The weights make each task's row, and its share of the sum in meta, its own
                # difference quotient.
                found = trees.pull([losses], inputs, [sign / (2 * r)])
            total = trees.merge(total, found)
        return _with_loss(_parted(total), where, loss_cotangent)


def gradient_at(where: Where) -> tuple[Tensor, Params]:
    """Losses and gradient, without a graph."""
    with torch.enable_grad():
        losses, grad = loop.inner_gradient(
            where.learner, trees.detach(where.meta), where.t, trees.leaves(where.phi), where.support
        )
    return losses.detach(), grad


def _with_loss(
    products: tuple[Params, Params], where: Where, loss_cotangent: Tensor | None
) -> tuple[Params, Params]:
    """Add l g and l dL/dmeta, for steps that read the loss itself."""
    if loss_cotangent is None:
        return products
    inputs = _named(trees.leaves(where.phi), where.meta)
    phi = {k: inputs["phi " + k] for k in where.phi}
    with torch.enable_grad():
        losses = where.learner.inner_losses(where.meta, where.t, phi, where.support)
        extra = _parted(trees.pull([losses], inputs, [loss_cotangent]))
    return trees.merge(products[0], extra[0]), trees.merge(products[1], extra[1])


def _named(phi: Params, meta: Params) -> Params:
    """One dictionary of both: a weight is called the same in phi and in meta."""
    return {"phi " + k: v for k, v in phi.items()} | {"meta " + k: v for k, v in meta.items()}


def _parted(found: Params) -> tuple[Params, Params]:
    def part(prefix: str) -> Params:
        return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}

    return part("phi "), part("meta ")
