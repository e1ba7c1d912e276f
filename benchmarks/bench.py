"""What the benchmark scripts share: train a recipe once, evaluate it, write a table of the results.

Runs live in runs/benchmarks/NAME; one that is complete is not trained again, one that was stopped
goes on, so every benchmark can be interrupted and called again.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

import torch

from innerloop.evaluate import EvaluationResult
from innerloop.train.log import read_metrics

RUNS = Path("runs/benchmarks")
RESULTS = Path("benchmarks/results")
ENDED = "training-ended"


def takes_no_options(doc: str) -> None:
    """Show a script's own words for --help, and refuse what it would ignore."""
    form = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=doc, formatter_class=form).parse_args()


def innerloop(*words: object) -> None:
    """Run a command of the command line, shown as it is typed."""
    command = ["innerloop", *map(str, words)]
    print("$", " ".join(command), flush=True)
    code = "import sys; from innerloop.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code, *command[1:]], check=True)


def trained(name: str, recipe: str, *settings: object) -> Path:
    """The folder of the trained run; `settings` are words such as `--train.lr`, 0.1."""
    folder = RUNS / name
    if not (folder / ENDED).exists():
        resume = ["--resume"] if (folder / "config.yaml").exists() else []
        innerloop("train", recipe, "--run", folder, *resume, *settings)
        (folder / ENDED).touch()
    return folder


def evaluated(folder: Path, name: str, *words: object) -> EvaluationResult:
    """The result of `innerloop evaluate FOLDER words`, kept as FOLDER/NAME.json."""
    path = folder / f"{name}.json"
    if not path.exists():
        innerloop("evaluate", folder, "--json", path, *words)
    return EvaluationResult.from_json(path)


def spent(folder: Path) -> tuple[int, float]:
    """Outer steps and seconds of training."""
    records = read_metrics(folder / "metrics.jsonl")
    last = [record for record in records if record["event"] == "train"][-1]
    return int(last["step"]), float(last["seconds"])


def heading(title: str, command: str, *facts: str, machine: str = "CPU with 2 cores") -> list[str]:
    """The first lines of a result file: what was run, when and on what."""
    told = [
        f"Command: `{command}`.",
        f"{datetime.date.today()}, {machine}, torch {torch.__version__}, seed 0.",
        *facts,
    ]
    return [f"# {title}", "", " ".join(told), ""]


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def write(name: str, lines: list[str]) -> None:
    """benchmarks/results/NAME, also printed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    (RESULTS / name).write_text(text, encoding="utf-8")
    print(text)
