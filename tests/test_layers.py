"""The import arrows of the package, held as a table. A new arrow is a change of the design.

`estimate` never imports `solve` or `learn`: that missing arrow is what lets every estimator
serve every solver. The table is walked by `ast`, so imports inside functions count as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "innerloop"

# unit -> what of ours it may import. "data.source" opens that one module, "data" the whole unit.
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "models": set(),
    "call": {"core"},
    "scope": {"core"},
    "solve": {"core"},
    "heads": {"core"},
    "objective": {"core", "call"},
    "estimate": {"core"},
    "data": {"core"},
    "learn": {"core", "call", "scope", "solve", "heads", "objective"},
    "engine": {"core", "call", "estimate", "learn"},
    "method": {"core", "call", "objective", "estimate", "engine", "learn"},
    "methods": {
        "core",
        "call",
        "scope",
        "solve",
        "heads",
        "objective",
        "estimate",
        "learn",
        "models",
        "engine",
        "method",
    },
    "testing": {
        "core",
        "call",
        "scope",
        "solve",
        "heads",
        "objective",
        "estimate",
        "learn",
        "models",
        "method",
        "methods",
        "doctor",
    },
    "doctor": {"core", "call", "objective", "estimate", "method"},
    "train": {"core", "data.source", "engine", "method", "methods"},
    "evaluate": {"core", "data.source", "data.images", "data.pool"},
    "report": {"core", "data", "evaluate", "method"},
    "pictures": {"core", "data", "evaluate", "method"},
    "config": {"core", "call", "method", "methods", "models", "data", "train"},
    "recipes": {"config", "data", "train", "methods"},
}
FREE = {"cli", "__init__", "__main__"}  # may import everything

# unit -> third-party packages it may import; units not named here may import torch alone.
OUTSIDE: dict[str, set[str]] = {
    "data": {"torch", "numpy", "PIL", "matplotlib", "pooch", "requests"},
    "train": {"torch", "numpy", "safetensors"},
    "evaluate": {"torch", "numpy"},
    "report": {"torch", "numpy", "PIL", "matplotlib", "jinja2"},
    "pictures": {"torch", "numpy", "PIL", "matplotlib", "safetensors"},
    "config": {"torch", "yaml", "pydantic", "pydantic_core"},
    "cli": {"torch", "numpy", "rich", "tyro", "yaml"},
}


def modules() -> dict[str, Path]:
    """Dotted name -> file, for every module of the package."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str], *, for_types: bool = True) -> Iterator[str]:
    """Absolute dotted targets of every import of a module; ours are resolved to modules.

    `for_types=False` leaves out what stands under `if TYPE_CHECKING:` and so never runs.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen and not for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            up = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in known else base


def unit_of(module: str) -> str:
    """`innerloop.core.types` -> `core`; the package itself -> `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def graph(*, for_types: bool = True) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports (not itself)."""
    found = modules()
    return {
        name: {
            target
            for target in imports(name, path, set(found), for_types=for_types)
            if target.split(".")[0] == PACKAGE and target != name
        }
        for name, path in found.items()
    }


def test_every_unit_is_in_the_table() -> None:
    units = {unit_of(name) for name in modules()} - FREE
    assert units == set(ARROWS), "add the new unit, and why it may import what it imports"


@pytest.mark.parametrize("unit", sorted(ARROWS))
def test_arrows(unit: str) -> None:
    forbidden = []
    for name, targets in graph().items():
        if unit_of(name) != unit:
            continue
        for target in targets:
            path = target.removeprefix(PACKAGE).removeprefix(".")
            allowed = ARROWS[unit] | {unit}
            if not any(path == arrow or path.startswith(arrow + ".") for arrow in allowed):
                forbidden.append(f"{name} imports {target}")
    assert not forbidden, f"{unit} may import {sorted(ARROWS[unit]) or 'nothing of ours'}"


def test_no_cycles() -> None:
    edges = graph(for_types=False)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            cycle = [*trail[trail.index(module) :], module]
            raise AssertionError("import cycle: " + " -> ".join(cycle))
        if module in done:
            return
        for target in sorted(edges.get(module, ())):
            visit(target, (*trail, module))
        done.add(module)

    for module in sorted(edges):
        visit(module, ())


def test_third_party() -> None:
    forbidden = []
    for name, path in modules().items():
        allowed = OUTSIDE.get(unit_of(name), {"torch"})
        for target in imports(name, path, set()):
            top = target.split(".")[0]
            if top not in allowed and top != PACKAGE and top not in sys.stdlib_module_names:
                forbidden.append(f"{name} imports {top}")
    assert not forbidden


def test_the_walk_sees_what_it_must(tmp_path: Path) -> None:
    """The table would pass on anything if the resolver were blind: try it on a small file."""
    source = "import torch.nn\nfrom ..core.types import Task\nfrom . import rates\n"
    source += "def late():\n    from ..learn import gradient\n"
    path = tmp_path / "descent.py"
    path.write_text(source)
    known = {"innerloop.solve.rates", "innerloop.core.types", "innerloop.learn.gradient"}
    assert set(imports("innerloop.solve.descent", path, known)) == {"torch.nn", *known}
