"""The facts about a named method, once: at its function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

Chunk = int | Literal["auto"]

F = TypeVar("F", bound=Callable[..., Any])


class Named(NamedTuple):
    """A function that builds a method, and what tables say of it.

    `papers` are keys of `citations.bib`; `features` says that its model ends at features, without
    a head.
    """

    function: Callable[..., Any]
    papers: tuple[str, ...]
    features: bool

    @property
    def about(self) -> str:
        """The first line of its docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


METHODS: dict[str, Named] = {}
"""Every named method by its name, in the order in which they are defined."""


def named(*, papers: tuple[str, ...], features: bool = False) -> Callable[[F], F]:
    """Enter a function among the named methods, with what tables say of it."""

    def enter(function: F) -> F:
        name = function.__name__
        if name in METHODS and METHODS[name].function.__module__ != function.__module__:
            raise ValueError(f"there are two methods called {name!r}; give one another name")
        METHODS[name] = Named(function, papers, features)
        return function

    return enter
