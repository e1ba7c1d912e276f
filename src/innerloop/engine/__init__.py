"""Meta-gradients recorded as flat lists of tensor operations, replayed or compiled."""

from .recorder import (
    TURN,
    Engine,
    Precision,
    Recorder,
    execution,
    keep_freed_memory,
    refuse_recording,
)

__all__ = [
    "TURN",
    "Engine",
    "Precision",
    "Recorder",
    "execution",
    "keep_freed_memory",
    "refuse_recording",
]
