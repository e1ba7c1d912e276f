"""The contract: what a learner and an estimator must offer, and nothing else.

A *learner* turns meta-parameters and a support set into task parameters phi and predicts with
them. An *estimator* turns a learner and a batch of tasks into a meta-gradient. Neither knows which
other one it meets: an estimator only asks for the kind of learner it `needs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor, nn

from .types import Batch, MetaGradient, Params, Task


class Outcome(NamedTuple):
    """Query losses of each task (T,), and the outputs (T, n, ...) they were computed from.

    `stats` is what else the learner has to say, one value per task: (T,).
    """

    losses: Tensor
    outputs: Tensor
    stats: Params = {}  # noqa: RUF012 (nobody writes to it)


class Around(NamedTuple):
    """The inner objective around phi_t, for a solver that needs more than its gradient there.

    `losses` maps any phi to the objective of each task (T,), `product` maps v to H v at phi_t.
    """

    losses: Callable[[Params], Tensor]
    product: Callable[[Params], Params]


class Learner(nn.Module, ABC):
    """adapt on support -> predict on query. `meta` is `dict(self.named_parameters())`.

    Every function is pure in (meta, phi): tensors come in as arguments and go out as values.
    """

    kind: Literal["classification", "regression"]

    @property
    def phase(self) -> object:
        """What the progress of training has changed about the operations: to a recorded engine
        another phase is another computation. Numbers that change are buffers of the learner."""
        return None

    @abstractmethod
    def adapt(self, meta: Params, support: Batch) -> Params:
        """phi of each task, leaves (T, ...), differentiable in `meta`."""

    @abstractmethod
    def predict(self, meta: Params, phi: Params, x: Tensor, support: Batch) -> Tensor:
        """Outputs (T, n, ...) for `x` (T, n, ...). `support` is the set that phi came from."""

    @abstractmethod
    def outer(self, meta: Params, phi: Params, task: Task) -> Outcome:
        """The outer objective at phi: query losses (T,) and outputs."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What this learner is, in words, for every table of results."""


class IterativeLearner(Learner):
    """A learner whose phi is reached step by step along the gradient of an inner objective.

    phi_{t+1}, s_{t+1} = step(meta, t, phi_t, g_t, losses_t, s_t),  g_t = d sum(losses_t) / d phi.
    `stationary` is None when phi_K approaches a stationary point of `inner_losses` (what the
    implicit function theorem needs), else the reason why it does not. `persistent` says that the
    solver's state outlives the task; `remember` then takes its mean over tasks. `plain` says that a
    step is phi - (constant) g, so that dphi'/dphi is I - alpha H and nothing else. `searches` says
    that the next phi comes from `search` in place of `step`; then only the end of the way can be
    differentiated. `varies` is None when all tasks of a shape meet the same tensor operations, else
    the reason why they do not: such a learner cannot be recorded.
    """

    steps: int
    stationary: str | None
    tolerance: float | None
    persistent: bool
    plain: bool
    searches: bool = False
    varies: str | None = None

    @abstractmethod
    def start(self, meta: Params, support: Batch) -> Params:
        """phi_0 of each task, leaves (T, ...)."""

    @abstractmethod
    def initial_state(self, meta: Params, phi: Params) -> Params:
        """The solver's state at phi_0 (momentum, moments): leaves (T, ...); empty when none."""

    @abstractmethod
    def inner_losses(self, meta: Params, t: int, phi: Params, support: Batch) -> Tensor:
        """The inner objective of each task at step t: (T,). The same call gives the same value."""

    @abstractmethod
    def step(
        self, meta: Params, t: int, phi: Params, grad: Params, losses: Tensor, state: Params
    ) -> tuple[Params, Params]:
        """One inner update. Never calls autograd: the gradient is an argument."""

    def search(
        self, meta: Params, t: int, phi: Params, grad: Params, losses: Tensor, around: Around
    ) -> Params:
        """phi_{t+1} of a learner that `searches`."""
        raise NotImplementedError(f"`{type(self).__name__}` goes by `step`")

    @abstractmethod
    def remember(self, state: Params) -> None:
        """Keep the mean over tasks of the final solver state, for the tasks to come."""

    def outer_weights(self) -> Tensor | None:
        """Weights (K,) of the outer losses at phi_1 … phi_K; None where phi_K alone counts."""
        return None


class Estimator(ABC):
    """How dphi/dmeta is applied to a vector.

    `remembers` says that it hands a persistent solver's final state back as `memory`. `recordable`
    says that its tensor operations are the same for all tasks of a shape (no random numbers, no
    loops until convergence). `every_step` says that it can differentiate outer losses at every
    inner step, `end_only` that it looks at phi_K and not at the way there. `phase` is what
    the progress of training has changed about it, as of `Learner`.
    """

    needs: type[Learner] = Learner  # type: ignore[type-abstract]
    remembers = False
    recordable = True
    end_only = False
    every_step = False
    phase: object = None

    @abstractmethod
    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        """Loss and gradient *summed* over the tasks; the caller divides by their number."""

    @abstractmethod
    def describe(self) -> str:
        """The estimator in a few words, for every table of results."""

    def refuse(self, learner: Learner) -> str | None:
        """Why this estimator cannot differentiate this learner, and what to do; None if it can."""
        if isinstance(learner, IterativeLearner) and learner.persistent and not self.remembers:
            return (
                f"`{type(self).__name__}` does not hand back the solver's state, and a persistent "
                "solver needs it for the next tasks. Use `persistent=False`, or `Reptile()`."
            )
        if (
            isinstance(learner, IterativeLearner)
            and not self.every_step
            and learner.outer_weights() is not None
        ):
            return (
                f"`{type(self).__name__}` knows the outer loss at the last inner step only, and "
                "this learner has one at every step. Use `Adjoint()`, or no `multi_step`."
            )
        if isinstance(learner, IterativeLearner) and learner.searches and not self.end_only:
            return (
                f"`{type(self).__name__}` needs inner steps along a gradient, and a step that "
                "searches (`NewtonCG`) is none. Use `Implicit()`, or `GradientDescent`."
            )
        if isinstance(learner, self.needs):
            return None
        return (
            f"`{type(self).__name__}` needs a learner that adapts step by step "
            f"(`{self.needs.__name__}`), and `{type(learner).__name__}` does not. "
            "Use `Unrolled()`."
        )
