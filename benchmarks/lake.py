"""Lake's 20 one-shot runs: 20-way classification within an alphabet, the official files.

A run is a support set of 20 characters, one drawing each, by one person, and 20 drawings of them
by another. No class or drawing of these alphabets was trained on: the model is trained on the
background set alone. The official runs are classified as they are, one alphabet at a time.

Run: INNERLOOP_DATA=FOLDER python benchmarks/lake.py      (about 6 minutes; resumable)
"""

import math

from bench import heading, spent, table, takes_no_options, trained, write

from innerloop.config import load
from innerloop.core.types import Task
from innerloop.data.images.omniglot import lake_runs

HUMANS = "4.5 %"


def errors(method, tasks: Task, steps: int | None) -> list[float]:
    """The error rate of each run after the last inner step."""
    outputs = method.query_outputs(tasks, steps)[-1]
    return (outputs.argmax(-1) != tasks.query.y).double().mean(1).tolist()


def main() -> None:
    tasks = lake_runs()
    rows = []
    for kind, settings in MODELS.items():
        folder = trained(f"lake-{kind}", "omniglot-20w1s/" + kind, *settings)
        for norm in ("batch", "support"):
            config, method, _ = load(folder, settings=[("method.norm", norm)])
            found = errors(method, tasks, config.evaluate.steps)
            mean = sum(found) / len(found)
            spread = math.sqrt(sum((e - mean) ** 2 for e in found) / (len(found) - 1))
            steps, seconds = spent(folder)
            rows.append(
                [
                    kind,
                    norm,
                    f"{100 * mean:.1f} ± {196 * spread / math.sqrt(len(found)):.1f} %",
                    str(round(sum(found) * 20)),
                    f"{steps}",
                    f"{seconds / 60:.1f} min",
                ]
            )
    header = ["method", "norm", "error ± 95 % interval over runs", "wrong of 400", "outer steps"]
    facts = (
        f"20 runs, 20-way 1-shot within an alphabet; people: {HUMANS} (Lake et al. 2015). Trained "
        "on the background set (validation alphabets left out), tasks within an alphabet, two "
        "worker processes. `batch` sees the 20 test drawings of a run together (transductive); "
        "`support` classifies each alone."
    )
    title = "Lake's 20 one-shot runs"
    lines = heading(title, "python benchmarks/lake.py", facts)
    write("lake.md", [*lines, *table([*header, "training"], rows)])


SHARED = (
    *("--data.split", "background", "--data.within_alphabet", "true"),
    *("--data.rotate", "classes-train", "--train.workers", 2, "--train.schedule", "cosine"),
    *("--train.validate_tasks", 100, "--train.iterations", 100_000, "--train.log_every", 100),
)
MODELS: dict[str, tuple[object, ...]] = {
    "protonet": (
        *SHARED,
        *("--data.way", 20, "--data.queries", 5, "--train.meta_batch", 4, "--train.minutes", 5),
        *("--model.pool", "stride", "--train.lr", 2e-3),
    ),
}


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()
