"""A person's own pictures on disk: what is a support set, what is a query."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.images.files import BadImage, Channels, is_image, read_image
from ..data.pool import scaled

# Files that systems put into folders by themselves.
IGNORED = frozenset({"thumbs.db", "desktop.ini"})


DIRECTIONS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Classes of signs that make the text after them run the other way."""


class Photos(NamedTuple):
    """Image files and, where it is known, the class folder each lies in."""

    files: list[Path]
    classes: list[str | None]


def support_photos(root: Path) -> Photos:
    """The images of `root/CLASS/*`, classes and files in the order of their names.

    Raises: ValueError if there is no folder per class, only one class, an empty class, a file that
    is not an image by its name, or a name that cannot be printed.
    """
    if not root.is_dir():
        raise ValueError(
            f"No support folder {root}: expected one sub-folder per class, {root}/CLASS/*.png."
        )
    folders, loose = _folders(root), _files(root)
    if not folders:
        raise ValueError(
            f"{root} has no class folders: put the images of each class into a sub-folder named "
            f"after it, {root}/CLASS/*.png."
        )
    if loose:
        raise ValueError(
            f"{root} holds {_some(loose)} beside class folders: move every support image into the "
            "folder of its class."
        )
    if len(folders) < 2:
        raise ValueError(
            f"{root} has one class only ({folders[0].name!r}): a classifier needs at least two. "
            "Add a folder with images of something else."
        )
    return _labelled(folders)


def query_photos(query: Path | Sequence[Path], classes: Sequence[str]) -> Photos:
    """Queries: a folder of class folders (true classes known), a flat folder, or a list of files.

    Raises: ValueError if there are none, the layouts are mixed, or a class folder is not one of
    `classes`.
    """
    if not isinstance(query, Path):
        return _listed(list(query))
    if query.is_file():
        return _listed([query])
    if not query.is_dir():
        raise ValueError(f"No query folder or file {query}.")
    folders, loose = _folders(query), _files(query)
    if folders and loose:
        raise ValueError(
            f"{query} holds {_some(loose)} beside folders: use either class folders throughout or "
            "one flat folder of images."
        )
    if not folders:
        if not loose:
            raise ValueError(f"The query folder {query} is empty.")
        return _listed(loose)
    unknown = [folder.name for folder in folders if folder.name not in classes]
    if unknown:
        raise ValueError(
            f"{query} has folders that are no support class: {', '.join(map(ascii, unknown[:5]))} "
            f"(classes: {', '.join(classes)}). Rename them, or give all queries in one flat folder."
        )
    return _labelled(folders)


def read_photos(
    files: Sequence[Path], size: int | tuple[int, int], channels: Channels, invert: bool
) -> Tensor:
    """The images as float32 (n, channels, H, W) in [0, 1].

    Raises: ValueError naming every file that cannot be read as an image.
    """
    images, bad = [], []
    for path in files:
        try:
            images.append(read_image(path, size, channels))
        except (BadImage, FileNotFoundError) as error:
            bad.append(str(error))
    if bad:
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(
            f"{len(bad)} of {len(files)} files cannot be used: {'; '.join(bad[:5])}{more}. Repair "
            "or remove them."
        )
    x = scaled(torch.stack(images))
    return 1 - x if invert else x


def _labelled(folders: list[Path]) -> Photos:
    files: list[Path] = []
    names: list[str | None] = []
    _check_printable(folders)
    for folder in folders:
        inside = _files(folder)
        deeper = _folders(folder)
        if deeper:
            raise ValueError(
                f"{folder} holds folders ({deeper[0].name!r}): expected images directly in it."
            )
        if not inside:
            raise ValueError(f"The class folder {folder} is empty: add at least one image.")
        _check_names(inside)
        files += inside
        names += [folder.name] * len(inside)
    return Photos(files, names)


def _listed(files: list[Path]) -> Photos:
    if not files:
        raise ValueError("No query files given.")
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise ValueError(f"No query file {missing[0]} ({len(missing)} of {len(files)} missing).")
    _check_names(files)
    return Photos(files, [None] * len(files))


def _check_printable(paths: list[Path]) -> None:
    """Names go to terminals, tables and pictures, where an escape code has no place."""
    bad = [path for path in paths if any(_is_control(sign) for sign in path.name)]
    if bad:
        raise ValueError(
            f"the name {bad[0].name!a} in {bad[0].parent} holds signs that cannot be printed "
            f"({len(bad)} such names): rename it"
        )


def _is_control(sign: str) -> bool:
    """Control characters, what turns the direction of text, and bytes that are not UTF-8."""
    category = unicodedata.category(sign)
    turns = category == "Cf" and unicodedata.bidirectional(sign) in DIRECTIONS
    return category in ("Cc", "Cs", "Zl", "Zp") or turns


def _check_names(files: list[Path]) -> None:
    _check_printable(files)
    others = [path for path in files if not is_image(path)]
    if others:
        raise ValueError(
            f"{_some(others)} in {others[0].parent} is not an image by its name: remove it, or "
            "convert it to PNG or JPEG."
        )


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(root: Path) -> list[Path]:
    return sorted(
        p
        for p in root.iterdir()
        if p.is_file() and not p.name.startswith(".") and p.name.lower() not in IGNORED
    )


def _some(files: list[Path]) -> str:
    rest = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"the file {files[0].name!r}{rest}"
