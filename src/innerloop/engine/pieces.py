"""The pieces of a method: functions bound to them, and a look whether they are still the same."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from ..core.contract import Estimator, Learner, MetaGradientFunction, Objective, Path


class _Bound(NamedTuple):
    """A meta-gradient function, and what it was bound from: another state binds anew."""

    estimator: Estimator
    settings: dict[str, Any]
    steps: int
    function: MetaGradientFunction

    def stands(self, steps: int) -> bool:
        """Whether the estimator's settings and the number of inner steps are still the same."""
        now = vars(self.estimator)
        return (
            steps == self.steps
            and len(now) == len(self.settings)
            and all(now.get(k) is v for k, v in self.settings.items())
        )


class Pieces:
    """A learner and an objective as they are at the building of a method."""

    def __init__(self, learner: Learner, objective: Objective):
        self._learner, self._objective = learner, objective
        path = learner.offer(Path)  # type: ignore[type-abstract]
        self._path = path if isinstance(path, Path) else None
        self._bound: dict[int, _Bound] = {}
        self._parts = _parts(learner, objective)

    def __getstate__(self) -> dict[str, Any]:
        """A copy binds its own pieces: a bound function would go on using the original's."""
        return self.__dict__ | {"_bound": {}}

    @property
    def steps(self) -> int:
        """The inner steps of the path, as they are now; 0 without one."""
        return 0 if self._path is None else self._path.steps

    def function(self, estimator: Estimator) -> MetaGradientFunction:
        """The meta-gradient by this estimator, bound once for each state of its settings."""
        found = self._bound.get(id(estimator))
        if found is None or not found.stands(self.steps):
            function = estimator.on(self._learner, self._objective)
            found = _Bound(estimator, dict(vars(estimator)), self.steps, function)
            self._bound[id(estimator)] = found
        return found.function

    def refuse_exchanged(self, learner: Learner, objective: Objective) -> None:
        """Parts put in the place of others after building would be used by half of the code.

        Raises ValueError, naming the part.
        """
        now = _parts(learner, objective)
        gone = next((k for k, part in self._parts.items() if now.get(k) is not part), None)
        if gone is not None:
            raise ValueError(
                f"`method.{gone}` was exchanged after the method was built, and only some of its "
                f"code would notice: make a new one with `method.replace({gone.split('.')[0]}=...)`"
            )


def _parts(learner: Learner, objective: Objective) -> dict[str, nn.Module | None]:
    """Learner, objective and their direct parts by the name that a user types."""
    parts: dict[str, nn.Module | None] = {"learner": learner, "objective": objective}
    for owner, piece in (("learner", learner), ("objective", objective)):
        parts |= {f"{owner}.{k}": part for k, part in piece._modules.items()}
    return parts
