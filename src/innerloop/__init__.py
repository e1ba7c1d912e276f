"""innerloop: optimization-based meta-learning on PyTorch, with exact meta-gradients."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        data,
        estimate,
        evaluate,
        heads,
        learn,
        methods,
        models,
        objective,
        pictures,
        report,
        scope,
        solve,
        testing,
    )
    from .core.types import Batch, MetaGradient, Task
    from .doctor import check
    from .method import Method
    from .methods import bilevel
    from .pictures.load import load

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "MetaGradient",
    "Method",
    "Task",
    "__version__",
    "bilevel",
    "check",
    "data",
    "estimate",
    "evaluate",
    "heads",
    "learn",
    "load",
    "methods",
    "models",
    "objective",
    "pictures",
    "report",
    "scope",
    "solve",
    "testing",
]

_HOME = {
    "Batch": ".core.types",
    "bilevel": ".methods",
    "MetaGradient": ".core.types",
    "Method": ".method",
    "Task": ".core.types",
    "check": ".doctor",
    "load": ".pictures.load",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must not wait for torch to print its help."""
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
