"""How the meta-gradients of a run are executed."""

from __future__ import annotations

from ..method import Method
from .baseline import Trainable
from .settings import Settings


def apply_engine(method: Trainable, settings: Settings) -> None:
    """Choose how meta-gradients are executed."""
    if isinstance(method, Method):
        method.use(settings.engine, precision=settings.precision)
    elif (settings.engine, settings.precision) != ("eager", "float32"):
        raise ValueError(
            f"{type(method).__name__} has no meta-gradient to record: use train.engine=eager and "
            "train.precision=float32"
        )
