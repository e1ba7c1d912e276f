"""What goes to the terminal: names as they are, never as markup, and no control characters."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table


def terminal(*, errors: bool = False, quiet: bool = False) -> Console:
    """A console that prints what it is given, without a meaning of its own for brackets."""
    return Console(stderr=errors, quiet=quiet, markup=False, highlight=False, emoji=False)


def visible(text: object) -> str:
    """A text whose control characters are shown, never obeyed: a file's name may hold any."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def say(console: Console, text: object, style: str = "") -> None:
    """Print one text, whole: the terminal breaks its lines, a log keeps them."""
    console.print(visible(text), style=style, soft_wrap=True)


def show_table(console: Console, table: Table) -> None:
    """Print a table within the window: cells are broken into lines, never cut."""
    console.print(table)


def bars(console: Console) -> Progress:
    """Progress bars that leave nothing behind, and are not drawn into a log."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
