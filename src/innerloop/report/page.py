"""What stands on the page of a report, and the template that it is put into."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@dataclass(frozen=True)
class Picture:
    """A figure of the page: the image file, what it shows, and how to read it."""

    title: str
    image: bytes
    kind: Literal["svg+xml", "png"]
    caption: str
    width: int
    """Width on the page in pixels; narrower screens shrink it."""

    @property
    def source(self) -> str:
        """The image as an address that holds it."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.image).decode('ascii')}"


class Table(NamedTuple):
    """A table whose first column names the rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Page:
    """The texts, numbers and pictures of a report, in the order in which they are read."""

    warnings: Sequence[str]
    """What must be read before any number; the first line of the page."""
    title: str
    lead: str
    cards: Sequence[tuple[str, str]]
    """Large numbers with a line below each; the first is set off."""
    policy: str
    transductive: bool
    interval: str
    scores: Table
    pairs: Table
    score_pictures: Sequence[Picture]
    pictures: Sequence[Picture]
    parameters: Sequence[Picture]
    facts: Mapping[str, Mapping[str, str]]
    footer: str


def render(page: Page) -> str:
    """The page as HTML: one file that loads nothing, every text escaped."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return templates.get_template("page.html.j2").render(page=page)
