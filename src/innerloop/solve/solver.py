"""The contract of inner solvers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..core.contract import Around
from ..core.types import Params


class Solver(nn.Module, ABC):
    """init / step with the state in and out, so that the loop can be replayed and differentiated.

    `steps` inner steps at most; with `tolerance`, a task stops once the norm of its inner gradient
    is at or below it. Learned hyper-parameters are the module's parameters. A solver that
    `searches` is asked by `search` in place of `step`. `varies` is the reason why its operations
    are not the same at every call, if they are not; `restless` why its steps do not approach a
    stationary point.
    """

    persistent = False
    searches = False
    varies: str | None = None
    restless: str | None = None

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
    def step(
        self, hyper: Params, t: int, phi: Params, grad: Params, losses: Tensor, state: Params
    ) -> tuple[Params, Params]:
        """phi_{t+1} and the next state. `hyper` holds this module's parameters."""

    def search(
        self, hyper: Params, t: int, phi: Params, grad: Params, losses: Tensor, around: Around
    ) -> Params:
        """phi_{t+1} from the inner objective around phi_t, for a solver that `searches`."""
        raise ValueError(f"`{type(self).__name__}` goes by `step`")

    def keep(self, state: Params) -> None:
        """Start the next tasks from this state (the mean over tasks); for persistent solvers."""
        raise ValueError(f"`{type(self).__name__}` keeps no state between tasks")

    @abstractmethod
    def describe(self) -> str:
        """The solver in a few words."""

    def _told(self, name: str) -> str:
        until = "" if self.tolerance is None else f" or until gradient norm {self.tolerance:g}"
        return f"{name}, {self.steps} steps{until}"
