"""Omniglot 5-way 1-shot on two CPU cores: MAML for 37 minutes, and six methods at one short budget.

Run: INNERLOOP_DATA=FOLDER python benchmarks/omniglot.py [--minutes 4]     (resumable)

All methods meet the same 1000 test tasks: 423 characters never seen, MAML's 1100/100/423 split by
seed 0, rotations at training and test, ink = 1, Conv4-64 with strides and batch statistics
(transductive), so accuracy depends on the number of queries beside each other: 15 per class, and 1
per class as in MAML's code.
"""

import argparse

from bench import evaluated, heading, spent, table, trained, write

PAPER = {
    "maml": "98.7 ± 0.4",
    "fomaml": "98.3 ± 0.5",
    "reptile": "97.68 ± 0.04 (transductive)",
    "imaml": "99.16 ± 0.35",
    "anil": "none (20-way: 96.2)",
    "protonet": "97.4 (quoted by SNAIL; running averages)",
}


def row(kind: str, name: str, *settings: object) -> list[str]:
    folder = trained(name, f"omniglot-5w1s-quick/{kind}", *settings)
    many = evaluated(folder, "15-queries", "--tasks", 1000)
    one = evaluated(folder, "1-query", "--tasks", 1000, "--test.queries", 1)
    steps, seconds = spent(folder)
    return [
        kind,
        many.text(),
        one.text(),
        str(many.steps),
        PAPER[kind],
        f"{steps}",
        f"{seconds / 60:.1f} min",
        many.method["norm"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Omniglot 5-way 1-shot on two CPU cores")
    parser.add_argument("--minutes", type=float, default=4.0, help="the short budget")
    options = parser.parse_args()
    rows = [row("maml", "omniglot-maml")]
    budget = ("--train.minutes", options.minutes)
    rows += [row(kind, f"omniglot-{kind}-short", *budget) for kind in PAPER]
    header = ["method", "15 queries per class", "1 query per class", "inner steps at test"]
    header += ["paper, full budget", "outer steps", "training", "norm"]
    title = "Omniglot 5-way 1-shot at equal wall-clock"
    facts = (
        "Accuracy ± 95 % interval over 1000 test tasks; Conv4-64 with strides; two workers; "
        "recipes `omniglot-5w1s-quick/*`, on a machine that did other work beside them. In the row "
        "of iMAML, with its paper's lambda = 2, conjugate gradients met negative curvature in most "
        "tasks and stopped early: 16 steps leave the inner gradient far from zero."
    )
    command = f"python benchmarks/omniglot.py --minutes {options.minutes:g}"
    write("omniglot.md", [*heading(title, command, facts), *table(header, rows)])


if __name__ == "__main__":
    main()
