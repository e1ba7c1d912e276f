"""Typed dataclasses from plain data and back. Knows nothing of meta-learning.

A dataclass is the schema: its annotations say what a value may be, `Annotated[..., Bound]` says its
range, and a class variable `kind` tells the members of a union of dataclasses apart. Reading
collects every problem before it raises, so that one run shows all mistakes.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from ..core.bounds import Bound

T = TypeVar("T")


class ConfigError(ValueError):
    """Every problem of a configuration, one per line."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{count} in {where}:", *(f"  {p}" for p in problems)]))


class Text(str):
    """A value typed on a command line: read as YAML unless the field is a string."""


def read(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls` from nested mappings.

    Raises:
        ConfigError: naming, all at once, unknown keys (with the nearest known one), missing keys,
            wrong types and numbers out of range. `where` says whose configuration it is.
    """
    problems: list[str] = []
    value = _section(cls, data, "", problems)
    if problems:
        raise ConfigError(where, problems)
    return value


def plain(value: Any) -> Any:
    """What `read` reads: nested dictionaries, lists, numbers, strings; a section's `kind` first."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = getattr(value, "kind", None)
        items = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return items if kind is None else {"kind": kind, **items}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, key by key.

    A section that gets another `kind` starts from that kind's own defaults: settings of the old
    kind would mean something else there.
    """
    merged = dict(base)
    for key, new in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            switched = "kind" in new and new["kind"] != old.get("kind")
            merged[key] = dict(new) if switched else merge(old, new)
        else:
            merged[key] = new
    return merged


def nest(dotted: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """`[("train.lr", "0.1")]` as `{"train": {"lr": "0.1"}}`, the values marked as typed text."""
    nested: dict[str, Any] = {}
    for key, value in dotted:
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(
                    "the overrides", [f"--{key}: {section} was already given a value"]
                )
        place[last] = Text(value)
    return nested


def nearest(word: str, known: Iterable[str]) -> str:
    """The words to add to an error about an unknown name: the nearest known one, or all."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"


def _section(cls: type[T], data: Any, path: str, problems: list[str]) -> T:
    """Returns a value that is only good if `problems` did not grow."""
    if not isinstance(data, Mapping):
        problems.append(f"{path or 'the file'}: expected a section of key: value, got {data!r}")
        return None  # type: ignore[return-value]
    hints = get_type_hints(cls, include_extras=True)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{path}." if path else ""
    before = len(problems)
    values: dict[str, Any] = {}
    for key, raw in data.items():
        if key == "kind" and hasattr(cls, "kind"):
            continue
        if key not in known:
            problems.append(f"{prefix}{key}: unknown key; {nearest(str(key), known)}")
        else:
            values[key] = _value(hints[key], raw, f"{prefix}{key}", problems)
    for name, field in known.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in data:
            problems.append(f"{prefix}{name}: missing; it has no default")
    if len(problems) > before:
        return None  # type: ignore[return-value]
    section = cls(**values)
    check = getattr(section, "problems", None)
    if check is not None:
        problems.extend(f"{prefix}{problem}" for problem in check())
    return section


def _value(hint: Any, raw: Any, path: str, problems: list[str]) -> Any:
    members = _members(hint)
    sections = [m for m in members if dataclasses.is_dataclass(m)]
    if sections:
        return _choose(sections, raw, path, problems)
    if isinstance(raw, Text) and type(None) in members and raw == "null":
        return None
    if isinstance(raw, Text) and not any(m is str for m in members):
        try:
            raw = yaml.safe_load(raw)
        except yaml.YAMLError:
            raw = str(raw)
    for member in members:
        ok, value = _convert(member, raw)
        if ok:
            return value
    problems.append(f"{path}: expected {' or '.join(map(_name, members))}, got {raw!r}")
    return None


def _members(hint: Any) -> list[Any]:
    """The members of a union, flattened; anything else is a union of one."""
    if get_origin(hint) in (Union, types.UnionType):
        return [m for arg in get_args(hint) for m in _members(arg)]
    return [hint]


def _choose(sections: list[Any], raw: Any, path: str, problems: list[str]) -> Any:
    if len(sections) == 1 and not hasattr(sections[0], "kind"):
        return _section(sections[0], raw, path, problems)
    kinds = {section.kind: section for section in sections}
    kind = raw.get("kind") if isinstance(raw, Mapping) else raw
    if kind not in kinds:
        got = "missing" if kind is None else f"unknown {kind!r}"
        problems.append(f"{path}.kind: {got}; {nearest(str(kind), kinds)}")
        return None
    return _section(kinds[kind], raw if isinstance(raw, Mapping) else {}, path, problems)


def _convert(hint: Any, raw: Any) -> tuple[bool, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ok, value = _convert(args[0], raw)
        bounds = [a for a in args[1:] if isinstance(a, Bound)]
        return ok and all(b.holds(value) for b in bounds), value
    if origin is Literal:
        return raw in args and not isinstance(raw, bool), str(raw) if isinstance(raw, str) else raw
    if origin in (tuple, list, Sequence):
        if not isinstance(raw, list | tuple):
            return False, None
        fixed = args[1:] if origin is tuple and args[-1] is not Ellipsis else ()
        if fixed and len(raw) != len(args):
            return False, None
        items = [_convert(args[i] if fixed else args[0], item) for i, item in enumerate(raw)]
        return all(ok for ok, _ in items), tuple(value for _, value in items)
    if hint is type(None):
        return raw is None, None
    if hint is Path:
        return isinstance(raw, str | Path), Path(raw) if isinstance(raw, str | Path) else None
    if hint is float:
        return _as_float(raw)
    if hint is int:
        return isinstance(raw, int) and not isinstance(raw, bool), raw
    if hint is str:
        return isinstance(raw, str), str(raw)
    return isinstance(raw, hint), raw


def _as_float(raw: Any) -> tuple[bool, float]:
    # YAML 1.1 reads `1e-3` as a string, because it has no dot.
    if isinstance(raw, int | float | str) and not isinstance(raw, bool):
        try:
            return True, float(raw)
        except ValueError:
            pass
    return False, math.nan


def _name(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_name(args[0])} {' '.join(str(a) for a in args[1:] if isinstance(a, Bound))}"
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin in (tuple, list, Sequence):
        count = f"{len(args)} " if origin is tuple and args[-1] is not Ellipsis else ""
        return f"a list of {count}{_name(args[0]).partition(' ')[2]}s"
    names = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a text",
        Path: "a path",
        type(None): "null",
    }
    return names.get(hint, getattr(hint, "__name__", str(hint)))
