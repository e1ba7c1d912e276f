"""Sine waves from five points: MAML as in Finn et al. 2017, section 5.1, and joint pre-training.

Run: python benchmarks/sine.py        (about ten minutes on two CPU cores; resumable)
"""

from bench import evaluated, heading, innerloop, spent, table, trained, write

PUBLISHED = {"maml": "0.67 / 0.38 / 0.35", "pretrained": "2.41 / 2.23 / 2.19"}


def main() -> None:
    rows = []
    for kind, paper in PUBLISHED.items():
        folder = trained(f"sine-{kind}", f"sine-5shot/{kind}", "--train.threads", 1)
        result = evaluated(folder, "600-tasks", "--tasks", 600, "--steps", 10)
        steps, seconds = spent(folder)
        shown = [result.text(step) for step in (1, 5, 10)]
        rows.append([kind, *shown, paper, f"{steps}", f"{seconds / 60:.1f} min"])
        innerloop("report", folder)
    facts = (
        "Trained with 10 support and 10 query points, tested with 5 and 5; 600 tasks; mean square "
        "error ± 95 % interval over tasks after 1, 5 and 10 inner steps (rate 0.001, the default "
        "of the authors' code; fine-tuning 0.01); no normalisation layers; one thread."
    )
    header = ["method", "1 step", "5 steps", "10 steps", "paper (1 / 5 / 10)", "iterations", "time"]
    write(
        "sine.md",
        [*heading("Sine, 5-shot", "python benchmarks/sine.py", facts), *table(header, rows)],
    )


if __name__ == "__main__":
    main()
