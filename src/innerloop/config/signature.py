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
from .bounds import BOUNDS


def section(kind: str, function: Callable[..., Any], *, given: Sequence[str] = ()) -> Any:
    """A frozen dataclass with the keywords of `function` that plain data can say.

    Its `kind` names it in a file, and `call(**given)` calls the function with the rest of the
    arguments: the parameters named in `given`, and those whose type no file can hold, are left out.
    An argument of `call` takes the place of the setting of its name.
    """
    hints = get_type_hints(
        function.__init__ if inspect.isclass(function) else function, include_extras=True
    )
    bounds = BOUNDS.get(function.__name__, {})
    fields: list[Any] = []
    for name, parameter in inspect.signature(function).parameters.items():
        hint = None if name in given else _plain_part(hints.get(name), bounds.get(name))
        if hint is None:
            continue
        if parameter.default is inspect.Parameter.empty:
            fields.append((name, hint))
        else:
            fields.append((name, hint, dataclasses.field(default=parameter.default)))

    def call(self: Any, *first: Any, **rest: Any) -> Any:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return function(*first, **{**values, **rest})

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
    if origin in (tuple, Sequence):
        items = [a if a is Ellipsis else _plain_part(a, bound) for a in args]
        if all(item is not None for item in items):
            return tuple[(items[0], ...) if origin is Sequence else tuple(items)]  # type: ignore[misc]
    return None
