"""From a folder of image files to a prepared data set, at any size."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..cache import expand
from ..download import Progress
from ..pool_writer import IMAGES, PoolWriter
from ..splits import Skipped
from ..validate import duplicates, join_names
from .files import Channels
from .folder import ClassFolder, class_folders, folder_name, read_classes, split_folders


@dataclass(frozen=True)
class PreparedFolder:
    """What was written: where, how much, and what was left out."""

    path: Path
    images: int
    classes: int
    bytes: int
    skipped: Skipped

    def lines(self) -> list[str]:
        """The report, one statement per line."""
        return [
            f"wrote {self.path} ({self.images} images of {self.classes} classes, "
            f"{self.bytes / 1e9:.2f} GB)",
            *self.skipped.lines(),
        ]


def prepare_folder(
    root: Path | str,
    out: Path | str,
    *,
    size: int = 84,
    channels: Channels = 3,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> PreparedFolder:
    """Write the images of `root/class/*.png` or `root/group/class/*.png` to the new folder `out`.

    They become uint8 (N, channels, size, size), 256 at a time, so there may be more of them than
    memory holds. `prepared(out)` then gives the tasks that `folder(root)` gives. Folders train, val
    and test directly under `root` are kept as the splits.

    A file that cannot be read or a class folder without images is an error that names it, and
    nothing is written then; with `skip_bad` they are left out and listed.

    Raises FileNotFoundError for a missing folder, FileExistsError when `out` is there, ValueError
    for everything else, such as a class that is in two splits or a disk without room.
    """
    root, out = expand(root), expand(out)
    places = split_folders(root)
    parts: list[tuple[str | None, list[ClassFolder]]] = (
        [(None, class_folders(root))]
        if places is None
        else [(part, class_folders(place)) for part, place in places.items()]
    )
    twice = duplicates(item.name for _, classes in parts for item in classes)
    if twice:
        raise ValueError(
            f"{len(twice)} classes are in two of train, val and test: {join_names(twice)}; a class "
            "may "
            "be in one split only"
        )
    files = sum(len(item.files) for _, classes in parts for item in classes)
    skipped = Skipped()
    writer = PoolWriter(out)
    _check_room(out, files * channels * size * size)
    with writer:
        for part, classes in parts:
            for item, images in read_classes(classes, size, channels, skip_bad, skipped):
                writer.add(item.name, images, group=item.group, split=part)
                if progress is not None:
                    progress(f"reading {root.name}", len(writer), files)
        writer.name = f"{folder_name(root)}{skipped}"
    return PreparedFolder(
        out, len(writer), writer.n_classes, (out / IMAGES).stat().st_size, skipped
    )


def _check_room(out: Path, needed: int) -> None:
    """Raises ValueError when the disk of `out` has less than `needed` bytes."""
    place = next(p for p in out.absolute().parents if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"the images take {needed / 1e9:.2f} GB, {place} has {free / 1e9:.2f} GB; make room, "
            "write elsewhere with --out, or choose a smaller --size"
        )
