"""The public names. A name that disappears here breaks somebody's script."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import innerloop

NAMES = {"Batch", "Task", "Method", "MetaGradient", "methods", "check", "__version__"}
METHODS = ("maml", "fomaml", "reptile", "imaml", "anil", "boil", "meta_sgd", "protonet")
GRADIENT_METHODS = tuple(name for name in METHODS if name != "protonet")


def test_package_names() -> None:
    assert set(innerloop.__all__) >= NAMES
    for name in innerloop.__all__:
        assert getattr(innerloop, name) is not None


def test_version_is_the_installed_one() -> None:
    assert innerloop.__version__ == importlib.metadata.version("innerloop")


def test_fields() -> None:
    assert innerloop.Task._fields == ("support", "query")
    assert innerloop.Batch._fields == ("x", "y")
    assert set(innerloop.MetaGradient.__dataclass_fields__) >= {"loss", "grads", "stats"}


@pytest.mark.parametrize("name", METHODS)
def test_method_constructors(name: str) -> None:
    """`method(model, *, ...)`: everything after the model is given by name."""
    parameters = list(inspect.signature(getattr(innerloop.methods, name)).parameters.values())
    assert parameters[0].name == "model"
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[1:])


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_gradient_method_options(name: str) -> None:
    parameters = inspect.signature(getattr(innerloop.methods, name)).parameters
    assert {"lr", "steps", "loss", "chunk"} <= set(parameters)
    assert parameters["loss"].default == "cross_entropy"


def test_method_verbs() -> None:
    for verb in ("meta_gradient", "loss", "adapt", "query_outputs", "describe"):
        assert callable(getattr(innerloop.Method, verb))


def test_importing_does_no_work() -> None:
    """No command line, no plotting and no data readers behind a bare `import innerloop`."""
    heavy = ("matplotlib", "rich", "tyro", "PIL", "innerloop.cli")
    code = f"import sys, innerloop; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
