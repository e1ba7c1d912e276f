"""What README and docs show is true: python blocks run, command lines parse.

The python blocks of a file run in order and share their names. A comment on the line before a
block says otherwise: `<!-- needs data: omniglot -->` skips it where that data set is absent,
`<!-- needs package: higher -->` where that package is not installed, `<!-- not run: reason -->`
shows it only. Blocks of `console` are command lines after `$ `.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import nn

from innerloop import Method
from innerloop.cli.entry import parse
from innerloop.methods import METHODS
from innerloop.models import mlp
from innerloop.recipes import RECIPES, recipe

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("INNERLOOP_DATA", "~/.cache/innerloop")).expanduser()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n+)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PROGRAMS = {"innerloop", "torchrun", "make", "pip", "python", "git", "cd", "source"}


class Block(NamedTuple):
    line: int
    language: str
    mark: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text[: match.start("text")].count("\n") + 1
        yield Block(line, match["language"], match["mark"] or "", match["text"])


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_blocks(*languages: str) -> list[Path]:
    return [page for page in PAGES if any(b.language in languages for b in blocks(page))]


def script(path: Path) -> ModuleType:
    """A file of docs as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = script(ROOT / "docs" / "table_of_methods.py")


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A block may write files, set the default dtype and draw numbers: undone afterwards."""
    monkeypatch.chdir(tmp_path)
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("page", with_blocks("python"), ids=name)
def test_python_blocks_run(page: Path, untouched: None) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    absent = []
    for block in blocks(page):
        if block.language != "python" or block.mark.startswith("not run:"):
            continue
        if block.mark.startswith("needs package:"):
            package = block.mark.removeprefix("needs package:").strip()
            if importlib.util.find_spec(package) is None:
                absent.append(f"line {block.line} needs {package}")
                continue
        if block.mark.startswith("needs data:"):
            folder = DATA / block.mark.removeprefix("needs data:").strip()
            if not folder.exists():
                absent.append(f"line {block.line} needs {folder} (INNERLOOP_DATA)")
                continue
        # Blank lines first, so that a traceback names the line of the page.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
    if absent:
        pytest.skip(f"{name(page)}: the other blocks ran; {'; '.join(absent)}")


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, words) of every command line of a page; a trailing backslash continues it."""
    for block in blocks(page):
        if block.language != "console" or block.mark.startswith("not run:"):
            continue
        pending, start = "", 0
        for offset, line in enumerate(block.text.splitlines()):
            if not pending and not line.startswith("$ "):
                continue  # output
            start = start if pending else block.line + offset
            pending += line.removeprefix("$ ").rstrip("\\")
            if not line.endswith("\\"):
                yield start, shlex.split(pending, comments=True)
                pending = ""


@pytest.mark.parametrize("page", with_blocks("console", "bash", "sh"), ids=name)
def test_commands_exist(page: Path) -> None:
    languages = {block.language for block in blocks(page)}
    assert not languages & {"bash", "sh"}, "write ```console and `$ ` before each command"
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line, words in commands(page):
        where = f"{name(page)}:{line}: {shlex.join(words)}"
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # a variable for this command
            words = words[1:]
        program = Path(words[0]).name
        assert program in PROGRAMS, where
        if program == "make":
            assert {word for word in words[1:] if "=" not in word} <= set(targets), where
        elif program == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), where
        elif program in ("innerloop", "torchrun"):
            parses(words[words.index("innerloop") + 1 :], where)


def parses(words: list[str], where: str) -> None:
    """The command exists, its options are known, and its settings fit the recipe it names."""
    try:
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            command, overrides = parse(words)
    except (SystemExit, ValueError) as stop:
        raise AssertionError(f"{where}: {errors.getvalue()} {stop}") from stop
    asked = getattr(command, "recipe", "")
    if asked in RECIPES:
        recipe(asked).override(overrides.pairs)
    else:
        # A run's folder, a file of the reader, or a command without a recipe.
        assert not asked or asked.startswith("runs/") or asked.endswith(".yaml"), where


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{name(page)}: {target}"


def test_the_index_names_every_page() -> None:
    """Pages of methods are named in the table of methods, all others in the index."""
    docs = ROOT / "docs"
    for page in sorted(docs.rglob("*.md")):
        path = page.relative_to(docs).as_posix()
        home = docs / ("methods.md" if path.startswith("methods/") else "index.md")
        assert page == home or f"]({path})" in home.read_text(encoding="utf-8"), name(page)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "methods").glob("*.md")), ids=name)
def test_pages_of_methods_have_one_pattern(page: Path) -> None:
    """A paragraph, an equation, the composition, details, what was measured, when to use it."""
    text = page.read_text(encoding="utf-8")
    parts = ["\n$$", "```python", "## Details that matter", "## Measured", "## When to use it"]
    places = [text.find(part) for part in (*parts, "\nSource: ")]
    assert text.startswith("# ") and -1 not in places and places == sorted(places), places
    measured = text[places[3] : places[4]].removeprefix("## Measured\n\n")
    told = measured.startswith("Not yet measured") or re.search("`(python|innerloop) ", measured)
    assert told, "name the command that measured it, or write: Not yet measured"


def test_every_method_has_one_page_and_the_table_is_written_from_them() -> None:
    pages = sorted((ROOT / "docs" / "methods").glob("*.md"))
    assert sorted(name for page in pages for name in TABLE.names(page)) == sorted(METHODS)
    home = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert home == TABLE.filled(home), "run: python docs/table_of_methods.py"


@pytest.mark.parametrize("method", METHODS)
def test_pages_of_methods_show_the_composition(method: str, untouched: None) -> None:
    """What a page composes by hand are the pieces that the named method picks."""
    pages = (ROOT / "docs" / "methods").glob("*.md")
    page = next(page for page in pages if method in TABLE.names(page))
    names: dict[str, object] = {"__name__": "__main__"}
    exec(next(block.text for block in blocks(page) if block.language == "python"), names)
    (shown,) = [m for m in names.values() if isinstance(m, Method) and m.name == method][:1]
    entry = METHODS[method]
    model = mlp(3, None if entry.features else 2, norm=True)
    parameters = inspect.signature(entry.function).parameters.values()
    given = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    named = entry.function(model, *[nn.Linear(model.features, 7)] * (len(given) - 1))
    assert [type(p) for p in pieces(shown)] == [type(p) for p in pieces(named)]


def pieces(method: Method) -> list[object]:
    """What a method is made of, and what its pieces wrap."""
    found: list[object] = [method.learner, method.objective, method.estimator]
    for part in ("solver", "scope", "head", "examples"):
        found.append(getattr(method.learner, part, None))
    found += getattr(method.learner, "inner", [])
    for piece in found:  # grows while it is walked
        for part in ("base", "rate", "scope", "objective"):
            if piece is not method.learner and hasattr(piece, part):
                found.append(getattr(piece, part))
    return found


def test_measured_figures_are_those_of_the_benchmarks() -> None:
    """Our own columns under "Measured" hold numbers that a file of results holds, too."""
    files = (ROOT / "benchmarks" / "results").glob("*.md")
    results = "\n".join(path.read_text(encoding="utf-8") for path in files)
    found = 0
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        measured = page.read_text(encoding="utf-8").split("## Measured")[1].split("\n## ")[0]
        for table in re.findall(r"(?:^\|.*\n)+", measured, re.MULTILINE):
            titles, _, *rows = (line.strip("|").split("|") for line in table.splitlines())
            ours = [i for i, t in enumerate(titles) if not re.search("paper|published", t)]
            cells = " ".join(row[i] for row in rows for i in ours)
            for number in re.findall(r"\d+\.\d+ ± \d+\.\d+", cells):
                assert number in results, f"{name(page)}: {number}"
                found += 1
    assert found, "no figure was looked up: this test looks in the wrong place"


def test_the_decision_guide_names_methods_that_there_are() -> None:
    """Of its first two tables, what to start with and what to change to."""
    text = (ROOT / "docs" / "how-to-choose.md").read_text(encoding="utf-8")
    tables = text.partition("## What you have")[2].partition("## Scope")[0]
    rows = re.findall(r"^\|[^|\n]*\|([^|\n]*)\|", tables, re.MULTILINE)
    found = {name for cell in rows for name in re.findall(r"`([a-z]\w*)(?=[`(])", cell)}
    assert len(found) > 15 and found - {"mlp", "compiled", "pretrained"} <= set(METHODS), found


def test_the_worked_example_is_the_whole_diff(tmp_path: Path) -> None:
    """docs/adding-a-method.md, applied to a copy: four files, and the method is everywhere."""
    for folder in ("src", "docs"):
        left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.png")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=left_out)
    page = ROOT / "docs" / "adding-a-method.md"
    diffs = [block.text for block in blocks(page) if block.language == "diff"]
    changed = [apply(diff, tmp_path) for diff in diffs]
    assert len(set(changed)) == 4, changed
    run = (
        "import innerloop, innerloop.config; print(innerloop.__file__)\n"
        "from innerloop.methods import METHODS\n"
        "from innerloop.testing import cases, check_case\n"
        "(case,) = [c for c in cases() if c.name.endswith('/ TAML')]\n"
        "print(check_case(case).failures(), *METHODS['taml'].papers)\n"
        "print('taml' in innerloop.config.METHODS, innerloop.methods.taml.__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    for words in (["-c", run], [str(tmp_path / "docs" / "table_of_methods.py")]):
        ran = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        if words[0] == "-c":
            where, *told = ran.stdout.splitlines()
            assert where == str(tmp_path / "src" / "innerloop" / "__init__.py")
            assert told == ["[] jamal2019taml", "True taml"]
    home = (tmp_path / "docs" / "methods.md").read_text(encoding="utf-8")
    assert "| [`taml`](methods/taml.md) | all weights |" in home
    bib = (tmp_path / "src/innerloop/recipes/citations.bib").read_text(encoding="utf-8")
    assert "@inproceedings{jamal2019taml," in bib


def apply(diff: str, root: Path) -> str:
    """Change the file that a diff is of, and give its name; a hunk without context is appended.

    Two lines of tildes in a diff stand for the fences of a code block.
    """
    head, *hunks = re.split(r"^@@\n", diff.replace("~~~", "```"), flags=re.MULTILINE)
    name = head.split("+++ b/")[1].strip()
    target = root / name
    assert target.exists() != ("/dev/null" in head), name
    text = target.read_text(encoding="utf-8") if target.exists() else ""
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        assert {line[0] for line in lines} <= set(" +-"), hunk
        old = "".join(line[1:] for line in lines if line[0] != "+")
        new = "".join(line[1:] for line in lines if line[0] != "-")
        assert not old or text.count("\n" + old) == 1, f"{name} has not one {old!r}"
        text = text.replace("\n" + old, "\n" + new) if old else text + new
    target.write_text(text, encoding="utf-8")
    return name


def test_every_block_is_seen() -> None:
    """A fence that the pattern misses (indented, an info string with options) would not be run."""
    for page in PAGES:
        fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(list(blocks(page))), name(page)


def reproduced() -> Iterator[tuple[str, list[str]]]:
    """Methods of the committed Omniglot table with a page, and both accuracies of every row."""
    table = (ROOT / "benchmarks/results/reproduce-omniglot.md").read_text(encoding="utf-8")
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        page = ROOT / f"docs/methods/{cells[0].replace('_', '-')}.md"
        if len(cells) > 2 and "±" in cells[1] and page.exists():
            yield page.stem, cells[1:3]


def test_pages_say_what_the_reproduced_table_says() -> None:
    found = list(reproduced())
    assert len(found) > 15
    for stem, accuracies in found:
        page = (ROOT / f"docs/methods/{stem}.md").read_text(encoding="utf-8")
        assert all(f"| {value} |" in page for value in accuracies), stem
