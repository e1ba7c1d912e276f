"""The bounds of a configuration are those of the constructors: at the bound, and just past it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from innerloop.config import METHODS, MODELS, SOURCES, ConfigError, Conv4, pieces, plain, read
from innerloop.config.bounds import BOUNDS, Below
from innerloop.config.reading import _members, json_schema
from innerloop.core.bounds import Bound
from innerloop.data.source import Spec

SPEC = Spec("classification", (1, 28, 28), 5)
NEEDS: dict[tuple[str, str], dict[str, Any]] = {
    ("metaoptnet", "lam"): {"head": "ridge"},
    ("matching", "width"): {"reads": 1},
    ("mlp", "std"): {"init": "truncated_normal"},
    ("hf_maml", "displacement"): {},
}
"""What else must be set for a setting to be looked at."""
BUILT = ("sine", "sine_groups", "linear_gaussian")
"""Sources that need no files."""
WIDER = {"lr"}
"""A constructor may accept more here: a rate below 0 climbs, which no run means."""


def bounds(section: Any) -> Iterator[tuple[str, Bound, Any]]:
    """(setting, bound, default) of a section; of a list, the bound of its entries."""
    hints = get_type_hints(section, include_extras=True)
    for field in dataclasses.fields(section):
        for member in _members(hints[field.name]):
            for inner in (member, *getattr(member, "__args__", ())):
                for bound in getattr(inner, "__metadata__", ()):
                    yield field.name, bound, field.default


CASES = sorted(
    {
        (kind, name)
        for table in (METHODS, MODELS, SOURCES)
        for kind, section in table.items()
        for name, _, _ in bounds(section)
    }
)


def edges(bound: Bound, whole: bool) -> Iterator[tuple[float, bool]]:
    """(value, whether it is within), at each end of the range and just past it."""
    for end, way, open_end in (
        (bound.low, -1, bound.open),
        (bound.high, 1, isinstance(bound, Below)),
    ):
        if math.isfinite(end):
            past = end + way if whole else math.nextafter(end, way * math.inf)
            yield (int(past) if whole else past), False
            yield (int(end) if whole else end), not open_end
            if open_end:
                yield (int(end) - way if whole else math.nextafter(end, -way * math.inf)), True


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_config_and_constructor_agree(kind: str, name: str) -> None:
    section = {**METHODS, **MODELS, **SOURCES}[kind]
    checked = 0
    for found, bound, default in bounds(section):
        if found != name:
            continue
        hints = get_type_hints(section, include_extras=True)
        whole = "int" in str(hints[name]) and "float" not in str(hints[name])
        for value, within in edges(bound, whole):
            given: Any = (value,) * len(default) if isinstance(default, tuple) else value
            required = {"root": "x"} if "root" in hints else {}
            required |= {"dataset": "fc100"} if "dataset" in hints else {}
            data = {**required, name: plain(given), **NEEDS.get((kind, name), {})}
            assert accepts(lambda data=data: read(section, data, "x")) == within, (value, bound)
            if kind in SOURCES and kind not in BUILT:
                continue
            made = section(**{**NEEDS.get((kind, name), {}), name: given})
            built = accepts(lambda made=made: build(kind, made))
            assert built == within or (built and name in WIDER), (value, bound)
            checked += 1
    assert checked or kind in SOURCES


def build(kind: str, section: Any) -> object:
    if kind in METHODS:
        return pieces.build(section, Conv4(filters=2), SPEC, 20)
    if kind in MODELS:
        if kind == "wide_resnet" and section.depth not in (10, 9):
            section = dataclasses.replace(section, depth=10)
        return pieces.network(section, SPEC)
    return section.call(device="cpu")


def accepts(call: Any) -> bool:
    try:
        call()
    except (ConfigError, ValueError):
        return False
    return True


def test_the_table_names_what_there_is() -> None:
    """A function or a parameter that is gone must not keep a row."""
    functions = {}
    for table in (METHODS, MODELS, SOURCES):
        for kind, section in table.items():
            functions[kind] = {f.name for f in dataclasses.fields(section)}
    renamed = {"Conv4": "conv4", "Sine": "sine"}
    for function, parameters in BOUNDS.items():
        assert parameters.keys() <= functions[renamed.get(function, function)], function


def test_what_was_refused_too_late() -> None:
    for kind, name, value in (
        ("imaml", "tolerance", 0),
        ("dropgrad", "p", 1.0),
        ("metaoptnet", "label_smoothing", 1),
        ("lrd2", "steps", 0),
    ):
        with pytest.raises(ConfigError, match=name):
            read(METHODS[kind], {name: value}, "x")
    assert read(METHODS["dropgrad"], {"p": 0}, "x").p == 0


def test_bounds_reach_the_json_schema() -> None:
    schema = json_schema(METHODS["dropgrad"], "x")
    p = schema["properties"]["p"]
    assert (p["minimum"], p["exclusiveMaximum"], p["default"]) == (0, 1, 0.1)
    assert schema["properties"]["lr"]["exclusiveMinimum"] == 0
    assert schema["required"] == ["kind"]
