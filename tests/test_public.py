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
from innerloop.models import mlp

NAMES = {"Batch", "Task", "Method", "MetaGradient", "methods", "check", "__version__"}
STEPPING = (
    "maml", "fomaml", "reptile", "imaml", "anil", "boil", "meta_sgd", "maml_plus_plus",
    "alpha_maml", "bias_transformation", "bootstrapped", "cavia", "deml", "dropgrad", "es_maml",
    "hf_maml", "meta_curvature", "sign_maml", "zeroing", "scratch",
)  # fmt: skip
"""Named methods whose inner loop descends a loss of the user's choice."""
NETWORKS = {"deml": ("model", "discriminator")}
"""Methods on more than one network."""
METHODS = (
    *STEPPING, "meta_lstm", "proto_maml",  # the rate is learned; classes only
    "protonet", "matching", "nil", "r2d2", "lrd2", "metaoptnet",
)  # fmt: skip


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


def test_no_named_method_is_missing_here() -> None:
    found = {
        name
        for name, function in inspect.getmembers(innerloop.methods, inspect.isfunction)
        if issubclass(get_type_hints(function)["return"], innerloop.Method)
    }
    assert found == {*METHODS, "bilevel"}, "bilevel is given two functions, not a model alone"
    assert set(innerloop.methods.METHODS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_method_constructors(name: str) -> None:
    """`method(model, *, ...)`: everything after the model is given by name, and has a default."""
    parameters = list(inspect.signature(getattr(innerloop.methods, name)).parameters.values())
    networks = NETWORKS.get(name, ("model",))
    first, rest = parameters[: len(networks)], parameters[len(networks) :]
    assert tuple(p.name for p in first) == networks
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in rest)
    assert all(p.default is not inspect.Parameter.empty for p in rest)
    assert {"norm", "chunk"} <= {p.name for p in rest}


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_named_after_themselves_and_cite_their_source(name: str) -> None:
    function = getattr(innerloop.methods, name)
    networks = [mlp(2, 3, (4,), norm=True), nn.Linear(4, 7)]
    assert function(*networks[: len(NETWORKS.get(name, ("model",)))]).name == name
    cites = "Source: " in (inspect.getdoc(function) or "")
    assert cites == (name != "scratch") == bool(innerloop.methods.METHODS[name].papers)


@pytest.mark.parametrize("name", STEPPING)
def test_gradient_method_options(name: str) -> None:
    parameters = inspect.signature(getattr(innerloop.methods, name)).parameters
    assert {"lr", "steps", "loss"} <= set(parameters)
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
