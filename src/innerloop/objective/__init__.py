"""What adapted weights are judged by, inside and outside."""

from .losses import Loss, as_loss, per_task
from .multi_step import MultiStep

__all__ = ["Loss", "MultiStep", "as_loss", "per_task"]
