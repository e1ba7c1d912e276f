"""One page about a run: tables and drawings."""

from .report import write_report

__all__ = ["write_report"]
