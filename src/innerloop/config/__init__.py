"""Runs as typed data: `RunConfig`, its sections, YAML in and out, and `launch`."""

from .launch import check_folder, launch, stored
from .pieces import METHODS, MLP, MODELS, Conv4
from .run import Evaluate, RunConfig, load_yaml
from .schema import ConfigError, plain, read
from .sources import SOURCES, Folder, LinearGaussian, Omniglot, Sine, TestTasks

__all__ = [
    "METHODS",
    "MLP",
    "MODELS",
    "SOURCES",
    "ConfigError",
    "Conv4",
    "Evaluate",
    "Folder",
    "LinearGaussian",
    "Omniglot",
    "RunConfig",
    "Sine",
    "TestTasks",
    "check_folder",
    "launch",
    "load_yaml",
    "plain",
    "read",
    "stored",
]
