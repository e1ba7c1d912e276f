"""Typed dataclasses from plain data, by pydantic. Knows nothing of meta-learning.

A dataclass is the schema: its annotations say what a value may be, `Annotated[..., Bound]` says its
range, and a class variable `kind` tells the members of a union of dataclasses apart. pydantic does
the checking and writes the JSON schema; what is said of a mistake is ours, one line each, with the
nearest known name.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError

from ..core.bounds import Bound
from .bounds import limits
from .schema import ConfigError, Text, nearest, shortened
from .yaml_text import NotReadable, load_text

T = TypeVar("T")

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


def read(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls` from nested mappings.

    Raises:
        ConfigError: naming, all at once, unknown keys (with the nearest known one), missing keys,
            wrong types and numbers out of range. `where` says whose configuration it is.
    """
    try:
        section: Any = cls
        return _adapter(section).validate_python(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True)
        problems = [line for one in found for line in _problems(cls, data, dict(one))]
        raise ConfigError(where, list(dict.fromkeys(problems))) from error


def json_schema(cls: Any, title: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of what `read` takes, for editors that complete YAML."""
    schema = _adapter(cls).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def settings(cls: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted name, what it may be, default) of every setting that is no section with a `kind`."""
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        members = _members(hints[field.name])
        name = f"{path}{field.name}"
        sections: list[Any] = [m for m in members if dataclasses.is_dataclass(m)]
        if not sections:
            yield name, expected(hints[field.name]), field.default
        elif not hasattr(sections[0], "kind"):
            yield from settings(sections[0], f"{name}.")


def expected(hint: Any) -> str:
    """What a setting of this type may be, in words."""
    return " or ".join(map(_name, _members(hint)))


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_section(cls))


@cache
def _section(cls: Any) -> Any:
    """The pydantic type that reads a mapping as an instance of the dataclass `cls`."""
    hints = get_type_hints(cls, include_extras=True)
    kind = getattr(cls, "kind", None)
    fields: dict[str, Any] = {} if kind is None else {"kind": (Literal[kind], kind)}
    for field in dataclasses.fields(cls):
        hint, default = _readable(hints[field.name]), field.default
        if field.default_factory is not dataclasses.MISSING:
            fields[field.name] = (hint, Field(default_factory=field.default_factory))
        else:
            fields[field.name] = (hint, ... if default is dataclasses.MISSING else default)
    config = _STRICT if kind is None else ConfigDict(**_STRICT, json_schema_extra=_with_kind)
    model = create_model(cls.__name__, __config__=config, __doc__=cls.__doc__, **fields)
    return Annotated[model, AfterValidator(partial(_instance, cls))]


def _with_kind(schema: dict[str, Any]) -> None:
    """An editor must know that a section of several kinds says which it is."""
    schema["required"] = ["kind", *schema.get("required", [])]


def _instance(cls: type[Any], model: Any) -> Any:
    """The dataclass with the values that pydantic has checked, and its own check of them all."""
    section = cls(**{f.name: getattr(model, f.name) for f in dataclasses.fields(cls)})
    check = getattr(section, "problems", None)
    found = [] if check is None else check()
    if found:
        raise PydanticCustomError("problems", "problems", {"lines": found})
    return section


def _readable(hint: Any) -> Any:
    """A field's type for pydantic: sections by their `kind`, values as people write them."""
    members = _members(hint)
    sections: list[Any] = [m for m in members if dataclasses.is_dataclass(m)]
    if not sections:
        return Annotated[_value(hint), BeforeValidator(partial(_as_typed, members))]
    if not hasattr(sections[0], "kind"):
        return _section(sections[0])
    choice: Any = reduce(or_, (_section(s) for s in sections))
    if len(sections) > 1:
        choice = Annotated[choice, Field(discriminator="kind")]
    short = next((s.shorthand for s in sections if hasattr(s, "shorthand")), None)
    return Annotated[choice, BeforeValidator(partial(_by_kind, short))]


def _by_kind(short: Any, raw: Any) -> Any:
    """`method: reptile` for `method: {kind: reptile}`; a section's own shorthand for its kind."""
    if isinstance(raw, str):
        raw = {"kind": str(raw)}
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if isinstance(kind, str):
        raw = {**raw, "kind": str(kind)}
        if short is not None:
            return short(raw)
    return raw


def _value(hint: Any) -> Any:
    """A leaf's type for pydantic: our bounds in its words, a list where a tuple is meant."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return reduce(or_, (_value(a) for a in args))
    if origin is Annotated:
        found = [Field(**limits(a)) for a in args[1:] if isinstance(a, Bound)]
        # The range before our own reading of numbers: only there pydantic tells it the schema.
        inner = args[0] if args[0] is float else _value(args[0])
        read_as = [BeforeValidator(_as_float)] if args[0] is float else []
        return Annotated[(inner, *found, *read_as)]
    if origin is Sequence:
        return _value(tuple[args[0], ...])  # type: ignore[valid-type]
    if origin is tuple:
        items = tuple(a if a is Ellipsis else _value(a) for a in args)
        return Annotated[tuple[items], Field(strict=False)]  # type: ignore[valid-type]
    if origin is dict:
        return dict[str, str]
    if hint is float:
        return Annotated[float, BeforeValidator(_as_float)]
    return Annotated[Path, Field(strict=False)] if hint is Path else hint


def _as_typed(members: list[Any], raw: Any) -> Any:
    """A value typed on a command line becomes what YAML says, unless a text is meant."""
    if not isinstance(raw, Text):
        return raw
    if str in members:
        return None if type(None) in members and raw == "null" else str(raw)
    try:
        return load_text(raw)
    except NotReadable as error:
        raise PydanticCustomError("unreadable", "{why}", {"why": str(error)}) from error


def _as_float(raw: Any) -> Any:
    """A number as people write it: YAML 1.1 reads `1e-3` as a string, because it has no dot."""
    if isinstance(raw, str | int) and not isinstance(raw, bool):
        try:
            return float(raw)
        except (ValueError, OverflowError):
            return raw
    return raw


def _problems(cls: type[Any], data: Any, error: dict[str, Any]) -> Iterator[str]:
    """One mistake that pydantic has found, in our words."""
    path, owner, hint = _place(cls, error["loc"])
    kind, raw = error["type"], error["input"]
    prefix = f"{path}." if path else ""
    if kind == "problems":
        yield from (f"{prefix}{line}" for line in error["ctx"]["lines"])
    elif kind == "unreadable":
        yield f"{path}: expected {expected(hint)}, got {shortened(raw)}: {error['ctx']['why']}"
    elif kind == "extra_forbidden":
        key = str(error["loc"][-1])
        known = [f.name for f in dataclasses.fields(owner)]
        yield f"{path}: unknown key; {nearest(key, known)}"
    elif kind == "missing" and isinstance(error["loc"][-1], str) and error["loc"][-1] != "kind":
        yield f"{path}: missing; it has no default"
    elif (
        kind in ("union_tag_invalid", "union_tag_not_found", "literal_error", "missing")
        and hint is None
    ):
        yield _wrong_kind(path.removesuffix(".kind"), owner, raw)
    elif kind in ("model_type", "model_attributes_type", "dict_type") and hint is None:
        if isinstance(owner, list) or (path and hasattr(owner, "kind")):
            yield _wrong_kind(path, owner, raw)
        else:
            yield f"{path or 'the file'}: expected a section of key: value, got {shortened(raw)}"
    else:
        yield f"{path}: expected {expected(hint)}, got {shortened(_given(data, path))}"


def _wrong_kind(path: str, owner: Any, raw: Any) -> str:
    kinds = [s.kind for s in (owner if isinstance(owner, list) else [owner])]
    kind = raw.get("kind") if isinstance(raw, Mapping) else raw
    got = "missing" if kind is None else f"unknown {shortened(kind)}"
    return f"{path}.kind: {got}; {nearest(str(kind)[:80], kinds)}"


def _place(cls: type[Any], where: Sequence[int | str]) -> tuple[str, Any, Any]:
    """(dotted path, the dataclass or dataclasses there, type of the value there or None)."""
    words = list(where)
    names: list[str] = []
    owner: Any = cls
    while words:
        name = str(words.pop(0))
        names.append(name)
        hints = get_type_hints(owner, include_extras=True)
        if name not in hints or name == "kind":
            return ".".join(names), owner, None
        members = _members(hints[name])
        sections: list[Any] = [m for m in members if dataclasses.is_dataclass(m)]
        if not sections:
            return ".".join(names), owner, hints[name]
        if len(sections) == 1:
            owner = sections[0]
        elif not words:
            return ".".join(names), sections, None
        else:
            kind = words.pop(0)
            owner = next(s for s in sections if s.kind == kind)
    return ".".join(names), owner, None


def _given(data: Any, path: str) -> Any:
    """The value that was given for a setting."""
    for name in path.split("."):
        data = data[name] if isinstance(data, Mapping) else data
    return data


def _members(hint: Any) -> list[Any]:
    """The members of a union, flattened; anything else is a union of one."""
    if get_origin(hint) in (Union, types.UnionType):
        return [m for arg in get_args(hint) for m in _members(arg)]
    return [hint]


def _name(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_name(args[0])} {' '.join(str(a) for a in args[1:] if isinstance(a, Bound))}"
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin is dict:
        return "a section of key: value"
    if origin in (tuple, list, Sequence):
        count = f"{len(args)} " if origin is tuple and args[-1] is not Ellipsis else ""
        first = _name(args[0])
        if first.startswith("a list of "):
            return f"a list of {count}lists of {first.removeprefix('a list of ')}"
        noun, _, bound = first.partition(" ")[2].partition(" ")
        return f"a list of {count}{noun}s{' ' + bound if bound else ''}"
    names = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a text",
        Path: "a path",
        type(None): "null",
    }
    return names.get(hint, getattr(hint, "__name__", str(hint)))
