"""Alpha MAML from bad rates: the same short budget on sine waves, with and without hypergradients.

Run: python benchmarks/alpha_maml.py        (about a minute on one thread; resumable)
Writes benchmarks/results/alpha_maml.md.
"""

from bench import RUNS, evaluated, heading, table, takes_no_options, trained, write

from innerloop.train.log import read_metrics

ITERATIONS, TASKS = 2000, 600
STARTS = {
    "both far too small": (1e-5, 1e-4),
    "MAML's": (1e-3, 1e-3),
    "both far too large": (1e-1, 1e-1),
}
"""Outer and inner rate at the first step."""


def row(told: str, kind: str, outer: float, inner: float) -> list[str]:
    """Where the rates went, and the error after one inner step."""
    words = ["--train.lr", outer, "--method.lr", inner, "--train.iterations", ITERATIONS]
    words += ["--train.validate-every", 0, "--train.log-every", 100, "--train.threads", 1]
    folder = trained(f"alpha-{kind}-{outer:g}-{inner:g}", f"sine-5shot/{kind}", *words)
    result = evaluated(folder, "ten-points", "--tasks", TASKS, "--steps", 1, "--test.shot", 10)
    last = [r for r in read_metrics(folder / "metrics.jsonl") if r["event"] == "train"][-1]
    learned = "–"
    if kind == "alpha_maml":
        learned = f"{last['lr']:.2g} and {last['inner_lr']:.2g}"
    name = {"maml": "MAML", "alpha_maml": "Alpha MAML"}[kind]
    return [f"{told}: {outer:g} and {inner:g}", name, learned, result.text(1)]


def main() -> None:
    rows = [
        row(told, kind, outer, inner)
        for told, (outer, inner) in STARTS.items()
        for kind in ("maml", "alpha_maml")
    ]
    facts = (
        f"`sine-5shot/maml` and `sine-5shot/alpha_maml`, {ITERATIONS} iterations of 25 tasks; mean "
        f"squared error ± 95 % interval over {TASKS} test tasks of seed 0, 10 points, one inner "
        "step. The hyper-rates are those of the recipe in every row, chosen on these curves."
    )
    header = ["rates at the start: outer and inner", "method", "rates at the end", "MSE"]
    lines = heading("Alpha MAML from bad rates", "python benchmarks/alpha_maml.py", facts)
    write("alpha_maml.md", [*lines, *table(header, rows), "", f"Runs: `{RUNS}/alpha-*`."])


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()
