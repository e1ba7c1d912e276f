"""Pieces of a self-contained HTML page. Every text that comes in goes out escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

STYLE = """
:root { --ink: #1f2328; --muted: #5f6b76; --line: #e3e6ea; --blue: #0072b2; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f8; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 36px 44px 60px; background: var(--paper);
  min-height: 100vh; box-shadow: 0 0 24px rgb(0 0 0 / 6%); }
h1 { font-size: 1.8rem; margin: 0 0 .2rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead { color: var(--muted); margin: 0 0 1.6rem; }
.cards { display: flex; flex-wrap: wrap; gap: 14px; }
.card { flex: 1 1 200px; padding: 14px 18px; border: 1px solid var(--line); border-radius: 8px; }
.card b { display: block; font-size: 1.55rem; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.card span { color: var(--muted); font-size: .88rem; }
.card.first { border-color: var(--blue); box-shadow: inset 0 3px 0 var(--blue); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { padding: 5px 14px 5px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 550; border-bottom-color: #b9c0c7;
  white-space: nowrap; }
td.number { white-space: nowrap; }
table.facts th { font-weight: 400; color: var(--muted); white-space: nowrap; }
table.facts td { overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr));
  gap: 6px 34px; }
figure { margin: 1.1rem 0 1.8rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--muted); font-size: .88rem; max-width: 46rem; margin-top: .35rem; }
.pair { display: flex; flex-wrap: wrap; gap: 0 30px; }
.pair figure { flex: 0 1 451px; min-width: 0; }
.note { border-left: 3px solid #e69f00; padding: .1rem 0 .1rem 14px; margin: 1rem 0; }
footer { margin-top: 3rem; color: var(--muted); font-size: .85rem; }
@media print { body { background: #fff; } main { box-shadow: none; padding: 0; }
  h2 { break-after: avoid; } figure { break-inside: avoid; } }
@media (max-width: 640px) { main { padding: 22px 18px; } }
"""


@dataclass(frozen=True)
class Picture:
    """A figure of the page: the image file, what it shows, and how to read it."""

    title: str
    image: bytes
    kind: Literal["svg+xml", "png"]
    caption: str
    width: int
    """Width on the page in pixels; narrower screens shrink it."""


def document(title: str, lead: str, body: Sequence[str], footer: str) -> str:
    """A whole page that loads nothing: styles and images are inside, a policy forbids the rest."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        + "\n".join(body)
        + f"\n<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what follows it."""
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(parts)


def paragraph(text: str, *, note: bool = False) -> str:
    """A paragraph, or a remark that must not be overlooked."""
    return f'<p class="note">{escape(text)}</p>' if note else f"<p>{escape(text)}</p>"


def cards(entries: Sequence[tuple[str, str]]) -> str:
    """Large numbers with a line below each; the first is set off."""
    made = [
        f'<div class="card{"" if i else " first"}"><b>{escape(number)}</b>'
        f"<span>{escape(text)}</span></div>"
        for i, (number, text) in enumerate(entries)
    ]
    return f'<div class="cards">{"".join(made)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="number">{escape(cell)}</td>' if i else f"<th>{escape(cell)}</th>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    inside = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


def facts(title: str, entries: Mapping[str, str]) -> str:
    """A small table of names and values under a heading."""
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in entries.items()
    )
    return f'<div><h3>{escape(title)}</h3><table class="facts"><tbody>{body}</tbody></table></div>'


def columns(*parts: str) -> str:
    """Blocks side by side as far as there is room."""
    return f'<div class="columns">{"".join(parts)}</div>'


def pair(*parts: str) -> str:
    """Half-width figures side by side."""
    return f'<div class="pair">{"".join(parts)}</div>'


def picture(shown: Picture) -> str:
    """The figure with its image inside the page."""
    data = base64.b64encode(shown.image).decode("ascii")
    return (
        f'<figure><img src="data:image/{shown.kind};base64,{data}" width="{shown.width}" '
        f'alt="{escape(shown.title)}: {escape(shown.caption)}">'
        f"<figcaption>{escape(shown.caption)}</figcaption></figure>"
    )
