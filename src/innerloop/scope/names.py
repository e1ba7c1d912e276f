"""What is adapted: which of a model's parameters the inner loop moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from fnmatch import fnmatchcase

from torch import nn

from ..core import trees
from ..core.contract import Memory, Point, Refusal
from ..core.types import Batch, Params, Tree, count

Run = Callable[[Params, set[str], Tree], Tree]
"""(weights by name, names that have a row per task, x) -> the model's outputs (T, n, ...)."""


class Scope(nn.Module, ABC):
    """What is adapted, where it starts, and how it enters the model.

    Chooses parameters by name; frozen parameters (`requires_grad=False`) are never adapted. What a
    scope learns by itself is its own parameters, which come to its functions as `own`. `params`
    are the model's parameters by name, `names` the adapted ones.
    """

    @abstractmethod
    def names(self, params: Params) -> list[str]:
        """The adapted names, in the order of `params` (a model's `named_parameters()`)."""

    def bind(self, model: nn.Module, steps: int) -> list[str]:
        """The adapted names of this model; whatever is learned beside them is created here."""
        return self.names(dict(model.named_parameters()))

    def start(
        self, params: Params, own: Params, names: list[str], support: Batch, run: Run
    ) -> Params:
        """phi_0: every task starts from the meta-learned values. Leaves (T, ...), views."""
        tasks = count(support.x)
        return {k: trees.expand(params[k], tasks) for k in names}

    def weights(
        self, params: Params, own: Params, names: list[str], point: Point, role: str
    ) -> tuple[Params, set[str]]:
        """The model's weights at a point, and which of them have a row per task.

        `role` is "support" for the inner objective, "query" for predictions with phi.
        """
        return {**params, **point.phi}, set(names)

    def key(self, t: int) -> Hashable:
        """Steps with equal keys use the model alike; by default no two are known to."""
        return t

    def refuse(self, view: type) -> Refusal | None:
        """Why a learner with this scope cannot be seen as a `Program` or `Memory`, say.

        None where it can, as far as the scope is concerned. By default nothing outlives a task.
        """
        if view is Memory:
            return Refusal(
                f"`{type(self).__name__}` starts every task anew", "Use `Carried(scope)`"
            )
        return None

    def keep(self, phi: Params) -> None:
        """Start the next tasks from here; for scopes that keep."""
        raise ValueError(f"`{type(self).__name__}` starts every task anew")

    @abstractmethod
    def describe(self) -> str:
        """The scope in a few words."""


class All(Scope):
    """Every trainable parameter (MAML)."""

    def names(self, params: Params) -> list[str]:
        return [k for k, v in params.items() if v.requires_grad]

    def key(self, t: int) -> Hashable:
        return None

    def describe(self) -> str:
        return "all"


class Only(Scope):
    """Only parameters whose name matches one of the patterns, e.g. `Only("head.*")` (ANIL)."""

    def __init__(self, *patterns: str):
        super().__init__()
        self.patterns = checked(patterns)

    def names(self, params: Params) -> list[str]:
        return [k for k in matched(self.patterns, params) if params[k].requires_grad]

    def key(self, t: int) -> Hashable:
        return None

    def describe(self) -> str:
        return "only " + ", ".join(self.patterns)


class Except(Scope):
    """All parameters but those whose name matches, e.g. `Except("head.*")` (BOIL)."""

    def __init__(self, *patterns: str):
        super().__init__()
        self.patterns = checked(patterns)

    def names(self, params: Params) -> list[str]:
        left_out = set(matched(self.patterns, params))
        return [k for k, v in params.items() if v.requires_grad and k not in left_out]

    def key(self, t: int) -> Hashable:
        return None

    def describe(self) -> str:
        return "all except " + ", ".join(self.patterns)


class Within(Scope):
    """A scope that changes one thing about another one, `scope`."""

    def __init__(self, scope: Scope):
        super().__init__()
        if not isinstance(scope, Scope):
            raise ValueError(
                f"expected the scope to change, such as All(), got {type(scope).__name__}"
            )
        self.scope = scope

    def names(self, params: Params) -> list[str]:
        return self.scope.names(params)

    def bind(self, model: nn.Module, steps: int) -> list[str]:
        inner = self.scope.bind(model, steps)
        wanted = set(self.names(dict(model.named_parameters())))
        return [k for k in inner if k in wanted]

    def start(
        self, params: Params, own: Params, names: list[str], support: Batch, run: Run
    ) -> Params:
        return self.scope.start(params, trees.under("scope.", own), names, support, run)

    def weights(
        self, params: Params, own: Params, names: list[str], point: Point, role: str
    ) -> tuple[Params, set[str]]:
        return self.scope.weights(params, trees.under("scope.", own), names, point, role)

    def key(self, t: int) -> Hashable:
        return self.scope.key(t)

    def refuse(self, view: type) -> Refusal | None:
        return self.scope.refuse(view)

    def keep(self, phi: Params) -> None:
        self.scope.keep(phi)


def last_layer(model: nn.Module) -> str:
    """The name pattern of the last registered layer that owns parameters: the head."""
    owners = [
        name
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    if not owners or not owners[-1]:
        raise ValueError(
            'the model has no sub-layer that could be its head; name it, e.g. head="classifier.*"'
        )
    # A parametrised layer (weight norm) owns its weight one level down: the layer is the head.
    return owners[-1].partition(".parametrizations")[0] + ".*"


def checked(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns; ValueError without one."""
    if not patterns:
        raise ValueError('expected at least one name pattern, got none; write e.g. Only("head.*")')
    return patterns


def matched(patterns: tuple[str, ...], params: Params) -> list[str]:
    """Names that match, each pattern at least once: a typo must not silently adapt nothing."""
    for pattern in patterns:
        if not any(fnmatchcase(k, pattern) for k in params):
            raise ValueError(
                f"no parameter of the model matches {pattern!r}; its parameters are "
                f"{', '.join(params) or '(none)'}"
            )
    return [k for k in params if any(fnmatchcase(k, p) for p in patterns)]
