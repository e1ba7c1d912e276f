"""Meta-train on a folder of your own images, then learn new classes from a few of them.

    photos/
      beaver/  0001.jpg 0002.jpg ...
      dolphin/ 0001.jpg ...

Classes are shared out: most are trained on, some choose the best weights, some are never seen.
The script reports the accuracy on those, adapts to one task of them, and saves the classifier.

    python examples/own_images.py photos --way 5 --shot 1 --iterations 2000
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from safetensors.torch import save_file

import innerloop
from innerloop.data.images.folder import folder
from innerloop.data.source import Source
from innerloop.models import Conv4


def accuracy(method: innerloop.Method, source: Source, tasks: int) -> tuple[float, float]:
    """Mean accuracy over `tasks` tasks, and the half-width of its 95 % interval."""
    drawn = source.sample(torch.Generator().manual_seed(1), tasks)
    right = method.query_outputs(drawn)[-1].argmax(-1) == drawn.query.y  # (tasks, queries)
    per_task = right.double().mean(1)
    return float(per_task.mean()), float(1.96 * per_task.std() / tasks**0.5)


def train(
    method: innerloop.Method, source: Source, validation: Source, iterations: int, tasks: int
) -> None:
    """Adam on the meta-gradient; ends with the weights that were best on validation tasks."""
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    best, weights = -1.0, copy.deepcopy(method.state_dict())
    for iteration in range(1, iterations + 1):
        loss = method.loss(source.sample(generator, tasks))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if iteration % max(1, iterations // 10) == 0:
            score, width = accuracy(method, validation, 50)
            print(f"{iteration:6d}  loss {loss:.3f}  validation {score:.1%} ± {width:.1%}")
            if score > best:
                best, weights = score, copy.deepcopy(method.state_dict())
    method.load_state_dict(weights)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="few-shot classification of your own images")
    parser.add_argument("root", type=Path, help="folder with one sub-folder of images per class")
    parser.add_argument("--way", type=int, default=5, help="classes per task")
    parser.add_argument("--shot", type=int, default=1, help="labelled images per class")
    parser.add_argument("--queries", type=int, default=10, help="query images per class")
    parser.add_argument("--size", type=int, default=32, help="images are scaled to size x size")
    parser.add_argument("--iterations", type=int, default=2000, help="outer steps")
    parser.add_argument("--tasks", type=int, default=8, help="tasks per outer step")
    parser.add_argument("--test-tasks", type=int, default=200, help="tasks of the final test")
    parser.add_argument("--out", type=Path, default=Path("classifier.safetensors"))
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    splits = folder(
        options.root,
        way=options.way,
        shot=options.shot,
        queries=options.queries,
        size=options.size,
        device="cpu",
    )
    model = Conv4(options.way, channels=3, size=options.size, filters=32, features="flatten")
    method = innerloop.methods.maml(model, lr=0.1, steps=3)
    train(method, splits.train, splits.validation, options.iterations, options.tasks)

    score, width = accuracy(method, splits.test, options.test_tasks)
    print(f"unseen classes, {options.way}-way {options.shot}-shot: {score:.1%} ± {width:.1%}")

    task = splits.test.sample(torch.Generator().manual_seed(2), 1)
    classifier = method.adapt(task.support.x[0], task.support.y[0])  # a plain nn.Module
    with torch.no_grad():
        predicted = classifier(task.query.x[0]).argmax(-1)
    right = int((predicted == task.query.y[0]).sum())
    print(f"one task: {right} of {len(predicted)} queries right; classifier in {options.out}")
    save_file({k: v.contiguous() for k, v in classifier.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
