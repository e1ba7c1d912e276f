"""Configurations as plain data: merged, nested, written out, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .yaml_text import NotReadable, load_text

MOST_NAMES = 40
"""How many known names an error lists; longer lists have a command of their own."""


class ConfigError(ValueError):
    """Every problem of a configuration, one per line."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{count} in {where}:", *(f"  {p}" for p in problems)]))


class Text(str):
    """A value typed on a command line: read as YAML unless the field is a string."""


def plain(value: Any) -> Any:
    """What `read` reads: nested dictionaries, lists, numbers, strings; a section's `kind` first."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = getattr(value, "kind", None)
        items = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return items if kind is None else {"kind": kind, **items}
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
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
    if close:
        return f"did you mean {close[0]}?"
    shown = ", ".join(names[:MOST_NAMES])
    more = len(names) - MOST_NAMES
    return f"known: {shown}" if more <= 0 else f"known: {shown} and {more} more"


def shortened(value: Any) -> str:
    """`repr` of a value as it was given, cut to what a line can hold."""
    if isinstance(value, Text):
        try:
            value = load_text(value)
        except NotReadable:
            value = str(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        text = repr(value[:80] + "…" if isinstance(value, str) and len(value) > 80 else value)
        return text if len(text) <= 90 else f"{text[:80]}…"
    if isinstance(value, list | tuple):
        items = ", ".join(shortened(v) for v in value[:8])
        return f"[{items}{', …' if len(value) > 8 else ''}]"[:120]
    if isinstance(value, Mapping):
        return f"a section of {len(value)} keys"
    return repr(value)[:90]
