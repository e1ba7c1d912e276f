"""The parts of MAML++ one by one, on Omniglot 20-way 1-shot at equal training time.

Run: INNERLOOP_DATA=FOLDER python benchmarks/plus_plus.py [--minutes 6]     (resumable)

Every row is one run of the same network (Conv4-64 with strides, from Xavier as the authors'), data
(MAML's 1100/100/423 characters, rotations at training and test, ink = 1), tasks (8 per step, 1
query per class, as the authors train), five inner steps from rate 0.4, and Adam 1e-3. A step costs
less without second derivatives and more with losses of all steps: what is equal is the time. All
rows meet the same test tasks; BatchNorm uses the statistics of the batch it sees (transductive).
"""

import argparse
from pathlib import Path

from bench import evaluated, heading, spent, table, trained, write

from innerloop.train.checkpoint import ranked

PARTS: dict[str, tuple[object, ...]] = {
    "multi-step loss": ("--method.multi_step_until", 0.1),
    "learned rates": ("--method.lslr", "true"),
    "BatchNorm per step": ("--method.per_step_norm", "true"),
    "cosine": ("--train.schedule", "cosine", "--train.lr_end", 1e-5),
    "first order first": ("--method.first_order_until", 0.5),
}
NONE = (
    *("--method", "maml_plus_plus", "--method.lr", 0.4, "--method.steps", 5),
    *("--method.multi_step_until", 0, "--method.lslr", "false", "--method.per_step_norm", "false"),
)
OUTER = (
    *("--model.init", "xavier"),
    *("--train.meta_batch", 8, "--train.iterations", 1_000_000, "--train.workers", 2),
    *("--train.validate_every", 50, "--train.keep_best", 5, "--train.checkpoint_every", 50),
)
PAPER = {
    "MAML": "91.27 ± 1.07",
    "+ multi-step loss": "91.53 ± 0.69",
    "+ learned rates": "95.77 ± 0.38",
    "+ BatchNorm per step": "95.35 ± 0.23",
    "+ cosine": "93.03 ± 0.44",
    "+ first order first": "92.3 ± 0.55",
    "all": "97.65 ± 0.05",
}


def run(name: str, minutes: float, *parts: str) -> Path:
    """The trained run of MAML with these parts; later settings overrule earlier ones."""
    chosen: dict[object, object] = {}
    for words in (NONE, OUTER, *(PARTS[part] for part in parts)):
        chosen |= dict(zip(words[::2], words[1::2], strict=True))
    flat = [word for pair in chosen.items() for word in pair]
    folder = f"plus-plus-{name.replace(' ', '-').strip('+-')}"
    return trained(folder, "omniglot-20w1s/maml", *flat, "--train.minutes", minutes)


def row(tasks: int, name: str, folder: Path, *words: object) -> list[str]:
    """Scores and cost of one line of the table; `words` change how it is tested."""
    kept = "-ensemble" if words else ""
    one = evaluated(folder, f"1-query{kept}", "--tasks", tasks, *words)
    many = evaluated(folder, f"15-queries{kept}", "--tasks", tasks, "--test.queries", 15, *words)
    steps, seconds = spent(folder)
    time = f"{seconds / 60:.1f} min"
    return [name, one.text(), many.text(), PAPER.get(name, "–"), str(steps), time]


def main() -> None:
    parser = argparse.ArgumentParser(description="MAML++ part by part, Omniglot 20-way 1-shot")
    parser.add_argument("--minutes", type=float, default=6.0, help="training time of every row")
    parser.add_argument("--tasks", type=int, default=1000, help="test tasks")
    options = parser.parse_args()
    tasks = options.tasks
    rows = [row(tasks, "MAML", run("MAML", options.minutes))]
    for part in PARTS:
        rows.append(row(tasks, f"+ {part}", run(part, options.minutes, part)))
    folder = run("all", options.minutes, *PARTS)
    rows.append(row(tasks, "all", folder))
    count = min(5, len(ranked(folder)))
    rows.append(row(tasks, f"all, ensemble of {count}", folder, "--ensemble", count))
    header = ["method", "1 query per class", "15 queries per class", "paper (unconfirmed)"]
    header += ["outer steps", "training"]
    facts = (
        f"Accuracy ± 95 % interval over {tasks} test tasks; Conv4-64 with strides, 8 tasks per "
        "step, five inner steps from rate 0.4, Adam 1e-3, two workers, batch statistics "
        "(transductive), weights of the best validation. The paper's column is after 50 000 "
        "steps, with max-pools, ± over three seeds, every row an ensemble of five checkpoints."
    )
    title = "MAML++ part by part: Omniglot 20-way 1-shot at equal training time"
    command = f"python benchmarks/plus_plus.py --minutes {options.minutes:g} --tasks {tasks}"
    write("plus_plus.md", [*heading(title, command, facts), *table(header, rows)])


if __name__ == "__main__":
    main()
