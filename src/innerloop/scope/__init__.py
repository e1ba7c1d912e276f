"""What is adapted, where it starts, and how it enters the model."""

from .names import All, Context, Except, Only, Scope, Zeroed, last_layer

__all__ = ["All", "Context", "Except", "Only", "Scope", "Zeroed", "last_layer"]
