"""`innerloop adapt`: a trained run on a person's own images."""

from __future__ import annotations

from typing import cast

from rich.console import Console
from rich.table import Column, Table

from ..config import load, plain, sources, task_spec
from ..method import Method
from ..pictures import AdaptReport, adapt_images
from .commands import Adapt
from .console import say, show_table, terminal, visible
from .overrides import Overrides

SHOWN = 20


def adapt(asked: Adapt, overrides: Overrides) -> None:
    """Adapt, classify, write, and show what came out."""
    console = terminal()
    config, method, _ = load(
        asked.run, weights=asked.weights, settings=overrides.pairs, device=asked.device
    )
    x_shape = task_spec(asked.run)[0].x_shape
    if len(x_shape) != 3:
        raise ValueError(
            f"{asked.run} was trained on inputs of shape {x_shape}, not on images (channels, "
            "height, width): it cannot be adapted to image files"
        )
    wanted = {"auto": sources.ink_is_one(config.data), "dark": True, "light": False}
    report = adapt_images(
        # A baseline has the public surface of a method.
        cast(Method, method),
        asked.support,
        asked.query[0] if len(asked.query) == 1 else list(asked.query),
        asked.out,
        size=(x_shape[1], x_shape[2]),
        channels=x_shape[0],
        invert=wanted[asked.ink],
        steps=config.evaluate.steps if asked.steps is None else asked.steps,
        model_config={**plain(config.model), "x_shape": list(x_shape)},
    )
    show(console, report)


def show(console: Console, report: AdaptReport) -> None:
    """The first predictions, the accuracy if the classes are known, and the files."""
    heads = [Column(name, overflow="fold") for name in ("query", "predicted", "probability")]
    table = Table(*heads, box=None, pad_edge=False)
    for row in report.predictions[:SHOWN]:
        right = "" if row.true is None or row.true == row.predicted else f"  (is {row.true})"
        predicted = visible(f"{row.predicted}{right}")
        table.add_row(visible(row.file.name), predicted, f"{row.probability:.2f}")
    show_table(console, table)
    if len(report.predictions) > SHOWN:
        say(console, f"and {len(report.predictions) - SHOWN} more")
    counts = ", ".join(f"{name} {n}" for name, n in report.support.items())
    say(console, f"support: {counts}")
    if report.accuracy is not None:
        say(console, f"accuracy on the {len(report.predictions)} queries: {report.accuracy:.1%}")
    say(console, f"written to {report.out}")
