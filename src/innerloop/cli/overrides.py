"""Dotted settings among the words of a command line: `--train.lr 0.01`, `--method reptile`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

CONFIGURED = (
    "train",
    "evaluate",
    "compare",
    "adapt",
    "report",
    "check-gradient",
    "reproduce",
    "demo",
)
"""The commands that take settings."""
ALIASES = {
    "data": "data.kind",
    "model": "model.kind",
    "method": "method.kind",
    "skip_bad": "data.skip_bad",
    "workers": "train.workers",
}
"""Short forms of settings: `--method reptile`, `--skip-bad`."""
TRAINING = {"minutes": "train.minutes", "seed": "seed"}
"""Short forms of `train` alone: other commands have a --seed of the test tasks."""
WHOLE = ("name", "files")
"""Settings without a dot."""


@dataclass(frozen=True)
class Overrides:
    """The settings that were typed, as (dotted key, text), in their order."""

    pairs: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def label(self) -> str:
        """The settings as a part of a file's name."""
        words = "-".join(f"{key.removesuffix('.kind')}-{value}" for key, value in self.pairs)
        return re.sub(r"[^\w.-]+", "_", words)


def divide(words: Sequence[str]) -> tuple[list[str], Overrides]:
    """The words that are not settings, and the settings.

    A setting is `--key value` or `--key=value` whose key has a dot or a short form; a key without
    a value is `true`. Whether the key exists is for the configuration to say, together
    with every other mistake.
    """
    if not words or words[0] not in CONFIGURED:
        return list(words), Overrides()
    aliases = {**ALIASES, **(TRAINING if words[0] == "train" else {})}
    rest: list[str] = []
    settings: list[tuple[str, str]] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        key, assigned, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        ours = "." in key or key in aliases or key in WHOLE
        key = aliases.get(key, key)
        if not (word.startswith("--") and ours):
            rest.append(word)
        elif assigned:
            settings.append((key, value))
        elif position < len(words) and not words[position].startswith("--"):
            settings.append((key, words[position]))
            position += 1
        else:
            settings.append((key, "true"))
    return rest, Overrides(tuple(settings))
