"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn once by 20 people.

Source: Lake, Salakhutdinov, Tenenbaum 2015, Science 350(6266), 1332-1338.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...core.streams import generator
from ...core.types import Batch, Task
from ..cache import data_folder, expand
from ..pool import ClassPool, scaled, with_rotated_classes
from ..source import Splits
from ..validate import check_disjoint
from .episodes import Episodes
from .omniglot_files import (
    N_BACKGROUND,
    N_CHARACTERS,
    find_runs,
    read_characters,
    read_runs,
    vinyals_split,
)

Resize = Literal["lanczos", "nearest"]
Split = Literal["maml", "vinyals", "background"]
Rotation = Literal["none", "augment", "augment-train", "classes", "classes-train"]

MAML_TRAIN, MAML_VALIDATION = 1100, 100
VALIDATION_ALPHABETS = 1 / 6


@dataclass(frozen=True, eq=False)
class Characters:
    """All characters there are, as one pool, with what the published splits need to know.

    `pool` has one class per character, named `Alphabet/character01`, grouped by alphabet;
    `character_id` is the number in the official file names (1..1623), int64 (n_classes,).
    """

    pool: ClassPool
    character_id: Tensor
    where: Path

    @property
    def partial(self) -> bool:
        """Whether some of the 1623 characters are missing."""
        return self.pool.n_classes < N_CHARACTERS

    @property
    def is_background(self) -> Tensor:
        """The 964 characters of the background set, bool (n_classes,)."""
        return self.character_id <= N_BACKGROUND


def omniglot(
    root: Path | str | None = None,
    *,
    way: int = 5,
    shot: int = 1,
    queries: int = 15,
    split: Split = "maml",
    seed: int = 0,
    resize: Resize = "lanczos",
    invert: bool = True,
    rotate: Rotation = "none",
    within_alphabet: bool = False,
    device: torch.device | str | None = None,
) -> Splits:
    """Few-shot tasks on Omniglot; images are (1, 28, 28).

    `root` is the prepared file, or a folder with it, with the official zips, or with their
    unpacked tree; the default is `omniglot` in the data folder (INNERLOOP_DATA).

    `split`: "maml" shuffles the characters by `seed` into 1100 training, 100 validation and 423
    test characters (alphabets are shared between them); "vinyals" is the fixed list of 1028, 172
    and 423; "background" trains on background alphabets, tests on the evaluation alphabets, and
    takes a sixth of the background alphabets (by `seed`) for validation.

    `rotate`: "augment" turns each class of a task by one random multiple of 90 degrees, at test as
    well, as MAML's released code does ("augment-train": in training only); "classes" makes four
    classes of each character in every split ("classes-train": in training only, as Reptile).

    `resize`: "lanczos" is anti-aliased grey, "nearest" the 1-bit images that MAML's resize script
    in fact yields. `invert=True` makes ink 1 and paper 0.

    Raises FileNotFoundError when there is no data, ValueError when it is damaged or too small.
    """
    if split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    if rotate not in get_args(Rotation):
        raise ValueError(f"rotate must be one of {', '.join(get_args(Rotation))}, got {rotate!r}")
    characters = read_omniglot(root, resize=resize, invert=invert)
    parts = split_characters(characters, split, seed)
    name = f"omniglot ({resize}, {'ink' if invert else 'paper'} = 1)"
    if characters.partial:
        name += f", partial: {characters.pool.n_classes} of {N_CHARACTERS} characters"
    split_by = split if split == "vinyals" else f"{split}, seed {seed}"
    sources = {}
    for part, pool in parts.items():
        turned = rotate == "classes" or (rotate == "classes-train" and part == "train")
        augmented = rotate == "augment" or (rotate == "augment-train" and part == "train")
        sources[part] = Episodes(
            with_rotated_classes(pool) if turned else pool,
            way=way,
            shot=shot,
            queries=queries,
            rotate="augment" if augmented else "none",
            within_group=within_alphabet,
            device=device,
            name=name,
            split=f"{part} of {split_by}",
        )
    return Splits(sources["train"], sources["validation"], sources["test"])


def read_omniglot(
    root: Path | str | None = None, *, resize: Resize = "lanczos", invert: bool = True
) -> Characters:
    """Every character under `root` (as in `omniglot`) as one pool of uint8 (1, 28, 28) images."""
    if resize not in get_args(Resize):
        raise ValueError(f"resize must be one of {', '.join(get_args(Resize))}, got {resize!r}")
    where = data_folder() / "omniglot" if root is None else expand(root)
    arrays = read_characters(where)
    images = torch.from_numpy(_images(arrays, resize))
    n, drawers = images.shape[:2]
    alphabets = [str(a) for a in arrays["alphabet_names"]]
    alphabet = arrays["alphabet_id"].tolist()
    number = arrays["character_in_alphabet"].tolist()
    pool = ClassPool(
        images=images.reshape(n * drawers, 1, 28, 28),
        label=torch.arange(n, device="cpu").repeat_interleave(drawers),
        class_names=[
            f"{alphabets[a]}/character{k:02d}" for a, k in zip(alphabet, number, strict=True)
        ],
        class_group=torch.tensor(alphabet, device="cpu"),
        group_names=alphabets,
    )
    ids = torch.from_numpy(arrays["character_id"].astype(np.int64))
    return Characters(pool.inverted() if invert else pool, ids, where)


def split_characters(characters: Characters, split: Split, seed: int) -> dict[str, ClassPool]:
    """Training, validation and test pools.

    They share no character, and for "background" no alphabet either.
    """
    pool = characters.pool
    if split == "maml":
        train, validation = _maml_sizes(pool.n_classes)
        order = torch.randperm(
            pool.n_classes, generator=generator(seed, "omniglot", "maml"), device="cpu"
        )
        part = torch.full((pool.n_classes,), 2, device="cpu")
        part[order[:train]] = 0
        part[order[train : train + validation]] = 1
    elif split == "vinyals":
        part = torch.from_numpy(vinyals_split(characters.character_id.numpy(), pool.class_names))
    else:
        part = _by_background(characters, seed)
    names = ("train", "validation", "test")
    empty = [name for i, name in enumerate(names) if not (part == i).any()]
    if empty:
        raise ValueError(
            f"the {split} split leaves no characters for {' and '.join(empty)}: {characters.where} "
            f"holds {pool.n_classes} of {N_CHARACTERS} characters; prepare the complete set with "
            "`innerloop prepare omniglot`, or use split='maml'"
        )
    parts = {name: pool.select((part == i).nonzero().squeeze(1)) for i, name in enumerate(names)}
    check_disjoint(parts, by="group" if split == "background" else "class")
    return parts


def lake_runs(
    root: Path | str | None = None, *, resize: Resize = "lanczos", invert: bool = True
) -> Task:
    """Lake's 20 one-shot runs, stacked: 20-way, 20 training and 20 test images, within alphabet.

    Read from the official `all_runs.zip` (`root` is that file or a folder with it), or else from
    the prepared file. x is (20, 20, 1, 28, 28) in [0, 1]; label k is training item k + 1. People
    make 4.5 % errors.
    """
    if resize not in get_args(Resize):
        raise ValueError(f"resize must be one of {', '.join(get_args(Resize))}, got {resize!r}")
    where = data_folder() / "omniglot" if root is None else expand(root)
    archive = find_runs(where)
    if archive is not None:
        images, label = read_runs(archive, resize)
    else:
        arrays = read_characters(where)
        if "lake_runs" not in arrays:
            raise FileNotFoundError(
                f"{where} has neither all_runs.zip nor the runs in its prepared file; run "
                "`innerloop prepare omniglot` with all_runs.zip beside the image zips"
            )
        row = np.full(N_CHARACTERS + 1, -1)
        row[arrays["character_id"]] = np.arange(len(arrays["character_id"]))
        runs = arrays["lake_runs"].astype(np.int64)
        images = _images(arrays, resize)[row[runs[..., 0]], runs[..., 1] - 1]
        label = arrays["lake_runs_label"].astype(np.int64)
    x = scaled(torch.from_numpy(255 - images if invert else images)).unsqueeze(3)
    support_y = torch.arange(20, device="cpu").expand(20, 20).clone()
    return Task(Batch(x[:, 0], support_y), Batch(x[:, 1], torch.from_numpy(label)))


def _images(arrays: Mapping[str, np.ndarray], resize: Resize) -> np.ndarray:
    """uint8 (n, 20, 28, 28), paper 255."""
    if resize == "lanczos":
        return arrays["images"]
    bits = arrays["images_nearest_bits"]
    return np.unpackbits(bits, axis=-1, count=784).reshape(*bits.shape[:2], 28, 28) * np.uint8(255)


def _maml_sizes(n: int) -> tuple[int, int]:
    """Training and validation characters: 1100 and 100, or the same shares of a partial set."""
    if n == N_CHARACTERS:
        return MAML_TRAIN, MAML_VALIDATION
    return round(n * MAML_TRAIN / N_CHARACTERS), max(1, round(n * MAML_VALIDATION / N_CHARACTERS))


def _by_background(characters: Characters, seed: int) -> Tensor:
    """0, 1, 2 per character; whole background alphabets are set aside for validation."""
    background, group = characters.is_background, characters.pool.class_group
    alphabets = group[background].unique()
    order = torch.randperm(
        len(alphabets), generator=generator(seed, "omniglot", "background"), device="cpu"
    )
    aside = alphabets[order[: max(1, round(len(alphabets) * VALIDATION_ALPHABETS))]]
    part = torch.isin(group, aside).long()
    part[~background] = 2
    return part
