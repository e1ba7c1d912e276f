"""A model made ready for one call, and afterwards as it was: the user's own module is called.

A private copy would not do: functions that close over the module go on reading the original,
changes of the model are not seen, and some things cannot be copied.
"""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import nn

from .slots import Entry, put, put_back

_TABLES = ("_parameters", "_buffers", "_modules")


class Dress:
    """The entries of one call; put on and taken off any number of times.

    What `forward` writes into the attributes of modules is taken back as well, so each call starts
    from the model as the user left it. `watched` are the modules that may be written to. `worn`
    lists the dresses that are on, the last one put on last.
    """

    def __init__(self, entries: list[Entry], watched: list[nn.Module], worn: list[Dress]):
        self.entries = entries
        self._watched = watched
        self._worn = worn
        self._before: list[Any] = []

    def put_on(self) -> None:
        kept = [
            (home, dict(home))
            for module in self._watched
            for home in (module.__dict__, *(module.__dict__[k] for k in _TABLES))
        ]
        self._before.append((kept, put(self.entries)))
        self._worn.append(self)

    def take_off(self) -> None:
        self._worn.pop()
        kept, before = self._before.pop()
        put_back(before)
        for home, values in kept:
            if len(home) != len(values) or not all(map(is_, home.values(), values.values())):
                home.clear()
                home.update(values)

    def __enter__(self) -> None:
        self.put_on()

    def __exit__(self, *error: object) -> None:
        self.take_off()
