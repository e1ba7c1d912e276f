"""Small made-up data for the tests of the sources."""

import os
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from innerloop.data.pool import ClassPool
from innerloop.data.pool_writer import PoolWriter


def make_pool(sizes=(7, 5, 9, 6, 8, 5), groups=2, side=4, channels=1):
    """Images of class k are grey 20 k + 1, but for one corner: 100 + the image's number."""
    label = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    images = torch.zeros(len(label), channels, side, side, dtype=torch.uint8)
    images += (label * 20 + 1).to(torch.uint8)[:, None, None, None]
    number = torch.cat([torch.arange(n) for n in sizes])
    images[:, :, 0, 0] = (100 + number).to(torch.uint8)[:, None]
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(3))
    return ClassPool(
        images[order],
        label[order],
        [f"class{k}" for k in range(len(sizes))],
        torch.arange(len(sizes)) % groups,
        [f"group{g}" for g in range(groups)],
    )


def write_prepared(out, pool, **more):
    """`pool` as a prepared data set, each class in two parts that are not next to each other."""
    with PoolWriter(out, **more) as writer:
        for half in (0, 1):
            for k, name in enumerate(pool.class_names):
                rows = (pool.label == k).nonzero().squeeze(1)
                part = rows[: len(rows) // 2] if half == 0 else rows[len(rows) // 2 :]
                group = pool.group_names[int(pool.class_group[k])]
                writer.add(name, pool.images[part], group=group)
    return out


def drawing(seed: int) -> bytes:
    """A 105x105 one-bit PNG as Omniglot has them: white paper, a few black strokes."""
    rng = np.random.default_rng(seed)
    pixels = np.ones((105, 105), bool)
    for row, column in rng.integers(5, 80, (4, 2)):
        pixels[row : row + 4, column : column + 20] = False
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tiny_files() -> dict[str, bytes]:
    """Two alphabets of three characters with their official numbering: Balinese and Greek."""
    return {
        f"images_background/{alphabet}/character{k:02d}/{first + k - 1:04d}_{d:02d}.png": drawing(
            (first + k) * 100 + d
        )
        for alphabet, first in (("Balinese", 108), ("Greek", 394))
        for k in (1, 2, 3)
        for d in range(1, 21)
    }


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def real(*parts: str) -> Path:
    """A file of the real data; the test is skipped when it is not there."""
    root = Path(os.environ.get("INNERLOOP_DATA", "~/.cache/innerloop")).expanduser()
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{Path(*parts)} is not in INNERLOOP_DATA")
    return path


@pytest.fixture
def pool():
    return make_pool()


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)
