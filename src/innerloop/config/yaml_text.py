"""YAML from people and from strangers: read within limits, refused in one line.

A few hundred bytes of YAML can ask for gigabytes (aliases of aliases), for minutes (deep nesting),
or for Python objects and dates where a setting was meant. A configuration needs none of that.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 100_000
"""Of a whole file, aliases written out."""
MOST_LEVELS = 50
LONGEST_NUMBER = 100
"""Characters of a plain number; 64-bit floats and integers need a quarter of that."""


class NotReadable(ValueError):
    """What is wrong with a YAML text, in one line."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without dates, and with every key of a section given once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in given:
                    line = key.start_mark.line + 1
                    raise NotReadable(f"line {line}: {key.value} is given twice")
                given.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, shape) for tag, shape in pairs if not tag.endswith(":timestamp")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_text(text: str) -> Any:
    """The plain value that a YAML text says.

    Raises:
        NotReadable: it is not YAML, says something twice, carries tags, or goes beyond the limits.
    """
    if len(text) > MOST_CHARACTERS:
        raise NotReadable(f"{len(text)} characters, more than the {MOST_CHARACTERS} that are read")
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except NotReadable:
        raise
    except yaml.YAMLError as error:
        raise NotReadable(f"not YAML: {' '.join(str(error).split())[:300]}") from error
    except (ValueError, IndexError, OverflowError, RecursionError) as error:
        # PyYAML's own conversions of what only looks like a number, such as `0x_`.
        raise NotReadable(f"not YAML: {str(error)[:200]}") from error


def _check_events(text: str) -> None:
    """Walk the text without building anything: tags, depth, size with the aliases written out."""
    sizes: dict[str, int] = {}  # of what an anchor stands for
    total, open_sections = 0, []  # (anchor, total before it)
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        place = f"line {event.start_mark.line + 1}" if event.start_mark else "the text"
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise NotReadable(f"{place}: the tag {tag!r}; write plain values without tags")
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:  # unknown, or the section that it stands in
                raise NotReadable(f"{place}: the alias *{anchor} names nothing that came before")
            total += sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.style is None and len(event.value) > LONGEST_NUMBER and _digits(event.value):
                raise NotReadable(
                    f"{place}: a number of {len(event.value)} characters, more than "
                    f"{LONGEST_NUMBER}"
                )
            if anchor is not None:
                sizes[anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_sections.append((anchor, total))
            total += 1
            if len(open_sections) > MOST_LEVELS:
                raise NotReadable(f"{place}: nested more than {MOST_LEVELS} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_sections.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        if total > MOST_VALUES:
            raise NotReadable(f"{place}: more than {MOST_VALUES} values, aliases written out")


def _digits(text: str) -> bool:
    return text.lstrip("+-")[:1].isdigit()
