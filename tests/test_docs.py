"""What README and docs show is true: python blocks run, command lines parse.

The python blocks of a file run in order and share their names. A comment on the line before a
block says otherwise: `<!-- needs data: omniglot -->` skips it where that data set is absent,
`<!-- not run: reason -->` shows it only. Blocks of `console` are command lines after `$ `.
"""

from __future__ import annotations

import contextlib
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
from typing import NamedTuple, get_type_hints

import pytest
import torch

import innerloop
from innerloop import Method
from innerloop.cli.entry import parse
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


def named_methods() -> list[str]:
    """Every function of `innerloop.methods` that makes a method."""
    functions = inspect.getmembers(innerloop.methods, inspect.isfunction)
    return [n for n, f in functions if issubclass(get_type_hints(f)["return"], Method)]


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
        if block.mark.startswith("needs data:"):
            folder = DATA / block.mark.removeprefix("needs data:").strip()
            if not folder.exists():
                absent.append(f"line {block.line} needs {folder}")
                continue
        # Blank lines first, so that a traceback names the line of the page.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
    if absent:
        pytest.skip(f"{name(page)}: the other blocks ran; {'; '.join(absent)} (INNERLOOP_DATA)")


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


@pytest.mark.parametrize("method", named_methods())
def test_pages_of_methods_show_the_composition(method: str, untouched: None) -> None:
    """What a page composes by hand are the pieces that the named method picks."""
    page = ROOT / "docs" / "methods" / f"{method.replace('_', '-')}.md"
    assert page.is_file(), f"innerloop.methods.{method} needs a page {name(page)}"
    row = f"| [`{method}`](methods/{page.name}) |"
    assert row in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), row
    names: dict[str, object] = {"__name__": "__main__"}
    exec(next(block.text for block in blocks(page) if block.language == "python"), names)
    (shown,) = [m for m in names.values() if isinstance(m, Method) and m.name == method][:1]
    model = shown.learner.model
    if method in ("cavia", "bias_transformation", "nil"):  # which change the model they are given
        model = mlp(3, 2, norm=True)
    networks = [model, shown.discriminator] if method == "deml" else [model]
    named = getattr(innerloop.methods, method)(*networks)
    assert [type(p) for p in pieces(shown)] == [type(p) for p in pieces(named)]


def pieces(method: Method) -> list[object]:
    """Learner, estimator, solver (and what it wraps), rate, penalty and scope of a method."""
    learner = method.learner
    found: list[object] = [learner, method.estimator]
    for part in ("solver", "penalty", "scope", "head"):
        found.append(getattr(learner, part, None))
    solver = found[2]
    found += [getattr(solver, part, None) for part in ("base", "rate")]
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


def test_the_decision_guide_covers_every_method() -> None:
    text = (ROOT / "docs" / "how-to-choose.md").read_text(encoding="utf-8")
    assert not [method for method in named_methods() if not re.search(rf"`{method}\b", text)]


def test_the_worked_example_is_the_whole_diff(tmp_path: Path) -> None:
    """docs/adding-a-method.md, applied to a copy of the package: its row runs and conforms."""
    page = ROOT / "docs" / "adding-a-method.md"
    copy = tmp_path / "src"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    piece = next(block.text for block in blocks(page) if block.language == "python")
    piece = piece.replace("from innerloop.learn import", "from .gradient import")
    piece = piece.replace("from innerloop.", "from ..")
    (copy / "innerloop" / "learn" / "task_agnostic.py").write_text(piece, encoding="utf-8")
    for block in blocks(page):
        if block.language == "diff":
            apply(block.text, tmp_path)
    run = (
        "import innerloop; print(innerloop.__file__)\n"
        "from innerloop.testing import cases, check_case\n"
        "(case,) = [c for c in cases() if c.name.endswith('/ task-agnostic')]\n"
        "print(check_case(case).failures())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", run],
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [str(copy / "innerloop" / "__init__.py"), "[]"]


def apply(diff: str, root: Path) -> None:
    """Insert the added lines of each hunk after its one line of context."""
    head, *hunks = re.split(r"^@@\n", diff, flags=re.MULTILINE)
    target = root / head.split("+++ b/")[1].strip()
    text = target.read_text(encoding="utf-8")
    for hunk in hunks:
        context, *added = hunk.splitlines(keepends=True)
        assert context[0] == " " and {line[0] for line in added} == {"+"}, hunk
        assert text.count("\n" + context[1:]) == 1, f"{target.name} has not one {context!r}"
        where = text.index("\n" + context[1:]) + len(context)
        text = text[:where] + "".join(line[1:] for line in added) + text[where:]
    target.write_text(text, encoding="utf-8")


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
