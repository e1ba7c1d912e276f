"""The public names. A name that disappears here breaks somebody's script."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from typing import get_type_hints

import pytest
from torch import nn

import innerloop
from innerloop.methods import METHODS
from innerloop.models import mlp

NAMES = {"Batch", "Task", "Method", "MetaGradient", "methods", "check", "__version__"}


def networks(name: str) -> list[inspect.Parameter]:
    """The models that a named method is built on: what stands in front of its keywords."""
    parameters = inspect.signature(METHODS[name].function).parameters.values()
    return [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]


def test_package_names() -> None:
    assert set(innerloop.__all__) >= NAMES
    for name in innerloop.__all__:
        assert getattr(innerloop, name) is not None


def test_version_is_the_installed_one() -> None:
    assert innerloop.__version__ == importlib.metadata.version("innerloop")


def test_fields() -> None:
    assert innerloop.Task._fields == ("support", "query")
    assert innerloop.Batch._fields == ("x", "y", "weight")
    assert set(innerloop.MetaGradient.__dataclass_fields__) >= {"loss", "grads", "stats"}


def test_named_methods_are_public_functions_that_make_a_method() -> None:
    assert len(METHODS) > 25
    for name, entry in METHODS.items():
        assert getattr(innerloop.methods, name) is entry.function
        assert get_type_hints(entry.function)["return"] is innerloop.Method


@pytest.mark.parametrize("module", {entry.function.__module__ for entry in METHODS.values()})
def test_what_a_file_of_methods_exports_is_named(module: str) -> None:
    """One that is exported and not named would be in no table; the other way it would be hidden."""
    exported = importlib.import_module(module).__all__
    assert exported == sorted(n for n, m in METHODS.items() if m.function.__module__ == module)


@pytest.mark.parametrize("name", METHODS)
def test_method_constructors(name: str) -> None:
    """`method(model, *, ...)`: everything after the model is given by name, and has a default."""
    first = networks(name)
    assert first[0].name == "model"
    parameters = inspect.signature(METHODS[name].function).parameters
    rest = [p for p in parameters.values() if p not in first]
    assert all(p.default is not inspect.Parameter.empty for p in rest)
    assert {"norm", "chunk"} <= {p.name for p in rest}
    assert "loss" not in parameters or parameters["loss"].default == "cross_entropy"


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_named_after_themselves_and_cite_their_source(name: str) -> None:
    function = METHODS[name].function
    models = [mlp(2, 3, (4,), norm=True), nn.Linear(4, 7)]
    assert function(*models[: len(networks(name))]).name == name
    assert not METHODS[name].papers or "Source: " in (inspect.getdoc(function) or "")


def test_method_verbs() -> None:
    for verb in ("meta_gradient", "loss", "adapt", "query_outputs", "describe"):
        assert callable(getattr(innerloop.Method, verb))


def test_importing_does_no_work() -> None:
    """No command line, no plotting and no data readers behind a bare `import innerloop`."""
    heavy = ("matplotlib", "rich", "tyro", "PIL", "innerloop.cli")
    code = f"import sys, innerloop; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
