"""Omniglot 5-way 1-shot, MAML for 37 minutes on two CPU cores. All methods: innerloop reproduce.

Run: INNERLOOP_DATA=FOLDER python benchmarks/omniglot.py      (resumable)

1000 test tasks: 423 characters never seen, MAML's 1100/100/423 split by seed 0, rotations at
training and test, ink = 1, Conv4-64 with strides and batch statistics (transductive), so accuracy
depends on the number of queries beside each other: 15 per class, and 1 per class as in MAML's code.
"""

from bench import evaluated, heading, spent, table, takes_no_options, trained, write

PAPER = "98.7 ± 0.4"


def main() -> None:
    folder = trained("omniglot-maml", "omniglot-5w1s-quick/maml")
    many = evaluated(folder, "15-queries", "--tasks", 1000)
    one = evaluated(folder, "1-query", "--tasks", 1000, "--test.queries", 1)
    steps, seconds = spent(folder)
    row = ["maml", many.text(), one.text(), str(many.steps), PAPER, str(steps)]
    row += [f"{seconds / 60:.1f} min", many.method["norm"]]
    header = ["method", "15 queries per class", "1 query per class", "inner steps at test"]
    header += ["paper, full budget", "outer steps", "training", "norm"]
    facts = (
        "Accuracy ± 95 % interval over 1000 test tasks; Conv4-64 with strides; two workers; "
        "recipe `omniglot-5w1s-quick/maml`, on a machine that did other work beside it."
    )
    title = "Omniglot 5-way 1-shot, MAML"
    write(
        "omniglot.md",
        [*heading(title, "python benchmarks/omniglot.py", facts), *table(header, [row])],
    )


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()
