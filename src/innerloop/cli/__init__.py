"""The command line: `innerloop train`, `evaluate`, `compare`, `adapt`, and so on."""

from .main import main

__all__ = ["main"]
