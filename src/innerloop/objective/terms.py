"""The inner objective: a sum of terms, each a module that may learn."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..core import streams, trees
from ..core.checks import positive
from ..core.contract import Optimum, Refusal
from ..core.strength import Strength
from ..core.types import Batch, Params, Tree
from .foreign import Foreign
from .losses import Loss, LossLike, as_loss
from .metrics import mean

ModelFunction = Callable[..., Tensor]
"""(model, batch) -> a scalar: any differentiable code, with one task's weights and batch.

Where a module of outer parameters goes with it, it is the third argument.
"""


class Situation(ABC):
    """What an inner term sees of the tasks at one inner step. Nothing is computed unasked.

    `t` is the step, `phi` the adapted weights (T, ...), `batch` the examples of the step.
    """

    t: int
    phi: Params
    batch: Batch
    stream: str = "support"
    """What random numbers of the step are named by."""

    def drawing(self) -> contextlib.AbstractContextManager[None]:
        """Within the block random numbers are those of the step."""
        return streams.common(streams.derive(streams.current(), "term", self.stream))

    @property
    @abstractmethod
    def outputs(self) -> Tree:
        """The model's outputs on the batch, (T, n, ...)."""

    @property
    @abstractmethod
    def start(self) -> Params:
        """phi_0, leaves (T, ...)."""

    @abstractmethod
    def weights(self) -> tuple[Params, set[str]]:
        """All weights of the model, and the names of those with a row per task."""

    @abstractmethod
    def apply(
        self, function: ModelFunction, hyper: nn.Module | None = None, values: Params | None = None
    ) -> Tensor:
        """`function(model, batch)` for each task, with its own weights in the model: (T,).

        With `hyper`, a module, it is its third argument, with `values` as its parameters.
        """


class Term(nn.Module, ABC):
    """One addend of the inner objective. What it learns is its own parameters, given as `hyper`."""

    @abstractmethod
    def losses(self, hyper: Params, at: Situation) -> Tensor:
        """The addend of each task: (T,)."""

    def bind(self, like: Tensor) -> None:
        """Take the type of the adapted weights; called once by the learner."""
        return None

    def refuse(self, view: type) -> Refusal | None:
        """Why this term alone makes no `Optimum`, say; None where it keeps phi near a point."""
        if view is Optimum:
            return Refusal(
                f"`{type(self).__name__}` without a penalty or a tolerance: phi is not a "
                "stationary point of anything",
                "Add `Proximal(lam)` to the inner terms or give the solver a tolerance, or use "
                "`Adjoint()`",
            )
        return None

    @abstractmethod
    def describe(self) -> str:
        """The term in a few words."""


class Fit(Term):
    """The loss of the model's outputs on the support examples."""

    def __init__(self, loss: LossLike | Loss = "cross_entropy"):
        super().__init__()
        self.loss = as_loss(loss)

    def losses(self, hyper: Params, at: Situation) -> Tensor:
        outputs = at.outputs
        with at.drawing():
            return self.loss(outputs, at.batch)

    def describe(self) -> str:
        return self.loss.name


class Proximal(Term):
    """(lam / 2) ||phi - phi_0||^2, added to the support loss of each task.

    `lam` has the unit of loss per squared weight. With `learned=True` its logarithm is a
    meta-parameter, so that it stays positive: d/d lam is the gradient of `lam.log` over lam.
    Raises ValueError unless lam > 0.

    Source: Rajeswaran et al. 2019 (iMAML), eq. 3.
    """

    def __init__(self, lam: float, *, learned: bool = False):
        super().__init__()
        if not lam > 0:
            raise ValueError(
                f"expected a penalty lam > 0 (it makes the inner problem well posed), "
                f"got lam={lam!r}; iMAML's paper uses 2.0 on Omniglot and 0.5 on miniImageNet"
            )
        self.lam = Strength(lam, learned=learned)

    def bind(self, like: Tensor) -> None:
        self.lam.bind(like.dtype)

    def losses(self, hyper: Params, at: Situation) -> Tensor:
        start = at.start
        gap = {k: v - start[k] for k, v in at.phi.items()}
        return 0.5 * self.lam.at(hyper) * trees.dot(gap, gap)

    def refuse(self, view: type) -> Refusal | None:
        return None

    def describe(self) -> str:
        return f"proximal penalty {self.lam.describe()}"


class Decay(Term):
    """(lam / 2) ||phi||^2: weight decay of the adapted weights, towards zero; `lam` may be learned.

    In its gradient lam phi, as `torch.optim.SGD(weight_decay=lam)`; see `AdamW` for the decoupled
    one. Raises ValueError unless lam > 0.
    """

    def __init__(self, lam: float, *, learned: bool = False):
        super().__init__()
        self.lam = Strength(positive("lam", lam), learned=learned)

    def bind(self, like: Tensor) -> None:
        self.lam.bind(like.dtype)

    def losses(self, hyper: Params, at: Situation) -> Tensor:
        return 0.5 * self.lam.at(hyper) * trees.dot(at.phi, at.phi)

    def describe(self) -> str:
        return f"weight decay {self.lam.describe()}"


class Weighted(Term):
    """sum_i w(x_i) l_i / n: the loss of each support example times a learned weight.

    Where examples have a weight already, it is the mean by that one.

    `weigh` is a module from inputs (N, ...) to numbers (N,) or (N, 1), e.g. `nn.Embedding(N, 1)` on
    indices, and `at` picks what of x it reads (default: all of it); its outputs pass through
    `squash`, by default the sigmoid, so that weights lie between 0 and 1. `loss` must know single
    examples.
    """

    def __init__(
        self,
        weigh: nn.Module,
        loss: LossLike | Loss = "cross_entropy",
        *,
        squash: Callable[[Tensor], Tensor] = torch.sigmoid,
        reads: Callable[[Tree], Tensor] | None = None,
    ):
        super().__init__()
        self.weigh = weigh
        self.loss = as_loss(loss)
        if self.loss.each is None:
            raise ValueError(
                f"weights of examples need a loss of single examples, and {self.loss.name} returns "
                'one number for all; use loss="cross_entropy", "mse", "bce", "l1" or "huber"'
            )
        self.squash, self.reads = squash, reads

    def losses(self, hyper: Params, at: Situation) -> Tensor:
        assert self.loss.each is not None
        losses = self.loss.each(at.outputs, at.batch)
        x = at.batch.x if self.reads is None else self.reads(at.batch.x)
        with at.drawing(), streams.replay("weigh", device=x.device):
            flat = functional_call(self.weigh, trees.under("weigh.", hyper), (x.flatten(0, 1),))
        return mean(self.squash(flat.reshape(losses.shape)) * losses, None, at.batch.weight)

    def describe(self) -> str:
        return f"{self.loss.name}, examples weighted by {type(self.weigh).__name__}"


class Regulariser(Term):
    """A scalar of one task's weights (a dictionary by name), added to the loss of that task."""

    def __init__(self, function: Callable[[Params], Tensor]):
        super().__init__()
        self.function = function
        self._each = Foreign(function, self.describe())

    def losses(self, hyper: Params, at: Situation) -> Tensor:
        weights, stacked = at.weights()
        axes = {k: 0 if k in stacked else None for k in weights}
        with at.drawing():
            found = self._each(weights, shared=(axes,))
        if found.dim() != 1:
            raise ValueError(
                f"the regulariser gave shape {tuple(found.shape[1:])} for one task, expected a "
                "scalar: sum over the weights"
            )
        return found

    def describe(self) -> str:
        return f"regulariser {getattr(self.function, '__name__', type(self.function).__name__)}"


class Computed(Term):
    """A loss by any differentiable code: `function(model, batch)` of one task, a scalar.

    The model has the task's weights, and may be called twice, in parts, or differentiated in x.
    With `hyper`, a module whose parameters are outer ones (weights of examples, a learned loss,
    data that are distilled), the function is called with it as third argument.
    """

    def __init__(self, function: ModelFunction, hyper: nn.Module | None = None):
        super().__init__()
        if not callable(function):
            raise ValueError(
                f"expected a function of (model, batch), got {type(function).__name__}"
            )
        self.function, self.hyper = function, hyper

    def losses(self, hyper: Params, at: Situation) -> Tensor:
        return at.apply(self.function, self.hyper, trees.under("hyper.", hyper))

    def describe(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


def as_terms(inner: Any) -> nn.ModuleList:
    """A loss, a term, or a sequence of them, as a list of terms."""
    parts = inner if isinstance(inner, Sequence) and not isinstance(inner, str) else [inner]
    if not parts:
        raise ValueError('expected at least one inner term, got none; write e.g. inner="mse"')
    return nn.ModuleList([part if isinstance(part, Term) else Fit(part) for part in parts])


def names_of(terms: Sequence[Term], owner: nn.Module) -> list[dict[str, str]]:
    """For each term, what its parameters are called among those of the learner that owns it.

    A parameter of two terms stands there once, under its first name. Raises ValueError for one
    that is the model's.
    """
    names = {id(p): k for k, p in owner.named_parameters()}
    found = [
        {k: names[id(p)] for k, p in term.named_parameters(remove_duplicate=False)}
        for term in terms
    ]
    taken = [k for own in found for k in own.values() if not k.startswith("inner.")]
    if taken:
        raise ValueError(
            f"an inner term learns `{taken[0]}`, which the model is made of, too: is it the "
            "adapted value there or the meta-learned one? Give the term a module of its own"
        )
    return found
