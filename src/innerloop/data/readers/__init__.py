"""Readers of the published few-shot data sets: a folder and a split in, a `ClassPool` out.

Each module here decorates its functions with `@dataset(facts)`; importing this package imports them
all, which fills `DATASETS`. A new data set is a new module.
"""

import importlib
import pkgutil

from .registry import DATASETS, PublishedSet, Split
from .unpickle import read_pickle

__all__ = ["DATASETS", "PublishedSet", "Split", "read_pickle"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
