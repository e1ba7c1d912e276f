"""The contract of inner solvers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable

import torch
from torch import nn

from ..core.contract import Cotangents, Memory, Point, Refusal, View, pull_by_autograd
from ..core.types import Params


class Solver(nn.Module, ABC):
    """init / step with the state in and out, so that the loop can be replayed and differentiated.

    `steps` inner steps at most; with `tolerance`, a task stops once the norm of its inner gradient
    is at or below it. Learned hyper-parameters are the module's parameters, and come to `step` as
    `hyper`. A solver of one's own needs `init`, `step` and `describe`; the rest has defaults.
    """

    def __init_subclass__(cls) -> None:
        """What is known in closed form belongs to the step that it was derived from.

        A subclass that writes a step of its own, and not these, would silently be differentiated
        as the solver it inherits from: it gets the general ones back.
        """
        super().__init_subclass__()
        if "step" in cls.__dict__:
            for name in ("pull", "pull_constant", "key"):
                if name not in cls.__dict__:
                    setattr(cls, name, getattr(Solver, name))

    def __init__(self, steps: int, tolerance: float | None):
        super().__init__()
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise ValueError(f"expected a number of inner steps >= 0, got steps={steps!r}")
        if tolerance is not None and not tolerance > 0:
            raise ValueError(
                f"expected a gradient tolerance > 0, or None for a fixed number of steps, "
                f"got tolerance={tolerance!r}"
            )
        self._bound: dict[str, torch.Size] | None = None
        self.steps = steps
        self.tolerance = tolerance

    def bind(self, shapes: dict[str, torch.Size], dtype: torch.dtype) -> None:
        """Create whatever is learned or kept per adapted tensor; called by the learner.

        A solver that adapts the same tensors already keeps what it has learned. Raises ValueError
        if it belongs to other ones.
        """
        if self._bound is None:
            self._bound = dict(shapes)
            self._create(shapes, dtype)
        elif self._bound != shapes:
            raise ValueError(
                f"this {type(self).__name__} already adapts {', '.join(self._bound)} in another "
                "learner; give each learner a solver of its own, e.g. copy.deepcopy(solver)"
            )

    def _create(self, shapes: dict[str, torch.Size], dtype: torch.dtype) -> None:
        """Whatever a solver learns or keeps per adapted tensor."""
        return None

    @abstractmethod
    def init(self, phi: Params) -> Params:
        """The state before the first step, leaves (T, ...); empty for a solver without memory."""

    @abstractmethod
    def step(self, hyper: Params, point: Point, view: View) -> Point:
        """phi_{t+1} and the next state from the losses and the gradient that `view` holds."""

    def pull(self, hyper: Params, point: Point, view: View, lam: Params, mu: Params) -> Cotangents:
        """The vjp of `step`; `meta` in it holds this module's parameters. By autograd, unless a
        solver knows it in closed form."""
        return pull_by_autograd(self.step, hyper, point, view, lam, mu)

    def pull_constant(self, lam: Params, mu: Params) -> tuple[Params, Params] | None:
        """`pull` where the gradient is a constant, if it needs no point; see `Path`."""
        return None

    def key(self, t: int) -> Hashable:
        """Steps with equal keys are the same tensor program."""
        return t

    def refuse(self, view: type) -> Refusal | None:
        """Why a learner with this solver cannot be seen as `Path`, `Optimum`, `Program`, `Memory`.

        None where it can, as far as the solver is concerned.
        """
        if view is Memory:
            return Refusal(
                f"`{type(self).__name__}` keeps no state between tasks",
                "Use `Adam(..., persistent=True)`",
            )
        return None

    def keep(self, state: Params) -> None:
        """Start the next tasks from this state (the mean over tasks); for persistent solvers."""
        raise ValueError(f"`{type(self).__name__}` keeps no state between tasks")

    @abstractmethod
    def describe(self) -> str:
        """The solver in a few words."""

    def _told(self, name: str) -> str:
        until = "" if self.tolerance is None else f" or until gradient norm {self.tolerance:g}"
        return f"{name}, {self.steps} steps{until}"
