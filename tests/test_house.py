"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import fnmatch
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from innerloop.config import load_yaml
from innerloop.recipes import RECIPES, recipe

ROOT = Path(__file__).resolve().parents[1]
YAML = sorted(p for place in ("examples", "benchmarks") for p in (ROOT / place).rglob("*.yaml"))
SOURCE = ROOT / "src" / "innerloop"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 60
READ_AS_ONE = {"core/contract.py", "method.py"}
"""The page that every piece is written against, and the object in the hand: up to 540 lines."""


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines without the docstring) of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.lineno
            if ast.get_docstring(node) is not None:
                start = node.body[0].end_lineno or start
            yield node.name, (node.end_lineno or start) - start + 1


def test_files_are_short() -> None:
    sizes = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES
    }
    assert sizes, "no file found: this test looks in the wrong place"
    longest = {name: 540 if name in READ_AS_ONE else MAX_FILE for name in sizes}
    assert not {name: size for name, size in sizes.items() if size > longest[name]}


def test_what_is_no_code_is_packaged() -> None:
    """The patterns of pyproject.toml take in all such files, and none is there for nothing."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    patterns = tomllib.loads(text)["tool"]["setuptools"]["package-data"]["innerloop"]
    others = {p for p in SOURCE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    found = {pattern: set(SOURCE.glob(pattern)) for pattern in patterns}
    assert all(found.values()) and set.union(*found.values()) == others


def test_functions_are_short() -> None:
    sizes = {f"{path.relative_to(SOURCE)}:{n}": s for path in FILES for n, s in functions(path)}
    assert not {name: size for name, size in sizes.items() if size > MAX_FUNCTION}


def test_names() -> None:
    """No `utils`, no `Base…`, `…Manager`, `…Helper`: a class is a noun of the field."""
    bad_classes = ("Base*", "*Manager", "*Helper", "*Utils")
    for path in FILES:
        assert path.stem not in {"utils", "util", "helpers", "common", "misc"}, path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert not any(fnmatch.fnmatch(node.name, bad) for bad in bad_classes), node.name


def test_library_does_not_print_or_swallow() -> None:
    """`print` nowhere (the command line has its console), no bare except, no raise Exception."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                found.append(f"{where}: print")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{where}: bare except")
            if isinstance(node, ast.Raise) and node.exc is not None:
                raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                if getattr(raised, "id", "") in {"Exception", "BaseException"}:
                    found.append(f"{where}: raise Exception")
    assert not found


def test_imports_are_relative() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "innerloop" for name in names), path


def test_every_test_module_is_collected(request: pytest.FixtureRequest) -> None:
    """A file under tests/ that holds tests but that pytest would not look into never fails."""
    patterns = request.config.getini("python_files")
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        holds = any(
            isinstance(node, ast.FunctionDef | ast.ClassDef)
            and node.name.lower().startswith("test")
            for node in ast.walk(tree)
        )
        if holds:
            assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), (
                f"{path.relative_to(ROOT)} holds tests but does not match {patterns}"
            )


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_survive_yaml(name: str, tmp_path: Path) -> None:
    """What `train --show` prints is the same run when it is read again."""
    config = recipe(name)
    if name.startswith("folder-"):  # whose folder is for the person to say
        config = config.override([("data.root", "photos")])
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_yaml(path) == config


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_shipped_configurations_load(path: Path) -> None:
    assert load_yaml(path).name


def test_typed_marker_ships() -> None:
    assert (SOURCE / "py.typed").is_file()


def test_constraints_are_plain_pins() -> None:
    """Versions only: an address or a hash would tie the file to one index or one platform."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    for pin in pins:
        name, _, version = pin.partition("==")
        assert name and version and not set(pin) & set("/@+ "), pin
