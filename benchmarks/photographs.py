"""Colour photographs from class folders: meta-train on some classes, adapt to pictures of others.

Caltech-101 is written out as JPEG files, one folder per class, as a person would have them. A run
trains on the training classes, is scored on 600 tasks of the test classes, and is then adapted to
five of those by `innerloop adapt`: 5 pictures of each to learn from, 15 to classify.

Run: INNERLOOP_DATA=FOLDER python benchmarks/photographs.py      (about 8 minutes; resumable)
"""

import csv
import shutil
from pathlib import Path

import numpy as np
from bench import (
    RUNS,
    evaluated,
    heading,
    innerloop,
    spent,
    table,
    takes_no_options,
    trained,
    write,
)

from innerloop.data.cache import data_folder

PICTURES, OWN = RUNS / "photographs", RUNS / "own-pictures"
WAY, SHOT, QUERIES = 5, 5, 15
SHARED = (
    *("--data.root", PICTURES, "--data.size", 32, "--data.augment", "flip-shift"),
    *("--model.pool", "stride", "--train.workers", 2, "--train.minutes", 3),
    *("--train.schedule", "cosine", "--train.validate_every", 500, "--train.log_every", 50),
)
RECIPES: dict[str, tuple[object, ...]] = {
    "maml": (
        *("--train.meta_batch", 8, "--method.lr", 0.1, "--method.steps", 2, "--train.lr", 2e-3),
        *("--data.queries", 5, "--test.queries", QUERIES, "--evaluate.steps", 5),
    ),
    "protonet": (
        *("--train.meta_batch", 4, "--data.way", 10, "--test.way", WAY, "--train.lr", 2e-3),
        *("--model.filters", 64),
    ),
}


def write_folders() -> None:
    """PICTURES/{train,validation,test}/CLASS/image_NNNN.jpg, whole or not at all."""
    if PICTURES.exists():
        return
    source = data_folder() / "caltech101"
    facts = np.load(source / "caltech101_rgb32.npz")
    files = np.load(source / "caltech101_rgb84_jpeg.npz")
    jpeg, offsets = files["jpeg"], files["offsets"]
    split = np.array(["train", "validation", "test"])[facts["suggested_class_split"]]
    draft = PICTURES.with_name("photographs.draft")
    shutil.rmtree(draft, ignore_errors=True)
    for i, (label, number) in enumerate(zip(facts["label"], facts["image_number"], strict=True)):
        folder = draft / split[label] / facts["class_names"][label]
        folder.mkdir(parents=True, exist_ok=True)
        content = jpeg[offsets[i] : offsets[i + 1]].tobytes()
        (folder / f"image_{number:04d}.jpg").write_bytes(content)
    draft.rename(PICTURES)


def own_pictures() -> None:
    """OWN/support and OWN/query: the first classes of the test part, as a person's own."""
    shutil.rmtree(OWN, ignore_errors=True)
    for folder in sorted((PICTURES / "test").iterdir())[:WAY]:
        pictures = sorted(folder.glob("*.jpg"))[: SHOT + QUERIES]
        for i, picture in enumerate(pictures):
            target = OWN / ("support" if i < SHOT else "query") / folder.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)


def adapted(folder: Path, kind: str, own: Path) -> str:
    """Accuracy on the person's query pictures in `own`, from predictions.csv."""
    out = own / f"adapted-{kind}"
    words = ("--support", own / "support", "--query", own / "query", "--out", out)
    innerloop("adapt", folder, *words)
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["predicted"] == row["true"] for row in rows)
    return f"{right} of {len(rows)} ({100 * right / len(rows):.1f} %)"


def main() -> None:
    write_folders()
    own_pictures()
    rows = []
    for kind, settings in RECIPES.items():
        folder = trained(f"photographs-{kind}", f"folder-5w5s/{kind}", *SHARED, *settings)
        result = evaluated(folder, "600-tasks", "--tasks", 600)
        steps, seconds = spent(folder)
        own = adapted(folder, kind, OWN)
        cells = [result.text(), own, result.method["norm"], f"{steps}", f"{seconds / 60:.1f} min"]
        rows.append([kind, *cells])
    facts = (
        "Caltech-101 without faces, 64/16/19 classes, 32x32 RGB, Conv4 with strides (MAML 32, "
        "ProtoNet 64 filters); 5-way 5-shot with 15 queries per class; accuracy ± 95 % interval of "
        "600 tasks of the 19 test classes; then `innerloop adapt` on 25 JPEG files of five test "
        "classes, 75 to classify."
    )
    header = ["method", "test classes", "own pictures", "norm", "outer steps", "training"]
    lines = heading("Photographs from folders", "python benchmarks/photographs.py", facts)
    write("photographs.md", [*lines, *table(header, rows)])


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()
