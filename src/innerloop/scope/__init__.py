"""What is adapted, where it starts, and how it enters the model."""

from .names import All, Except, Only, Scope, Within, last_layer
from .per_step import PerStep
from .start import Carried, Context, Drawn, Prototypes, Zeroed

__all__ = [
    "All",
    "Carried",
    "Context",
    "Drawn",
    "Except",
    "Only",
    "PerStep",
    "Prototypes",
    "Scope",
    "Within",
    "Zeroed",
    "last_layer",
]
