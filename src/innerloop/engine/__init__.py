"""Meta-gradients recorded as flat lists of tensor operations, replayed or compiled."""

from .recorder import (
    TURN,
    Engine,
    Precision,
    Recorder,
    check_choice,
    keep_freed_memory,
    running,
)

__all__ = [
    "TURN",
    "Engine",
    "Precision",
    "Recorder",
    "check_choice",
    "keep_freed_memory",
    "running",
]
