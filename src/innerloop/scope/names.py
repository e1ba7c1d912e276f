"""What is adapted: which of a model's parameters the inner loop moves, and from where."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fnmatch import fnmatchcase

import torch
from torch import nn

from ..core import trees
from ..core.types import Params


class Scope(ABC):
    """Chooses parameters by name. Frozen parameters (`requires_grad=False`) are never adapted."""

    @abstractmethod
    def names(self, params: Params) -> list[str]:
        """The adapted names, in the order of `params` (a model's `named_parameters()`)."""

    def start(self, params: Params, names: list[str], tasks: int) -> Params:
        """phi_0: every task starts from the meta-learned values. Leaves (T, ...), views."""
        return {k: trees.expand(params[k], tasks) for k in names}

    @abstractmethod
    def describe(self) -> str:
        """The scope in a few words."""


class All(Scope):
    """Every trainable parameter (MAML)."""

    def names(self, params: Params) -> list[str]:
        return [k for k, v in params.items() if v.requires_grad]

    def describe(self) -> str:
        return "all"


class Only(Scope):
    """Only parameters whose name matches one of the patterns, e.g. `Only("head.*")` (ANIL)."""

    def __init__(self, *patterns: str):
        self.patterns = _checked(patterns)

    def names(self, params: Params) -> list[str]:
        return [k for k in _matched(self.patterns, params) if params[k].requires_grad]

    def describe(self) -> str:
        return "only " + ", ".join(self.patterns)


class Except(Scope):
    """All parameters but those whose name matches, e.g. `Except("head.*")` (BOIL)."""

    def __init__(self, *patterns: str):
        self.patterns = _checked(patterns)

    def names(self, params: Params) -> list[str]:
        left_out = set(_matched(self.patterns, params))
        return [k for k, v in params.items() if v.requires_grad and k not in left_out]

    def describe(self) -> str:
        return "all except " + ", ".join(self.patterns)


class Context(Scope):
    """Context parameters that start from zero for every task and are not meta-learned (CAVIA).

    The model owns a parameter of that name and feeds it to its layers;
    `innerloop.models.Contextual(model, size)` gives any model one.

    Source: Zintgraf et al. 2019, eq. 3-5 (a learned start would be absorbed by the biases).
    """

    def __init__(self, *patterns: str):
        self.patterns = _checked(patterns or ("context",))

    def names(self, params: Params) -> list[str]:
        return _matched(self.patterns, params)

    def start(self, params: Params, names: list[str], tasks: int) -> Params:
        return {k: torch.zeros_like(trees.expand(params[k].detach(), tasks)) for k in names}

    def describe(self) -> str:
        return "context " + ", ".join(self.patterns)


class Zeroed(Scope):
    """`scope`, but parameters that match the patterns start every task from zero (zeroing trick).

    With a head of zeros the first inner step of all other layers is zero, and no task starts with
    the preferences of another one. The matched parameters are adapted, not meta-learned.

    Source: Kao et al. 2022 (MAML is a noisy contrastive learner): the last layer, before each inner
    loop.
    """

    def __init__(self, scope: Scope, *patterns: str):
        self.scope = scope
        self.patterns = _checked(patterns)

    def names(self, params: Params) -> list[str]:
        names = self.scope.names(params)
        fixed = [k for k in _matched(self.patterns, params) if k not in names]
        if fixed:
            raise ValueError(
                f"{', '.join(fixed)} would start from zero and stay there: the scope "
                f"`{self.scope.describe()}` does not adapt them"
            )
        return names

    def start(self, params: Params, names: list[str], tasks: int) -> Params:
        zero = set(_matched(self.patterns, params))
        phi = self.scope.start(params, names, tasks)
        return {k: torch.zeros_like(v) if k in zero else v for k, v in phi.items()}

    def describe(self) -> str:
        return f"{self.scope.describe()}, {', '.join(self.patterns)} from zero"


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


def _checked(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise ValueError('expected at least one name pattern, got none; write e.g. Only("head.*")')
    return patterns


def _matched(patterns: tuple[str, ...], params: Params) -> list[str]:
    """Names that match, each pattern at least once: a typo must not silently adapt nothing."""
    for pattern in patterns:
        if not any(fnmatchcase(k, pattern) for k in params):
            raise ValueError(
                f"no parameter of the model matches {pattern!r}; its parameters are "
                f"{', '.join(params) or '(none)'}"
            )
    return [k for k in params if any(fnmatchcase(k, p) for p in patterns)]
