"""Dotted settings among the words of a command line: `--train.lr 0.01`, `--method reptile`."""

from __future__ import annotations

from collections.abc import Sequence

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


def divide(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The words that are not settings, and the settings as (dotted key, text).

    A setting is `--key value` or `--key=value` whose key has a dot or a short form; a key without
    a value is `true`. Whether the key exists is for the configuration to say, together
    with every other mistake.
    """
    rest: list[str] = []
    settings: list[tuple[str, str]] = []
    position = 0
    configured = bool(words) and words[0] in CONFIGURED
    while position < len(words):
        word = words[position]
        position += 1
        key, assigned, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        key = ALIASES.get(key, key)
        # Other commands have a --seed of their own, that of the test tasks.
        ours = "." in key or key == "name" or (key == "seed" and words[0] == "train")
        if not (configured and word.startswith("--") and ours):
            rest.append(word)
        elif assigned:
            settings.append((key, value))
        elif position < len(words) and not words[position].startswith("--"):
            settings.append((key, words[position]))
            position += 1
        else:
            settings.append((key, "true"))
    return rest, settings
