"""Making the prepared Omniglot file, from what is on disk or from the official zips."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..cache import expand, write_npz
from ..download import Progress, fetch, file_sha256
from .omniglot_files import (
    N_BACKGROUND,
    N_CHARACTERS,
    N_DRAWERS,
    PREPARED,
    RUNS,
    arrays_from_drawings,
    find_archives,
    find_runs,
    locate_runs,
    read_drawings,
    read_prepared,
)

_UPSTREAM = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
OFFICIAL_URLS = {
    "images_background.zip": _UPSTREAM + "images_background.zip",
    "images_evaluation.zip": _UPSTREAM + "images_evaluation.zip",
    RUNS: _UPSTREAM + "one-shot-classification/" + RUNS,
}
KNOWN_SHA256 = {
    "images_background_small1.zip": (
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"
    ),
    RUNS: "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
}
"""Of the official files whose content was at hand; the two large zips are checked by counting."""

IMAGES_IN = {
    "images_background.zip": N_BACKGROUND * N_DRAWERS,
    "images_evaluation.zip": (N_CHARACTERS - N_BACKGROUND) * N_DRAWERS,
}


@dataclass(frozen=True)
class Prepared:
    """What was written: where, how much of Omniglot, and how the sources were checked."""

    path: Path
    characters: int
    alphabets: int
    images: int
    has_runs: bool
    checks: tuple[str, ...]

    @property
    def partial(self) -> bool:
        """Whether some of the 1623 characters are missing."""
        return self.characters < N_CHARACTERS

    def lines(self) -> list[str]:
        """The report, one statement per line."""
        extent = f"partial: {self.characters} of {N_CHARACTERS}" if self.partial else "all"
        content = f"{extent} characters, {self.alphabets} alphabets, {self.images} images"
        runs = "with" if self.has_runs else "without"
        return [
            f"wrote {self.path} ({content}, {runs} the 20 one-shot runs)",
            *self.checks,
        ]


def prepare_omniglot(
    source: Path | str | None,
    out: Path | str,
    *,
    urls: Mapping[str, str] = OFFICIAL_URLS,
    sha256: Mapping[str, str] = KNOWN_SHA256,
    progress: Progress | None = None,
) -> Prepared:
    """Write the prepared file `out` (a folder means omniglot.npz in it) and say what is in it.

    `source` is a zip, a folder with the official zips or their unpacked tree (and all_runs.zip for
    the one-shot runs), or a prepared file; None downloads `urls` (file name to address) into the
    folder of `out`, those that are not there yet. A file whose SHA-256 is known must have
    it; the two large official zips, whose SHA-256 is not known here, must hold the right number of
    images and pass their own checksums.

    A subset of the characters is prepared as it is and reported as partial. `out` is replaced only
    when everything is right.

    Raises FileNotFoundError, ConnectionError or ValueError; see `fetch` and `read_drawings`.
    """
    out = expand(out)
    out = out if out.suffix == ".npz" else out / PREPARED
    if source is None:
        where = out.parent
        for name, url in urls.items():
            if not (where / name).is_file():
                fetch(url, where / name, sha256=sha256.get(name), progress=progress)
        archives = [where / name for name in urls if name != RUNS]
        runs = where / RUNS if RUNS in urls else None
    else:
        where = expand(source)
        prepared = where if where.suffix == ".npz" else where / PREPARED
        archives, runs = find_archives(where), find_runs(where)
        if not archives and prepared.is_file():
            return _rewrite(prepared, out)
    if not archives:
        raise FileNotFoundError(
            f"no Omniglot in {where}: expected images_background.zip and images_evaluation.zip, "
            f"their unpacked folders, or {PREPARED}; leave the source out to download the zips"
        )
    checks = [check_file(path, sha256) for path in (*archives, runs) if path is not None]
    drawings = read_drawings(archives, progress)
    arrays = arrays_from_drawings(drawings)
    located = None if runs is None else locate_runs(runs, drawings)
    if runs is not None and located is None:
        checks.append(f"{runs.name}: left out, its drawings are not among the images read")
    write_npz(out, {**arrays, **(located or {})})
    n = len(arrays["character_id"])
    alphabets = len(arrays["alphabet_names"])
    return Prepared(out, n, alphabets, n * N_DRAWERS, located is not None, tuple(checks))


def check_file(path: Path, sha256: Mapping[str, str]) -> str:
    """How `path` was checked: by SHA-256 if known, else by the number of images if official.

    Raises ValueError when it fails the check.
    """
    if path.is_dir():
        return f"{path.name}: a folder, its files cannot be checked against a hash"
    if path.name in sha256:
        found = file_sha256(path)
        if found != sha256[path.name]:
            raise ValueError(
                f"{path}: SHA-256 should be {sha256[path.name]}, got {found}; remove it and run "
                "`innerloop prepare omniglot` to fetch it again"
            )
        return f"{path.name}: SHA-256 is as known"
    try:
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path} is damaged or not a zip file ({error}); remove it and run "
            "`innerloop prepare omniglot` to fetch it again"
        ) from error
    count = sum(name.endswith(".png") and "__MACOSX" not in name for name in names)
    expected = IMAGES_IN.get(path.name, count)
    if count != expected:
        raise ValueError(
            f"{path} should hold {expected} images, got {count}; remove it and run "
            "`innerloop prepare omniglot` to fetch it again"
        )
    return f"{path.name}: {count} images counted; its SHA-256 is not known here"


def _rewrite(prepared: Path, out: Path) -> Prepared:
    """A prepared file, validated and written again."""
    arrays = read_prepared(prepared)
    write_npz(out, arrays)
    n = len(arrays["character_id"])
    return Prepared(
        out,
        n,
        len(set(arrays["alphabet_id"].tolist())),
        n * N_DRAWERS,
        "lake_runs" in arrays,
        (f"{prepared.name}: a prepared file, its layout was checked",),
    )
