"""A person's own pictures: PNG files of the official small Omniglot zip, classified from one each.

Five characters of one alphabet are unpacked into class folders, one drawing to learn from and ten
to classify, and the run of `benchmarks/omniglot.py` is adapted to them by `innerloop adapt`. Some
of these characters were trained on: this shows the path from files to predictions, not accuracy on
unseen classes.

Run: INNERLOOP_DATA=FOLDER python benchmarks/characters.py      (seconds, after omniglot.py)
"""

import shutil
import zipfile
from pathlib import PurePosixPath

from bench import RUNS, heading, table, takes_no_options, write
from photographs import adapted

from innerloop.data.cache import data_folder

ALPHABET, CLASSES, SHOT, QUERIES = "Korean", 5, 1, 10
OWN = RUNS / "own-characters"


def unpack() -> None:
    """OWN/support and OWN/query, one folder per character."""
    shutil.rmtree(OWN, ignore_errors=True)
    with zipfile.ZipFile(data_folder() / "omniglot" / "images_background_small1.zip") as archive:
        names = [PurePosixPath(n) for n in archive.namelist() if n.endswith(".png")]
        ours = sorted(n for n in names if n.parts[-3] == ALPHABET)
        for character in sorted({n.parts[-2] for n in ours})[:CLASSES]:
            drawings = [n for n in ours if n.parts[-2] == character][: SHOT + QUERIES]
            for i, name in enumerate(drawings):
                target = OWN / ("support" if i < SHOT else "query") / character / name.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(str(name)))


def main() -> None:
    unpack()
    found = adapted(RUNS / "omniglot-maml", "maml", OWN)
    facts = (
        f"{CLASSES} characters of {ALPHABET}, {SHOT} drawing each to learn from, {QUERIES} to "
        "classify together (transductive); PNG files of 105x105 pixels, some of their classes seen "
        "in training."
    )
    title = "Own pictures: Omniglot PNG files"
    lines = heading(title, "python benchmarks/characters.py", facts)
    write("characters.md", [*lines, *table(["method", "right"], [["maml", found]])])


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()
