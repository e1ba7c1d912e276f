"""The public names. A name that disappears here breaks somebody's script."""

from __future__ import annotations

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


def test_every_function_that_makes_a_method_is_named() -> None:
    found = {
        name
        for name, function in inspect.getmembers(innerloop.methods, inspect.isfunction)
        if get_type_hints(function)["return"] is innerloop.Method
    }
    assert found == set(METHODS)
    assert all(getattr(innerloop.methods, name) is METHODS[name].function for name in METHODS)


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
