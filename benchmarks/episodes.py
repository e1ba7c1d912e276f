"""Time to draw a batch of tasks: 32 tasks, 5-way 1-shot, 15 queries, on the CPU.

Run: python benchmarks/episodes.py            (made-up images of Omniglot's size)
     python benchmarks/episodes.py --omniglot (the real set, from INNERLOOP_DATA)
"""

import argparse
import statistics
import time
from typing import Any

import torch

from innerloop.core.streams import generator
from innerloop.data.images.episodes import Episodes
from innerloop.data.images.omniglot import omniglot
from innerloop.data.pool import ClassPool, with_rotated_classes

TASKS, REPEATS = 32, 200


def made_up(classes: int, per_class: int, channels: int, side: int) -> ClassPool:
    """Noise of the given size."""
    label = torch.arange(classes * per_class) // per_class
    shape = (classes * per_class, channels, side, side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(0, "images"))
    names = [f"class {k}" for k in range(classes)]
    return ClassPool(images, label, names, torch.arange(classes) % 25, [f"g{g}" for g in range(25)])


def five_way(pool: ClassPool, **more: Any) -> Episodes:
    """The tasks that are timed."""
    return Episodes(pool, way=5, shot=1, queries=15, **more)


def milliseconds(source: Episodes) -> tuple[float, float]:
    """Median and 95th percentile of one draw."""
    stream = generator(0, "benchmark")
    for _ in range(20):
        source.sample(stream, TASKS)
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        source.sample(stream, TASKS)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken), sorted(taken)[int(0.95 * REPEATS)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to draw tasks")
    parser.add_argument("--omniglot", action="store_true", help="the real set instead of noise")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    characters = made_up(1100, 20, 1, 28)
    if options.omniglot:
        train = omniglot().train
        assert isinstance(train, Episodes)
        characters = train.pool
    photographs = made_up(64, 100, 3, 32)
    cases = {
        "1x28x28": five_way(characters),
        "1x28x28, within group": five_way(characters, within_group=True),
        "1x28x28, rotation as augmentation": five_way(characters, rotate="augment"),
        "1x28x28, rotations as classes": five_way(with_rotated_classes(characters)),
        "3x32x32": five_way(photographs),
        "3x32x32, flip-shift": five_way(photographs, augment="flip-shift"),
    }
    print(f"{TASKS} tasks, 5-way 1-shot + 15 queries, {options.threads} thread(s): ms per draw")
    print(f"{'':36}{'median':>8}{'95 %':>8}")
    for name, source in cases.items():
        median, high = milliseconds(source)
        print(f"{name:36}{median:8.2f}{high:8.2f}")


if __name__ == "__main__":
    main()
