"""What of a gradient learner outlives the tasks."""

from __future__ import annotations

from ..core import trees
from ..core.contract import Memory, Point
from ..core.types import Params
from ..scope import Scope
from ..solve import Solver


class Kept(Memory):
    """The solver's state between tasks, and the weights of a scope that carries them on."""

    def __init__(self, solver: Solver, scope: Scope):
        self.solver, self.scope = solver, scope
        self._of_solver = solver.refuse(Memory) is None
        self._of_scope = scope.refuse(Memory) is None

    def of(self, end: Point) -> Params:
        state = {f"state.{k}": v for k, v in end.state.items()} if self._of_solver else {}
        phi = {f"phi.{k}": v for k, v in end.phi.items()} if self._of_scope else {}
        return state | phi

    def keep(self, state: Params) -> None:
        if self._of_solver:
            self.solver.keep(trees.under("state.", state))
        if self._of_scope:
            self.scope.keep(trees.under("phi.", state))
