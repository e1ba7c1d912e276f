"""Where a task starts from: zero, its own prototypes, random weights, or the last one's end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable

import torch
from torch import nn

from ..core import streams, trees
from ..core.classes import membership
from ..core.contract import Memory, Program, Refusal
from ..core.types import Batch, Params, count
from .names import Run, Scope, Within, checked, matched


class Context(Scope):
    """Context parameters that start from zero for every task and are not meta-learned (CAVIA).

    The model owns a parameter of that name and feeds it to its layers;
    `innerloop.models.Contextual(model, size)` gives any model one.

    Source: Zintgraf et al. 2019, eq. 3-5 (a learned start would be absorbed by the biases).
    """

    def __init__(self, *patterns: str):
        super().__init__()
        self.patterns = checked(patterns or ("context",))

    def names(self, params: Params) -> list[str]:
        return matched(self.patterns, params)

    def start(
        self, params: Params, own: Params, names: list[str], support: Batch, run: Run
    ) -> Params:
        tasks = count(support.x)
        return {k: torch.zeros_like(trees.expand(params[k].detach(), tasks)) for k in names}

    def key(self, t: int) -> Hashable:
        return None

    def describe(self) -> str:
        return "context " + ", ".join(self.patterns)


class Zeroed(Within):
    """`scope`, but parameters that match the patterns start every task from zero (zeroing trick).

    With a head of zeros the first inner step of all other layers is zero, and no task starts with
    the preferences of another one. The matched parameters are adapted, not meta-learned.

    Source: Kao et al. 2022 (MAML is a noisy contrastive learner): the last layer, before each inner
    loop.
    """

    def __init__(self, scope: Scope, *patterns: str):
        super().__init__(scope)
        self.patterns = checked(patterns)

    def names(self, params: Params) -> list[str]:
        names = self.scope.names(params)
        fixed = [k for k in matched(self.patterns, params) if k not in names]
        if fixed:
            raise ValueError(
                f"{', '.join(fixed)} would start from zero and stay there: the scope "
                f"`{self.scope.describe()}` does not adapt them"
            )
        return names

    def start(
        self, params: Params, own: Params, names: list[str], support: Batch, run: Run
    ) -> Params:
        zero = set(matched(self.patterns, params))
        phi = super().start(params, own, names, support, run)
        return {k: torch.zeros_like(v) if k in zero else v for k, v in phi.items()}

    def describe(self) -> str:
        return f"{self.scope.describe()}, {', '.join(self.patterns)} from zero"


class Prototypes(Within):
    """`scope`, but a linear head starts every task from w_k = 2 c_k, b_k = -|c_k|^2 (Proto-MAML).

    c_k is the mean of class k's support features; the logits of phi_0 are then those of a
    prototypical network, up to a number that is the same for all classes. The gradient flows
    through c_k into the body; the head's own weights take no part. `head` names the linear layer.
    The number of classes is the task's, not the head's. With a fixed rate, training and test may
    have any number of classes.

    Raises ValueError unless the scope adapts the head and the head is linear with a bias.

    Source: Triantafillou et al. 2020 (Meta-Dataset): Proto-MAML.
    """

    def __init__(self, scope: Scope, head: str = "head"):
        super().__init__(scope)
        self.head = head
        self.weight, self.bias = f"{head}.weight", f"{head}.bias"

    def names(self, params: Params) -> list[str]:
        names = self.scope.names(params)
        left_out = [k for k in (self.weight, self.bias) if k not in names]
        if left_out:
            raise ValueError(
                f"the scope `{self.scope.describe()}` leaves out {', '.join(left_out)}, which "
                "start from the prototypes: adapt the head, or use ProtoLearner"
            )
        return names

    def bind(self, model: nn.Module, steps: int) -> list[str]:
        layer = dict(model.named_modules()).get(self.head)
        if not isinstance(layer, nn.Linear) or layer.bias is None:
            raise ValueError(
                f"prototypes start a linear head with a bias, and the model's {self.head!r} is "
                f"{type(layer).__name__ if layer is not None else 'missing'}; name it with head=..."
            )
        return super().bind(model, steps)

    def start(
        self, params: Params, own: Params, names: list[str], support: Batch, run: Run
    ) -> Params:
        phi = super().start(params, own, names, support, run)
        means = self._means(params, support, run)
        return phi | {self.weight: 2 * means, self.bias: -means.square().sum(-1)}

    def refuse(self, view: type) -> Refusal | None:
        if view is Program:
            return Refusal(
                "labels name classes, and the head's shape depends on their number",
                'Use engine="eager"',
            )
        return super().refuse(view)

    def describe(self) -> str:
        return f"{self.scope.describe()}, the head from prototypes"

    def _means(self, params: Params, support: Batch, run: Run) -> torch.Tensor:
        """The mean features (T, C, d) of each class: what the model gives with an identity head."""
        head = params[self.weight]
        identity = torch.eye(head.shape[1], dtype=head.dtype, device=head.device)
        zeros = torch.zeros(head.shape[1], dtype=head.dtype, device=head.device)
        features = run({**params, self.weight: identity, self.bias: zeros}, set(), support.x)
        member = membership(support.y).to(features.dtype)
        if support.weight is not None:
            member = member * support.weight.to(member.dtype).unsqueeze(-1)
        return member.mT @ features / member.sum(1).unsqueeze(-1)


class Drawn(Within):
    """`scope`, from fresh random weights at every call: what is learned is not the start.

    `draw(model)` puts new values into a copy of the model; by default every layer's
    `reset_parameters` does. All draws of a call are the same, and follow torch's seed.

    Binding raises ValueError for adapted parameters that no layer knows how to draw.
    """

    def __init__(self, scope: Scope, draw: Callable[[nn.Module], None] | None = None):
        super().__init__(scope)
        self.draw = draw
        self._model: list[nn.Module] = []  # in a list: its parameters are not the scope's

    def bind(self, model: nn.Module, steps: int) -> list[str]:
        self._model = [copy.deepcopy(model)]
        names = super().bind(model, steps)
        left = [k for k in undrawn(model) if k in names]
        if left and self.draw is None:
            raise ValueError(
                f"nothing draws {', '.join(left)} anew: their layers have no `reset_parameters`; "
                "pass draw=function(model) that fills all of them"
            )
        return names

    def start(
        self, params: Params, own: Params, names: list[str], support: Batch, run: Run
    ) -> Params:
        (model,) = self._model
        first = next(iter(params.values()))
        model.to(first)
        with torch.no_grad(), streams.replay("drawn", device=first.device):
            (self.draw or reset)(model)
        fresh, tasks = dict(model.named_parameters()), count(support.x)
        return {k: trees.expand(fresh[k].detach().clone(), tasks) for k in names}

    def refuse(self, view: type) -> Refusal | None:
        if view is Program:
            return Refusal("every call draws other weights to start from", 'Use engine="eager"')
        return super().refuse(view)

    def describe(self) -> str:
        return f"{self.scope.describe()}, from random weights"


class Carried(Within):
    """`scope`, from where the last call ended: one long inner run, seen through short windows.

    The first window starts from the model's own weights. `Method.commit` (which `Method.loss`
    calls) carries on; the gradient does not go from one window into the one before.
    """

    def __init__(self, scope: Scope):
        super().__init__(scope)

    def bind(self, model: nn.Module, steps: int) -> list[str]:
        names = super().bind(model, steps)
        params = dict(model.named_parameters())
        for k in names:
            self.register_buffer(f"now/{trees.slot(k)}", params[k].detach().clone())
        return names

    def start(
        self, params: Params, own: Params, names: list[str], support: Batch, run: Run
    ) -> Params:
        now, tasks = dict(self.named_buffers(recurse=False)), count(support.x)
        return {k: trees.expand(now[f"now/{trees.slot(k)}"], tasks) for k in names}

    def refuse(self, view: type) -> Refusal | None:
        if view is Memory:
            return None
        if view is Program:
            return Refusal("the weights outlive the task", 'Use engine="eager"')
        return super().refuse(view)

    def keep(self, phi: Params) -> None:
        now = dict(self.named_buffers(recurse=False))
        for k, v in phi.items():
            now[f"now/{trees.slot(k)}"].copy_(v)

    def describe(self) -> str:
        return f"{self.scope.describe()}, carried on"


def reset(model: nn.Module) -> None:
    """Draw every layer anew that knows how to."""
    for layer in drawable(model):
        layer.reset_parameters()  # type: ignore[operator]


def undrawn(model: nn.Module) -> list[str]:
    """The parameters that `reset` leaves as they are."""
    drawn = {id(p) for layer in drawable(model) for p in layer.parameters(recurse=False)}
    return [k for k, p in model.named_parameters() if id(p) not in drawn]


def drawable(model: nn.Module) -> list[nn.Module]:
    """The layers with a `reset_parameters`."""
    return [m for m in model.modules() if callable(getattr(m, "reset_parameters", None))]
