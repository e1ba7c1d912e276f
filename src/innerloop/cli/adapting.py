"""`innerloop adapt`: a trained run on a person's own images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from ..config import load, plain, sources, task_spec
from ..method import Method
from ..pictures import AdaptReport, adapt_images

SHOWN = 20


def adapt_command(
    run_dir: Path,
    settings: Sequence[tuple[str, str]],
    support: Path,
    query: Sequence[Path],
    out: Path,
    steps: int | None,
    ink: str,
    weights: str,
    device: str | None,
) -> None:
    """Adapt, classify, write, and show what came out."""
    console = Console()
    config, method, _ = load(run_dir, weights=weights, settings=settings, device=device)
    x_shape = task_spec(run_dir)[0].x_shape
    if len(x_shape) != 3:
        raise ValueError(
            f"{run_dir} was trained on inputs of shape {x_shape}, not on images (channels, height, "
            "width): it cannot be adapted to image files"
        )
    wanted = {"auto": sources.ink_is_one(config.data), "dark": True, "light": False}
    report = adapt_images(
        # A baseline has the public surface of a method.
        cast(Method, method),
        support,
        query[0] if len(query) == 1 else list(query),
        out,
        size=(x_shape[1], x_shape[2]),
        channels=x_shape[0],
        invert=wanted[ink],
        steps=config.evaluate.steps if steps is None else steps,
        model_config={**plain(config.model), "x_shape": list(x_shape)},
    )
    show(console, report)


def show(console: Console, report: AdaptReport) -> None:
    """The first predictions, the accuracy if the classes are known, and the files."""
    table = Table("query", "predicted", "probability", box=None, pad_edge=False)
    for row in report.predictions[:SHOWN]:
        right = "" if row.true is None or row.true == row.predicted else f"  (is {row.true})"
        table.add_row(row.file.name, f"{row.predicted}{right}", f"{row.probability:.2f}")
    console.print(table)
    if len(report.predictions) > SHOWN:
        console.print(f"and {len(report.predictions) - SHOWN} more")
    counts = ", ".join(f"{name} {n}" for name, n in report.support.items())
    console.print(f"support: {counts}", soft_wrap=True)
    if report.accuracy is not None:
        console.print(f"accuracy on the {len(report.predictions)} queries: {report.accuracy:.1%}")
    console.print(f"written to {report.out}", soft_wrap=True)
