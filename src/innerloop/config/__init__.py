"""Runs as typed data: `RunConfig`, its sections, YAML in and out, and `launch`."""

from . import sources
from .auxiliary import Auxiliary
from .launch import check_folder, launch, load, load_best, stored, task_spec
from .own import OwnData, OwnModel
from .pieces import METHODS, MLP, MODELS, Conv4, R2D2Net, ResNet12, WideResNet
from .reading import read
from .run import Evaluate, RunConfig, load_yaml, parse_yaml, schema
from .schema import ConfigError, plain
from .sources import (
    SOURCES,
    Cub,
    Folder,
    Glyphs,
    LinearGaussian,
    Omniglot,
    Prepared,
    Published,
    Sine,
    SineGroups,
    TestTasks,
)

__all__ = [
    "METHODS",
    "MLP",
    "MODELS",
    "SOURCES",
    "Auxiliary",
    "ConfigError",
    "Conv4",
    "Cub",
    "Evaluate",
    "Folder",
    "Glyphs",
    "LinearGaussian",
    "Omniglot",
    "OwnData",
    "OwnModel",
    "Prepared",
    "Published",
    "R2D2Net",
    "ResNet12",
    "RunConfig",
    "Sine",
    "SineGroups",
    "TestTasks",
    "WideResNet",
    "check_folder",
    "launch",
    "load",
    "load_best",
    "load_yaml",
    "parse_yaml",
    "plain",
    "read",
    "schema",
    "sources",
    "stored",
    "task_spec",
]
