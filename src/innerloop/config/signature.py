"""A config section from the signature of the function it calls: its defaults stand in one place."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..core.bounds import Bound

# The range of a number goes by its name, which means the same in every function of ours.
BOUNDS: dict[str, Bound] = {
    "way": Bound(low=2),
    "shot": Bound(low=1),
    "queries": Bound(low=1),
    "steps": Bound(low=0),
    "cg_steps": Bound(low=1),
    "lr": Bound(low=0, open=True),
    "lam": Bound(low=0, open=True),
    "c": Bound(low=0, open=True),
    "context": Bound(low=1),
    "extra": Bound(low=1),
    "target_lr": Bound(low=0, open=True),
    "p": Bound(low=0, high=1),
    "sigma": Bound(low=0, open=True),
    "pairs": Bound(low=1),
    "reads": Bound(low=1),
    "width": Bound(low=1),
    "label_smoothing": Bound(low=0, high=1),
    "filters": Bound(low=1),
    "blocks": Bound(low=1),
    "std": Bound(low=0, open=True),
    "batch_size": Bound(low=1),
    "tolerance": Bound(low=0),
    "multi_step_until": Bound(low=0, high=1),
    "first_order_until": Bound(low=0, high=1),
    "ramp_until": Bound(low=0, high=1, open=True),
}


def section(kind: str, function: Callable[..., Any], *, given: Sequence[str] = ()) -> Any:
    """A frozen dataclass with the keywords of `function` that plain data can say.

    Its `kind` names it in a file, and `call(**given)` calls the function with the rest of the
    arguments: the parameters named in `given`, and those whose type no file can hold, are left out.
    """
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    fields: list[Any] = []
    for name, parameter in inspect.signature(function).parameters.items():
        hint = None if name in given else _plain_part(hints.get(name), BOUNDS.get(name))
        if hint is None:
            continue
        if parameter.default is inspect.Parameter.empty:
            fields.append((name, hint))
        else:
            fields.append((name, hint, dataclasses.field(default=parameter.default)))

    def call(self: Any, *first: Any, **rest: Any) -> Any:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return function(*first, **values, **rest)

    call.__doc__ = f"`{function.__name__}` with these settings and the rest of its arguments."
    title = "".join(part.capitalize() for part in kind.split("_"))
    return dataclasses.make_dataclass(
        title,
        fields,
        namespace={"kind": kind, "call": call, "__doc__": function.__doc__},
        frozen=True,
        kw_only=True,
    )


def union(sections: Mapping[str, Any]) -> Any:
    """The union type of several sections, for the annotation of a field."""
    return reduce(lambda a, b: a | b, sections.values())


def _plain_part(hint: Any, bound: Bound | None) -> Any:
    """What of a type plain data can say (numbers, texts, literals, lists of them), or None."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [p for p in (_plain_part(a, bound) for a in args) if p is not None]
        if not parts or parts == [types.NoneType]:
            return None
        if str in parts:  # a path is a text in a file
            parts = [p for p in parts if p is not Path]
        return reduce(lambda a, b: a | b, parts)
    if origin is Annotated:
        return hint
    if hint in (int, float):
        return hint if bound is None else Annotated[hint, bound]
    if hint in (bool, str, types.NoneType, Path) or origin is Literal:
        return hint
    if origin in (tuple, Sequence) and all(
        a is Ellipsis or _plain_part(a, None) is not None for a in args
    ):
        return hint
    return None
