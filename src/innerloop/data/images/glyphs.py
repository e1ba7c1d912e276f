"""Glyphs: few-shot tasks on the characters of the fonts that come with matplotlib.

No data set and no network are needed. A class is a character, a group is a script; the scripts of
the test split are never seen in training.
"""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import torch

from ...core.streams import generator
from ..cache import cache_folder, expand, read_npz, write_npz
from ..pool import ClassPool
from ..source import Splits
from ..validate import check_disjoint
from .episodes import Episodes
from .glyph_classes import FACES, TEST_SCRIPTS, VALIDATION_SCRIPTS, characters, font_folder, script
from .glyph_render import distinct_characters, outlines, variants

PER_CLASS = 20
COMPARED_FACES = 4
VERSION = 1
"""To be raised when a change to the rendering changes the pictures: old caches go unused."""


def glyphs(
    *,
    way: int = 5,
    shot: int = 1,
    queries: int = 15,
    within_script: bool = False,
    seed: int = 0,
    cache: Path | str | None = None,
    device: torch.device | str | None = None,
) -> Splits:
    """Few-shot tasks on rendered characters, (1, 28, 28) with ink 1; splits share no script.

    Training: Latin, Cyrillic, Arabic, mathematical letters and all symbols. Validation: Greek,
    Coptic, Armenian. Test: Georgian, Hebrew, Lao, N'Ko, Ogham, Old Italic, Tifinagh, Lisu,
    Canadian Syllabics. `within_script=True` takes all classes of a task from one script.

    Each class has 20 examples, rendered once from `seed` and kept in `cache` (default: the user's
    cache folder). Raises FileNotFoundError when the fonts are missing.
    """
    pool = glyph_pool(seed=seed, cache=cache)
    parts = split_by_script(pool)
    sources = {
        part: Episodes(
            members,
            way=way,
            shot=shot,
            queries=queries,
            within_group=within_script,
            device=device,
            name=f"glyphs (seed {seed})",
            split=part,
        )
        for part, members in parts.items()
    }
    return Splits(sources["train"], sources["validation"], sources["test"])


def split_by_script(pool: ClassPool) -> dict[str, ClassPool]:
    """Training, validation and test classes; no script is in two of them."""
    part = [
        "test" if name in TEST_SCRIPTS else "validation" if name in VALIDATION_SCRIPTS else "train"
        for name in (pool.group_names[g] for g in pool.class_group.tolist())
    ]
    parts = {
        name: pool.select([i for i, p in enumerate(part) if p == name])
        for name in ("train", "validation", "test")
    }
    check_disjoint(parts, by="group")
    return parts


def glyph_pool(*, seed: int = 0, cache: Path | str | None = None) -> ClassPool:
    """All classes, 20 examples each; read from `cache` if it has them, else rendered and kept."""
    fonts = _fonts()
    folder = cache_folder() / "glyphs" if cache is None else expand(cache)
    path = folder / f"glyphs-{_key(fonts, seed)}.npz"
    arrays = _read_cache(path)
    if arrays is None:
        arrays = render(fonts, seed)
        try:
            write_npz(path, arrays)
        except OSError as error:
            warnings.warn(
                f"the rendered glyphs could not be kept in {path} ({error}); they are rendered "
                "again next time, or say where to keep them with cache=FOLDER",
                stacklevel=2,
            )
    groups = [str(name) for name in arrays["group_names"]]
    images = torch.from_numpy(arrays["images"])
    n = len(images)
    return ClassPool(
        images=images.reshape(n * PER_CLASS, 1, *images.shape[2:]),
        label=torch.arange(n, device="cpu").repeat_interleave(PER_CLASS),
        class_names=[_name(int(code)) for code in arrays["code_point"]],
        class_group=torch.from_numpy(arrays["class_group"]),
        group_names=groups,
    )


def render(fonts: list[Path], seed: int, per_class: int = PER_CLASS) -> dict[str, np.ndarray]:
    """The arrays of the cache: images uint8 (n, per_class, 28, 28), code points, scripts."""
    found = characters(fonts)
    pictures, owner, face = outlines(found, fonts[0].parent)
    keep = distinct_characters(pictures, owner, face, COMPARED_FACES, len(found))
    kept = np.flatnonzero(keep)
    names = list(found)
    groups = [str(script(names[i])) for i in kept]
    group_names = list(dict.fromkeys(groups))
    stream = generator(seed, "glyphs")
    faces = np.bincount(owner, minlength=len(found))[kept]
    start = np.searchsorted(owner, kept)
    pick = torch.rand(
        len(kept), per_class, generator=stream, dtype=torch.float64, device="cpu"
    ).numpy()
    rows = torch.from_numpy(start[:, None] + (pick * faces[:, None]).astype(np.int64))
    drawn = variants(torch.from_numpy(pictures), rows.flatten(), stream)
    return {
        "images": drawn.unflatten(0, rows.shape).numpy(),
        "code_point": np.array([ord(names[i]) for i in kept], np.int64),
        "class_group": np.array([group_names.index(g) for g in groups], np.int64),
        "group_names": np.array(group_names),
    }


def _fonts() -> list[Path]:
    folder = font_folder()
    fonts = [folder / name for name in FACES]
    missing = [font.name for font in fonts if not font.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} font files of matplotlib are missing in {folder}: "
            f"{', '.join(missing)}; install matplotlib again with `pip install matplotlib`"
        )
    return fonts


def _key(fonts: list[Path], seed: int) -> str:
    """What the pictures depend on: the font files, the Unicode tables, this code, the seed."""
    digest = hashlib.sha256(f"{VERSION}/{seed}/{unicodedata.unidata_version}".encode())
    for font in fonts:
        digest.update(font.read_bytes())
    return digest.hexdigest()[:16]


def _read_cache(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file; None when there is none, or it is damaged or something else."""
    try:
        arrays = read_npz(path)
    except (OSError, ValueError):
        return None
    n, groups = (arrays.get(key, np.empty(0)).size for key in ("code_point", "group_names"))
    shapes = {
        "images": (np.uint8, (n, PER_CLASS, 28, 28)),
        "code_point": (np.int64, (n,)),
        "class_group": (np.int64, (n,)),
    }
    for key, (dtype, shape) in shapes.items():
        if key not in arrays or arrays[key].dtype != dtype or arrays[key].shape != shape:
            return None
    known = all(unicodedata.name(chr(c), "") for c in arrays["code_point"] if 0 <= c < 0x110000)
    inside = (arrays["code_point"] >= 0) & (arrays["code_point"] < 0x110000)
    right = (arrays["class_group"] >= 0) & (arrays["class_group"] < groups)
    alike = len(np.unique(arrays["code_point"])) < n or arrays["group_names"].dtype.kind != "U"
    return arrays if n and known and inside.all() and right.all() and not alike else None


def _name(code: int) -> str:
    return f"U+{code:04X} {unicodedata.name(chr(code))}"
