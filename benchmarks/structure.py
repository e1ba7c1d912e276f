"""How many things of the code must know of each other, counted in its source: before and now.

    python benchmarks/structure.py [--before REVISION]      (seconds; git is asked for the old tree)

Writes benchmarks/results/structure.md. Everything is found by walking the syntax tree, with the
same rules for both revisions, so names can be looked up:

- A *flag* is a fact about a piece for others to branch on: a plain attribute, property or question
  without arguments that a class of the contract or one of its subclasses declares, and that stands
  in a condition elsewhere, or in one of the abstract class about its subclasses.
- A *hook* is knowledge of a piece that is in no contract: an attribute of a learner, solver or
  estimator that another room reads although no abstract class declares it; a `hasattr` or `getattr`
  of a name that a class of the package declares; an `isinstance` or `type(...) is` of a concrete
  class of pieces in another room.
- The files of a *named method* (or data set) are its own (function, page, paper) and all those in
  which nine tenths of all their names stand: lists by hand that a new one is added to. Of these
  the guide (how-to-choose) and its picture were asked for by a test before, and are a choice now.

A count is not a judgement: `tolerance` is a number that the loop needs, and is counted as a flag.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import table, write

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = ("Learner", "Solver", "Estimator", "Head", "Scope", "Objective", "Term", "StepExamples")
VIEWS = ("Path", "Trajectory", "Optimum", "Models", "Program", "Memory")
PIECES = re.compile(
    r"(^|\.|_)(learner|solver|estimator|head|path|scope|term|objective|loss|rate|t)$"
)
WHOLE = re.compile(r"(^|\.|_)(learner|solver|estimator)$")
AWAY = ("cli", "config", "recipes", "data", "models", "report", "pictures", "testing")
"""Rooms that make, draw or test things and do not put pieces together."""
DATA = ("mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100", "cub")
CONDITIONS = (ast.If, ast.IfExp, ast.While, ast.Assert)


class File(NamedTuple):
    """A module of the package: its room, its place and its syntax tree."""

    room: str
    name: str
    tree: ast.Module


class Class(NamedTuple):
    """A class with the names of its bases, and what it declares."""

    room: str
    name: str
    bases: tuple[str, ...]
    attributes: frozenset[str]
    questions: frozenset[str]
    members: frozenset[str]


def files(root: Path) -> list[File]:
    package = root / "src" / "innerloop"
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        room = place.parts[0].removesuffix(".py")
        found.append(File(room, place.as_posix(), ast.parse(path.read_text(encoding="utf-8"))))
    return found


def last(node: ast.AST) -> str:
    """`A` of the expressions `A`, `b.A` and `A[T]`."""
    if isinstance(node, ast.Subscript):
        return last(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def classes(modules: list[File]) -> dict[str, Class]:
    found = {}
    for module in modules:
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ClassDef):
                continue
            attributes, questions, members = set(), set(), set()
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    members.add(part.name)
                    decorators = {last(d) for d in part.decorator_list}
                    if "property" in decorators:
                        attributes.add(part.name)
                    elif len(part.args.args) == 1 and not part.args.kwonlyargs:
                        questions.add(part.name)
                    for inner in ast.walk(part):  # self.name = ... in __init__
                        if (
                            part.name == "__init__"
                            and isinstance(inner, ast.Attribute)
                            and isinstance(inner.ctx, ast.Store)
                            and last(inner.value) == "self"
                        ):
                            attributes.add(inner.attr)
                elif isinstance(part, ast.AnnAssign):
                    attributes.add(last(part.target))
                elif isinstance(part, ast.Assign):
                    attributes |= {last(target) for target in part.targets}
            names = tuple(last(base) for base in node.bases)
            members |= attributes
            found[node.name] = Class(
                module.room, node.name, names, *map(frozenset, (attributes, questions, members))
            )
    return found


def descends(name: str, known: dict[str, Class], parents: tuple[str, ...]) -> bool:
    if name in parents:
        return True
    # A class may be called as its base is (`Linear(nn.Linear)`).
    bases = known[name].bases if name in known else ()
    return any(base != name and descends(base, known, parents) for base in bases)


def conditions(tree: ast.AST) -> Iterator[ast.AST]:
    """Every expression that something is decided by."""
    for node in ast.walk(tree):
        if isinstance(node, CONDITIONS):
            yield node.test
        elif isinstance(node, ast.comprehension):
            yield from node.ifs
        elif isinstance(node, ast.BoolOp | ast.Compare):
            yield node
        elif isinstance(node, ast.Call) and last(node.func) in ("any", "all"):
            yield from node.args


def flags(modules: list[File], known: dict[str, Class]) -> dict[str, set[str]]:
    """Flag -> the files that branch on it."""
    verbs = {"call", "describe", "steps"}  # what every piece does, and how often
    told = {
        name
        for one in known.values()
        if descends(one.name, known, CONTRACT + VIEWS)
        for name in one.attributes | one.questions
        if name not in verbs
    }
    overridden = {
        name
        for one in known.values()
        if descends(one.name, known, CONTRACT) and one.name not in CONTRACT
        for name in one.attributes
    }
    found: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        if module.room in AWAY:
            continue
        for test in conditions(module.tree):
            for node in ast.walk(test):
                read = isinstance(node, ast.Attribute) and node.attr in told
                if read and PIECES.search(ast.unparse(node.value)):
                    found[node.attr].add(module.name)
        for owner in ast.walk(module.tree):
            if not isinstance(owner, ast.ClassDef) or owner.name not in CONTRACT:
                continue
            declared = known[owner.name].attributes & overridden - verbs
            for test in conditions(owner):
                for node in ast.walk(test):
                    read = isinstance(node, ast.Attribute) and node.attr in declared
                    if read and last(node.value) == "self":
                        found[node.attr].add(module.name)
    return found


def hooks(modules: list[File], known: dict[str, Class]) -> dict[str, set[str]]:
    """Hook -> the files that need it."""
    declared = {"parameters", "named_parameters", "buffers", "modules", "to", "train", "training",
                "named_buffers", "named_modules", "state_dict", "children", "eval"}  # fmt: skip
    everywhere: set[str] = set()
    concrete = {}
    for one in known.values():
        everywhere |= one.members
        piece = descends(one.name, known, CONTRACT + VIEWS)
        if one.name in CONTRACT + VIEWS or one.room == "core":
            declared |= one.members
        elif piece or (descends(one.name, known, ("Method",)) and one.name != "Method"):
            concrete[one.name] = one.room
    found: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        if module.room in AWAY:
            continue
        for node in ast.walk(module.tree):
            for hook in _hooks(node, module.room, declared, everywhere, concrete):
                found[hook].add(module.name)
    return found


def _hooks(
    node: ast.AST, room: str, declared: set[str], everywhere: set[str], concrete: dict[str, str]
) -> Iterator[str]:
    if isinstance(node, ast.Call) and last(node.func) in ("hasattr", "getattr"):
        name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
        if name in everywhere and not name.startswith("__"):
            yield f'{last(node.func)} "{name}"'
    elif isinstance(node, ast.Call) and last(node.func) == "isinstance":
        for name in {last(n) for n in ast.walk(node.args[1])} & set(concrete):
            if concrete[name] != room:
                yield f"isinstance {name}"
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot):
        named = {last(n) for n in ast.walk(node.comparators[0])} & set(concrete)
        if named and "type(" in ast.unparse(node.left):
            yield ast.unparse(node)
    elif isinstance(node, ast.Attribute) and room not in ("learn", "methods"):
        owner = ast.unparse(node.value)
        if WHOLE.search(owner) and node.attr not in declared and not node.attr.startswith("_"):
            yield f"{owner.rpartition('.')[2]}.{node.attr}"


def subclasses(known: dict[str, Class]) -> list[str]:
    """Classes that inherit from the gradient learner or from `Method`."""
    parents = ("GradientLearner", "Method")
    return sorted(n for n in known if n not in parents and descends(n, known, parents))


def methods(modules: list[File]) -> list[str]:
    """Public functions that return a `Method`, where named methods are."""
    return sorted(
        node.name
        for module in modules
        if module.room in ("methods", "variants", "plus_plus", "concepts", "closed_form", "metric")
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef)
        and node.returns is not None
        and last(node.returns).strip() in ("Method", "ConceptMethod")
        and not node.name.startswith("_")
        and (module.room != "methods" or node.decorator_list)
    )


def tables(root: Path, names: list[str]) -> list[str]:
    """Files that nine tenths of the names stand in. What a script of docs writes does not count."""
    found = []
    for folder in ("src", "tests", "docs"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in (".py", ".md", ".bib") or "__pycache__" in path.parts:
                continue
            text = path.read_text(encoding="utf-8")
            if "<!-- table: python " in text:
                continue
            held = sum(bool(re.search(rf"(?<![\w-]){n}(?![\w-])", text)) for n in names)
            if held >= 0.9 * len(names):
                found.append(path.relative_to(root).as_posix())
    return found


def lines(root: Path, folder: str) -> int:
    files = (root / folder).rglob("*.py")
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def counted(root: Path) -> dict[str, list[str] | int]:
    """Every row of the page: names, or a number."""
    modules = files(root)
    known = classes(modules)
    package = root / "src" / "innerloop"
    loose = [p.name for p in sorted(package.glob("*.py")) if not p.name.startswith("__")]
    named = methods(modules)
    own = ["its function", "its page", "its paper in citations.bib"]
    return {
        "flags of the contract": sorted(flags(modules, known)),
        "hooks outside the contract": sorted(hooks(modules, known)),
        "subclasses of the gradient learner and of `Method`": subclasses(known),
        "files of a named method": own + tables(root, named),
        "files of a published data set": ["its reader", "its papers", *tables(root, list(DATA))],
        "modules loose in the package's root": loose,
        "named methods": len(named),
        "lines of src": lines(root, "src"),
        "lines of tests": lines(root, "tests"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="count flags, hooks, subclasses, files per addition"
    )
    parser.add_argument("--before", default="before-v2", metavar="REVISION")
    before = parser.parse_args().before
    packed = subprocess.run(
        ["git", "archive", "--format=tar", before, "src", "tests", "docs"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        then = counted(Path(folder))
    now = counted(ROOT)
    shown = [[row, *(str(_size(part[row])) for part in (then, now))] for row in then]
    text = [*_head(before), *table(["", before, "now"], shown)]
    for row, names in then.items():
        if isinstance(names, list):
            text += ["", f"## {row[0].upper()}{row[1:]}", ""]
            text += [f"- {before}: {_listed(names)}", f"- now: {_listed(now[row])}"]
    write("structure.md", text)


def _head(before: str) -> list[str]:
    rules = (__doc__ or "").partition("rules for both revisions, so names can be looked up:\n\n")[2]
    return [
        "# How many things must know of each other",
        "",
        f"Command: `python benchmarks/structure.py`; {before} and the tree it stands in, counted "
        "by the same rules in the syntax tree:",
        "",
        *rules.strip().splitlines(),
        "",
    ]


def _size(part: list[str] | int) -> int:
    return part if isinstance(part, int) else len(part)


def _listed(names: list[str] | int) -> str:
    return ", ".join(n if " " in n and '"' not in n else f"`{n}`" for n in names) or "none"


if __name__ == "__main__":
    main()
