"""innerloop: optimization-based meta-learning on PyTorch, with exact meta-gradients."""

from . import methods
from .core.types import Batch, MetaGradient, Task
from .method import Method

__version__ = "0.1.0"

__all__ = ["Batch", "MetaGradient", "Method", "Task", "__version__", "methods"]
