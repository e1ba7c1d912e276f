"""What README and docs show is true: python blocks run, command lines parse.

The python blocks of a file run in order and share their names. A comment on the line before a
block says otherwise: `<!-- needs data: omniglot -->` skips it where that data set is absent,
`<!-- not run: reason -->` shows it only. Blocks of `console` are command lines after `$ `.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import tyro

from innerloop.cli.commands import COMMANDS
from innerloop.cli.overrides import divide
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
    rest, settings = divide(words)
    asked: list[str] = []

    def dry(name: str, command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def said(**options: object) -> None:
            asked.append(str(options.get("recipe", "")))

        return said

    table = {name: dry(name, command) for name, command in COMMANDS.items()}
    try:
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            tyro.extras.subcommand_cli_from_dict(
                table, args=rest, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as stop:
        raise AssertionError(f"{where}: {errors.getvalue()}") from stop
    if asked[0] in RECIPES:
        recipe(asked[0]).override(settings)
    else:
        # A run's folder, a file of the reader, or a command without a recipe.
        assert not asked[0] or asked[0].startswith("runs/") or asked[0].endswith(".yaml"), where


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{name(page)}: {target}"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        path = page.relative_to(ROOT / "docs").as_posix()
        assert path == "index.md" or f"]({path})" in index, name(page)


def test_every_block_is_seen() -> None:
    """A fence that the pattern misses (indented, an info string with options) would not be run."""
    for page in PAGES:
        fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(list(blocks(page))), name(page)
