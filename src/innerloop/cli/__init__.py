"""The command line: `innerloop train`, `evaluate`, `compare`, `adapt`, and so on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

EXTRA = ("tyro", "rich", "yaml", "pydantic", "PIL", "matplotlib", "jinja2")
"""What `pip install 'innerloop[cli]'` brings, and the library alone goes without."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Without the extra, say what to install."""
    try:
        from .entry import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        sys.stderr.write(
            f"error: the command line needs {missing}, which is not installed: "
            "pip install 'innerloop[cli]'\n"
        )
        return 2
    return run(arguments)


__all__ = ["main"]
