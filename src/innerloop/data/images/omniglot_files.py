"""The files in which Omniglot comes: official zips, their unpacked tree, the prepared npz."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from ..cache import DAMAGED, read_npz
from ..download import Progress
from ..validate import join_names
from .files import BadImage, open_image

N_CHARACTERS, N_BACKGROUND, N_DRAWERS, SIDE = 1623, 964, 20, 105
PREPARED = "omniglot.npz"
RUNS = "all_runs.zip"
VALIDATION_ALPHABETS = (
    "Armenian",
    "Bengali",
    "Early_Aramaic",
    "Hebrew",
    "Mkhedruli_(Georgian)",
)
FIRST_TEST_CHARACTER = 1201
LARGEST = 1 << 20
"""Bytes of a file in an archive; official drawings have some 200, lists of labels 1400."""

MOST_ALPHABETS = 256
"""What one byte per character can tell apart; there are 50."""

_PNG = re.compile(
    r"(?:^|/)(?P<alphabet>[^/]+)/character(?P<number>\d\d)/(?P<id>\d{4})_(?P<drawer>\d\d)\.png$"
)
_RUN = re.compile(r"run\d\d/(?:training/class\d\d\.png|test/item\d\d\.png|class_labels\.txt)$")
_SHAPES = {
    "images": (N_DRAWERS, 28, 28),
    "images_nearest_bits": (N_DRAWERS, 98),
    "character_id": (),
    "alphabet_id": (),
    "character_in_alphabet": (),
}


def read_characters(where: Path, progress: Progress | None = None) -> dict[str, np.ndarray]:
    """The prepared arrays, from the prepared file or made from zips or trees under `where`.

    Raises FileNotFoundError when there is nothing to read, ValueError when it is damaged.
    """
    prepared = where if where.suffix == ".npz" else where / PREPARED
    if prepared.is_file():
        return read_prepared(prepared)
    archives = find_archives(where)
    if not archives:
        raise FileNotFoundError(
            f"no Omniglot in {where}: expected {PREPARED}, images_background.zip and "
            "images_evaluation.zip, or their unpacked folders; get it with "
            "`innerloop prepare omniglot`, or say where it is with INNERLOOP_DATA"
        )
    return arrays_from_drawings(read_drawings(archives, progress))


def find_runs(where: Path) -> Path | None:
    """The official all_runs.zip, if `where` is it or holds it."""
    candidate = where if where.suffix == ".zip" else where / RUNS
    return candidate if candidate.name == RUNS and candidate.is_file() else None


class Drawing(NamedTuple):
    """One official PNG: which character by whom, both 28x28 forms, and a digest of its pixels."""

    alphabet: str
    number: int
    drawer: int
    lanczos: np.ndarray
    nearest: np.ndarray
    digest: bytes


def read_drawings(
    archives: Sequence[Path], progress: Progress | None = None
) -> dict[tuple[int, int], Drawing]:
    """Every PNG of the zips and trees, by (character id, drawer id).

    Raises ValueError naming the files that cannot be read, and drawings that two archives show
    differently.
    """
    drawings: dict[tuple[int, int], Drawing] = {}
    unreadable, conflicts = [], []
    for archive in archives:
        for done, total, name, data in _files(archive, _PNG):
            match = _PNG.search(name)
            assert match is not None  # or it had not been read
            try:
                drawing = _drawing(match, data)
            except BadImage as error:
                unreadable.append(f"{name} ({error})")
                continue
            key = (int(match["id"]), drawing.drawer)
            if drawings.setdefault(key, drawing).digest != drawing.digest:
                conflicts.append(name)
            if progress is not None:
                progress(f"reading {archive.name}", done, total)
    if unreadable:
        raise ValueError(f"{len(unreadable)} images cannot be read: {join_names(unreadable)}")
    if conflicts:
        raise ValueError(f"{len(conflicts)} drawings come in two versions: {join_names(conflicts)}")
    if not drawings:
        raise ValueError(
            f"no Omniglot images in {join_names(str(a) for a in archives)}; expected files like "
            "images_background/Greek/character01/0394_01.png"
        )
    return drawings


def arrays_from_drawings(drawings: Mapping[tuple[int, int], Drawing]) -> dict[str, np.ndarray]:
    """The prepared arrays, characters in the order of their official numbers.

    Raises ValueError for characters without all 20 drawings, and for numbers out of range.
    """
    ids = sorted({character for character, _ in drawings})
    short = [f"{i:04d}" for i in ids if any((i, d + 1) not in drawings for d in range(N_DRAWERS))]
    if short:
        raise ValueError(
            f"{len(short)} of {len(ids)} characters do not have {N_DRAWERS} drawings: "
            f"{join_names(short)}; the archive is incomplete, fetch it again"
        )
    if ids[0] < 1 or ids[-1] > N_CHARACTERS:
        raise ValueError(f"character numbers must be 1..{N_CHARACTERS}, got {ids[0]}..{ids[-1]}")
    first = [drawings[i, 1] for i in ids]
    alphabets = list(dict.fromkeys(d.alphabet for d in first))
    if len(alphabets) > MOST_ALPHABETS:
        raise ValueError(
            f"the drawings are of {len(alphabets)} alphabets, expected at most {MOST_ALPHABETS} "
            "(Omniglot has 50); leave out the folders that are not Omniglot's"
        )
    rows = [[drawings[i, d + 1] for d in range(N_DRAWERS)] for i in ids]
    character_id = np.array(ids, np.uint16)
    numbers = np.array([d.number for d in first], np.uint8)
    names = [f"{d.alphabet}/character{d.number:02d}" for d in first]
    return {
        "images": np.stack([np.stack([d.lanczos for d in row]) for row in rows]),
        "images_nearest_bits": np.stack([np.stack([d.nearest for d in row]) for row in rows]),
        "drawer_id": np.arange(1, N_DRAWERS + 1, dtype=np.uint8),
        "character_id": character_id,
        "alphabet_names": np.array(alphabets),
        "alphabet_id": np.array([alphabets.index(d.alphabet) for d in first], np.uint8),
        "character_in_alphabet": numbers,
        "is_background": character_id <= N_BACKGROUND,
        "vinyals_split": vinyals_split(character_id, names).astype(np.uint8),
    }


def vinyals_split(character_id: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """0 training (1028), 1 validation (172) or 2 test (423) for every character.

    The published lists amount to this: the last 423 characters are for testing, five background
    alphabets for validation. `names` are `Alphabet/characterNN`.

    Source: split lists of Vinyals et al. 2016 as released with Snell et al. 2017.
    """
    aside = [name.split("/")[0] in VALIDATION_ALPHABETS for name in names]
    return np.where(character_id >= FIRST_TEST_CHARACTER, 2, np.array(aside, np.int64))


def read_runs(
    archive: Path, resize: Literal["lanczos", "nearest"]
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (20, 2, 20, 28, 28), test labels int64 (20, 20) of the official all_runs.zip."""
    drawn, label = _run_drawings(archive)
    images = np.empty((20, 2, 20, 28, 28), np.uint8)
    for place, drawing in drawn.items():
        bits = np.unpackbits(drawing.nearest, count=784).reshape(28, 28)
        images[place] = drawing.lanczos if resize == "lanczos" else bits * np.uint8(255)
    return images, label


def locate_runs(
    archive: Path, drawings: Mapping[tuple[int, int], Drawing]
) -> dict[str, np.ndarray] | None:
    """Which drawing each image of the runs is, as prepared arrays; None if some are missing."""
    drawn, label = _run_drawings(archive)
    place_of = {drawing.digest: key for key, drawing in drawings.items()}
    runs = np.zeros((20, 2, 20, 2), np.uint16)
    for place, drawing in drawn.items():
        key = place_of.get(drawing.digest)
        if key is None:
            return None
        runs[place] = key
    return {"lake_runs": runs, "lake_runs_label": label.astype(np.uint8)}


def _run_drawings(archive: Path) -> tuple[dict[tuple[int, int, int], Drawing], np.ndarray]:
    """Drawings by (run, training 0 or test 1, item); the right training item of each test item."""
    drawn: dict[tuple[int, int, int], Drawing] = {}
    label = np.full((20, 20), -1, np.int64)
    for _, _, name, data in _files(archive, _RUN):
        image = re.search(r"run(\d\d)/(?:(training)/class|test/item)(\d\d)\.png$", name)
        if image:
            place = (int(image[1]) - 1, 0 if image[2] else 1, int(image[3]) - 1)
            drawn[place] = _shrink("", 0, 0, data)
        answers = re.search(r"run(\d\d)/class_labels\.txt$", name)
        if answers:
            for item, right in re.findall(r"item(\d\d)\.png\s+\S*class(\d\d)\.png", data.decode()):
                label[int(answers[1]) - 1, int(item) - 1] = int(right) - 1
    if len(drawn) != 800 or (label < 0).any():
        raise ValueError(
            f"{archive} should hold 20 runs of 20 training and 20 test images with their labels, "
            f"found {len(drawn)} images and {int((label >= 0).sum())} labels; fetch it again"
        )
    return drawn, label


def _drawing(match: re.Match[str], data: bytes) -> Drawing:
    return _shrink(match["alphabet"], int(match["number"]), int(match["drawer"]), data)


def _shrink(alphabet: str, number: int, drawer: int, data: bytes) -> Drawing:
    with open_image(io.BytesIO(data), ("PNG",)) as opened:
        if opened.size != (SIDE, SIDE):  # before a pixel is decoded
            raise BadImage(f"expected {SIDE}x{SIDE} pixels, got {opened.width}x{opened.height}")
        bits = opened.convert("1")
    lanczos = bits.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    nearest = bits.resize((28, 28), Image.Resampling.NEAREST)
    return Drawing(
        alphabet,
        number,
        drawer,
        np.asarray(lanczos, np.uint8),
        np.packbits(np.asarray(nearest, bool)),
        hashlib.sha256(np.packbits(np.asarray(bits, bool)).tobytes()).digest(),
    )


def find_archives(where: Path) -> list[Path]:
    """The zips `where` is or holds; failing that, the folder itself if it holds characters."""
    if where.suffix == ".zip" and where.is_file():
        return [where]
    zips = sorted(where.glob("images_*.zip"))
    if zips:
        return zips
    tree = next((p for p in where.rglob("character*/*.png") if _PNG.search(p.as_posix())), None)
    return [where] if tree is not None else []


def _files(archive: Path, wanted: re.Pattern[str]) -> Iterator[tuple[int, int, str, bytes]]:
    """(done, total, path, content) of the wanted files of a zip, or PNG files of a folder.

    No other file is unpacked, and none of more than `LARGEST` bytes: a zip of a few megabytes can
    hold one of many gigabytes.
    """
    if archive.is_dir():
        paths = sorted(p for p in archive.rglob("*.png") if p.is_file())
        paths = [path for path in paths if wanted.search(path.as_posix())]
        for i, path in enumerate(paths):
            _check_size(path.as_posix(), path.stat().st_size)
            yield i + 1, len(paths), path.as_posix(), path.read_bytes()
        return
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if wanted.search(info.filename)]
            for i, info in enumerate(infos):
                _check_size(info.filename, info.file_size)
                yield i + 1, len(infos), info.filename, opened.read(info)
    except DAMAGED as error:
        raise ValueError(
            f"{archive} is damaged or not a zip file of Omniglot ({error}); fetch it again"
        ) from error


def _check_size(name: str, size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"{name} has {size} bytes, expected at most {LARGEST}")


def read_prepared(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a prepared file. Raises ValueError when it is damaged or something else."""
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise ValueError(f"{error}; make it again with `innerloop prepare omniglot`") from error
    missing = sorted({*_SHAPES, "alphabet_names"} - set(arrays))
    if missing:
        raise ValueError(
            f"{path} is not a prepared Omniglot file: {', '.join(missing)} missing; make it with "
            "`innerloop prepare omniglot`"
        )
    n, alphabets = arrays["character_id"].size, arrays["alphabet_names"].size
    shapes: dict[str, tuple[int, ...]] = {key: (n, *rest) for key, rest in _SHAPES.items()}
    shapes["alphabet_names"] = (alphabets,)
    limits = {"character_id": (1, N_CHARACTERS), "alphabet_id": (0, alphabets - 1)}
    if "lake_runs" in arrays:
        shapes |= {"lake_runs": (20, 2, 20, 2), "lake_runs_label": (20, 20)}
        limits["lake_runs_label"] = (0, 19)
    for key, shape in shapes.items():
        array = arrays.get(key, np.empty(0))
        kinds = "U" if key == "alphabet_names" else "u" if "images" in key else "iu"
        if array.shape != shape or array.dtype.kind not in kinds or 0 in shape:
            raise ValueError(
                f"{path}: {key} should have shape {shape} and a type of kind {kinds}, got "
                f"{array.shape} of {array.dtype}; make it again with `innerloop prepare omniglot`"
            )
        low, high = limits.get(key, (0, 0))
        if key in limits and not low <= int(array.min()) <= int(array.max()) <= high:
            raise ValueError(
                f"{path}: {key} should lie in {low}..{high}, got {array.min()}..{array.max()}; "
                "make it again with `innerloop prepare omniglot`"
            )
    if "lake_runs" in arrays:
        _check_runs(arrays, path)
    return arrays


def _check_runs(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Raises ValueError unless the runs show drawings that are there."""
    character, drawer = arrays["lake_runs"][..., 0], arrays["lake_runs"][..., 1]
    there = np.isin(character, arrays["character_id"]) & (drawer >= 1) & (drawer <= N_DRAWERS)
    if not there.all():
        raise ValueError(
            f"{path}: {int((~there).sum())} of {there.size} drawings of lake_runs are not among "
            "the images; make it again with `innerloop prepare omniglot`"
        )
