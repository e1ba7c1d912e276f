"""Views of an inner objective, and oracles: its products (H_phi,phi u, H_meta,phi u).

All oracles linearise F(meta, phi) = (losses, gradient in phi) at one point and pull a cotangent
(l, u) back through it. No Hessian is formed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from . import trees
from .contract import View
from .types import Params

Losses = Callable[[Params, Params], Tensor]
"""(meta, phi) -> the inner objective of each task, (T,)."""


def inner_gradient(
    losses: Losses, meta: Params, phi: Params, *, create_graph: bool = False
) -> tuple[Tensor, Params]:
    """Inner losses (T,) and their gradient in phi. `phi` must be differentiable.

    Raises ValueError where the losses reach no adapted tensor: every step would stand still, and
    all meta-gradients would be zero without a word.
    """
    values = losses(meta, phi)
    if not values.requires_grad:
        raise ValueError(
            "the support loss does not depend on any adapted parameter, so there is nothing to "
            "descend: is the model's output detached, or computed under torch.no_grad()?"
        )
    found = trees.gradient(values, phi, create_graph=create_graph)
    if not found and phi:
        raise ValueError(
            f"the support loss reaches none of the adapted parameters ({', '.join(phi)}), though "
            "it depends on others: does the model compute with tensors that are not its own "
            "parameters, such as a function that closes over another module? Let it use "
            "`self.<layer>`, or choose a scope that the loss depends on"
        )
    # An adapted tensor that the loss does not touch has gradient zero: it stays where it is.
    return values, {k: found[k] if k in found else torch.zeros_like(v) for k, v in phi.items()}


class Curvature(ABC):
    """How the inner objective is linearised."""

    @abstractmethod
    def view(self, losses: Losses, meta: Params, phi: Params) -> View:
        """The objective at phi, with its products."""

    @abstractmethod
    def describe(self) -> str:
        """The oracle in a few words."""


class ReverseOverReverse(Curvature):
    """Back-propagate through the back-propagation: exact, for any layer with double backward."""

    def view(self, losses: Losses, meta: Params, phi: Params) -> View:
        return Reverse(losses, meta, phi).prepared()

    def describe(self) -> str:
        return "reverse over reverse"


class ForwardOverReverse(Curvature):
    """The directional derivative of the gradient, at the memory of one gradient.

    Exact where torch's forward-mode rules for the layers' backward passes are; some layers have
    none (recurrent ones, GroupNorm), and `innerloop.check` compares them on your model.
    """

    def view(self, losses: Losses, meta: Params, phi: Params) -> View:
        return _Forward(losses, meta, phi)

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

    def view(self, losses: Losses, meta: Params, phi: Params) -> View:
        return _Difference(losses, meta, phi, self.displacement)

    def describe(self) -> str:
        return "finite difference"


class Constant(Curvature):
    """The inner gradient as a constant: every product is zero (first order)."""

    def view(self, losses: Losses, meta: Params, phi: Params) -> View:
        return _Constant(losses, meta, phi)

    def describe(self) -> str:
        return "none"


class Lazy(View):
    """Losses and gradient at a point, without a graph, computed when they are first asked for.

    A step that reads neither (a constant rate in the backward pass of first order) costs nothing.
    """

    def __init__(self, losses: Losses, meta: Params, phi: Params):
        self.objective, self.meta, self.phi = losses, meta, phi
        self._found: tuple[Tensor, Params] | None = None

    @property
    def losses(self) -> Tensor:  # type: ignore[override]
        return self._looked()[0]

    @property
    def grad(self) -> Params:  # type: ignore[override]
        return self._looked()[1]

    def at(self, phi: Params) -> Tensor:
        return self.objective(self.meta, phi)

    def _looked(self) -> tuple[Tensor, Params]:
        if self._found is None:
            with torch.enable_grad():
                losses, grad = inner_gradient(
                    self.objective, trees.detach(self.meta), trees.leaves(self.phi)
                )
            self._found = losses.detach(), grad
        return self._found

    def _with_loss(
        self, products: tuple[Params, Params], losses: Tensor | None
    ) -> tuple[Params, Params]:
        """Add l g and l dL/dmeta, for steps that read the loss itself."""
        if losses is None:
            return products
        inputs = trees.join(phi=trees.leaves(self.phi), meta=self.meta)
        with torch.enable_grad():
            found = trees.pull(
                [self.objective(self.meta, trees.part("phi", inputs))], inputs, [losses]
            )
        return (
            trees.merge(products[0], trees.part("phi", found)),
            trees.merge(products[1], trees.part("meta", found)),
        )


class Reverse(Lazy):
    """Products by back-propagating through the gradient's own graph.

    One product frees the graph on its way, which is the least memory; after `linearised` the graph
    stays for as many as are asked for.
    """

    _graph: tuple[dict[tuple[str, str], Tensor], Tensor, Params] | None = None
    _stays = False

    def linearised(self) -> View:
        self._stays = True
        return self.prepared()

    def prepared(self) -> Reverse:
        """This view, its gradient computed with the graph that the next product needs."""
        if self._graph is None:
            inputs = trees.join(phi=trees.leaves(self.phi), meta=self.meta)
            with torch.enable_grad():
                losses, grad = inner_gradient(
                    self.objective, self.meta, trees.part("phi", inputs), create_graph=True
                )
            self._graph = inputs, losses, grad
            self._found = losses.detach(), trees.detach(grad)
        return self

    def product(self, u: Params, losses: Tensor | None = None) -> tuple[Params, Params]:
        self.prepared()
        assert self._graph is not None
        inputs, values, grad = self._graph
        if not self._stays:
            self._graph = None
        found = trees.pull(
            [values, *grad.values()],
            inputs,
            [losses, *(u.get(k) for k in grad)],
            retain_graph=self._stays,
        )
        return trees.part("phi", found), trees.part("meta", found)


class _Forward(Lazy):
    def product(self, u: Params, losses: Tensor | None = None) -> tuple[Params, Params]:
        inputs = trees.join(phi=trees.leaves(self.phi), meta=self.meta)
        with torch.enable_grad(), forward_ad.dual_level():
            # phi_0 is a view that repeats the meta-parameters, and a dual number needs its own
            # memory. The tangent of the gradient is H u.
            for k in u:
                inputs["phi", k] = forward_ad.make_dual(
                    inputs["phi", k].contiguous(), u[k].contiguous()
                )
            values = self.objective(self.meta, trees.part("phi", inputs))
            found = trees.gradient(values, inputs)
            tangents = {k: forward_ad.unpack_dual(v).tangent for k, v in found.items()}
        products = {k: v.detach() for k, v in tangents.items() if v is not None}
        return self._with_loss((trees.part("phi", products), trees.part("meta", products)), losses)


class _Difference(Lazy):
    def __init__(self, losses: Losses, meta: Params, phi: Params, displacement: float | None):
        super().__init__(losses, meta, phi)
        self._displacement = displacement

    def product(self, u: Params, losses: Tensor | None = None) -> tuple[Params, Params]:
        if not u:
            return self._with_loss(({}, {}), losses)
        length = trees.norm(u)
        reach: Tensor | float | None = self._displacement
        if reach is None:
            reach = torch.finfo(length.dtype).eps ** (1 / 3) * (1 + trees.norm(self.phi))
        # A task whose direction is zero has product zero; any r will do.
        r = reach / torch.where(length > 0, length, torch.ones_like(length))
        total: dict[tuple[str, str], Tensor] = {}
        for sign in (1.0, -1.0):
            there = {
                k: v + sign * trees.rows(r, v) * u[k] if k in u else v for k, v in self.phi.items()
            }
            inputs = trees.join(phi=trees.leaves(there), meta=self.meta)
            with torch.enable_grad():
                values = self.objective(self.meta, trees.part("phi", inputs))
                # The weights make each task's row, and its share of the sum in meta, its own
                # difference quotient.
                found = trees.pull([values], inputs, [sign / (2 * r)])
            total = trees.merge(total, found)
        return self._with_loss((trees.part("phi", total), trees.part("meta", total)), losses)


class _Constant(Lazy):
    def product(self, u: Params, losses: Tensor | None = None) -> tuple[Params, Params]:
        return {}, {}
