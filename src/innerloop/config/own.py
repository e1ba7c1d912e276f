"""A person's own Python in a run: `FILE.py:NAME`, found, imported, and held to its digest.

Everything that can be wrong with a file is said before a run writes anything: that it is missing,
has no such name, or fails while it is imported or called, then with the line of *that* file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

_PLACE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")
_imported: dict[tuple[Path, str], ModuleType] = {}


def by_place(raw: dict[str, Any]) -> dict[str, Any]:
    """`{kind: net.py:make}` as the section that it is short for."""
    if not is_place(raw["kind"]):
        return raw
    return {**raw, "kind": Own.kind, "place": raw["kind"]}


@dataclass(frozen=True, kw_only=True)
class Own:
    """Made by a function of your own: `place` is FILE.py:NAME."""

    kind: ClassVar[str] = "own"
    shorthand: ClassVar[Callable[[dict[str, Any]], dict[str, Any]]] = staticmethod(by_place)
    place: str

    def problems(self) -> list[str]:
        """A place that is none."""
        if is_place(self.place):
            return []
        return [f"place: expected FILE.py:NAME, got {self.place[:80]!r}"]


class OwnModel(Own):
    """A network of your own: a function that returns an `nn.Module`."""


class OwnData(Own):
    """Tasks of your own: a function that returns a `Source`, `Splits` or a list of tasks."""


def is_place(text: str) -> bool:
    """Whether a text says FILE.py:NAME."""
    return _PLACE.fullmatch(text) is not None


def located(place: str) -> str:
    """The same place with the whole path of its file, for a run that is opened elsewhere."""
    file, name = _parts(place)
    return f"{file.resolve()}:{name}"


def digest(place: str) -> tuple[str, str]:
    """The whole path of a place's file, and the SHA-256 of its content.

    Raises:
        FileNotFoundError: there is no such file.
    """
    file, _ = _parts(place)
    try:
        return str(file.resolve()), hashlib.sha256(file.read_bytes()).hexdigest()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"{file} is not a file; expected FILE.py:NAME") from error


def find(place: str, digests: Mapping[str, str]) -> Any:
    """What NAME is in the file. `digests` are those that the run has kept of its files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has changed since the run was made, fails when it is imported, or does not
            define NAME.
    """
    file, name = _parts(place)
    path, now = digest(place)
    then = digests.get(path, now)
    if then != now:
        raise ValueError(
            f"{path} has changed since the run was made: its SHA-256 was {then[:12]}… and is "
            f"{now[:12]}… now. Put back what it was, or evaluate with it as it is: --files {{}}"
        )
    module = _imported.get((Path(path), now))
    if module is None:
        module = guarded(Path(path), "importing it", _import, Path(path), now)
        _imported[Path(path), now] = module
    if not hasattr(module, name):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise ValueError(f"{file} defines no {name!r}; it defines {', '.join(known) or 'nothing'}")
    return getattr(module, name)


def guarded(path: Path, doing: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Call what runs a person's own code; whatever it raises is said with the line of its file.

    Raises:
        ValueError: it raised an exception, or asked to exit.
    """
    try:
        return function(*given, **named)
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if _same(f, path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines = [error.lineno]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"{where}: {doing} raised {type(error).__name__}: {said}") from error


def file_of(place: str) -> Path:
    """The whole path of a place's file."""
    return _parts(place)[0].resolve()


def _same(frame: traceback.FrameSummary, path: Path) -> bool:
    return frame.filename == str(path)


def _parts(place: str) -> tuple[Path, str]:
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ValueError(f"expected FILE.py:NAME, got {place!r}")
    return Path(found["file"]).expanduser(), found["name"]


def _import(path: Path, content: str) -> ModuleType:
    # A name of its own, which no other file and no later version of this one shares.
    name = f"innerloop_own_{path.stem}_{content[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:  # as Python does for a script: its neighbours are found
        sys.path.append(str(path.parent))
    sys.modules[name] = module  # dataclasses and pickles look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
