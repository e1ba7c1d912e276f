"""Readers of the published few-shot data sets: a folder and a split in, a `ClassPool` out.

| reader                 | classes         | pixels  |
|------------------------|-----------------|---------|
| `read_mini_imagenet`   | 64 / 16 / 20    | 84 x 84 |
| `read_tiered_imagenet` | 351 / 97 / 160  | 84 x 84 |
| `read_cifar_fs`        | 64 / 16 / 20    | 32 x 32 |
| `read_fc100`           | 60 / 20 / 20    | 32 x 32 |
| `read_cub`             | 100 / 50 / 50   | any     |
"""

from .cifar import read_cifar_fs, read_fc100
from .cub import read as read_cub
from .layout import Layout, Split
from .mini_imagenet import read as read_mini_imagenet
from .tiered_imagenet import read as read_tiered_imagenet
from .unpickle import read_pickle

__all__ = [
    "Layout",
    "Split",
    "read_cifar_fs",
    "read_cub",
    "read_fc100",
    "read_mini_imagenet",
    "read_pickle",
    "read_tiered_imagenet",
]
