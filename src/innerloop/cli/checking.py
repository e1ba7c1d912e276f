"""`innerloop check-gradient`: every estimator against the dense reference, on a user's model."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from ..config import load, sources
from ..config.pieces import HEADLESS
from ..core import streams
from ..data.source import Spec
from ..doctor import ESTIMATORS, GradientRow, check_gradient
from ..method import Method
from .training import resolve


def check_gradient_command(
    name: str,
    settings: Sequence[tuple[str, str]],
    network: str | None,
    tasks: int,
    estimators: Sequence[str],
) -> None:
    """Build the run, draw tasks, compare, and print a table."""
    console = Console()
    unknown = [e for e in estimators if e not in ESTIMATORS]
    if unknown or tasks < 1:
        raise ValueError(
            f"unknown estimator {', '.join(unknown)}; known: {', '.join(ESTIMATORS)}"
            if unknown
            else f"--tasks must be at least 1, got {tasks}"
        )
    base, folder = resolve(name, None, resume=True)
    config = base.override(settings)
    splits = sources.build(config.data, config.test, config.device())
    spec = splits.train.spec
    if Path(name).is_dir() and network is None:
        config, method, _ = load(folder, settings=settings)
    else:
        method = config.build_method(spec, spec.outputs)
    if not isinstance(method, Method):
        raise ValueError(f"{config.method.kind} has no meta-gradient; use another method")
    if network is not None:
        headless = config.method.kind in HEADLESS
        method = config.method.call(read_network(network, spec, headless)).to(config.device())
    drawn = splits.train.sample(streams.generator(config.seed, "check-gradient"), tasks)
    chosen = [ESTIMATORS[e]() for e in estimators] or None
    count = sum(p.numel() for p in method.parameters() if p.requires_grad)
    console.print(
        f"{method.name} on {config.name}: {count} meta-parameters, {tasks} tasks, "
        f"{method.steps} inner steps; reference: autograd through the "
        "whole inner loop in float64",
        soft_wrap=True,
        highlight=False,
    )
    console.print(gradient_table(check_gradient(method, drawn, chosen)))


def gradient_table(rows: Sequence[GradientRow]) -> Table:
    """One row per estimator; a refusal takes the place of the numbers."""
    table = Table(box=None, pad_edge=False)
    table.add_column("estimator")
    for heading in ("error", "cosine", "error as run", "time", "peak memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    notes = []
    for row in rows:
        if row.refused:
            table.add_row(row.estimator, "refused")
            notes.append(f"{row.estimator}: {row.refused}")
            continue
        table.add_row(
            row.estimator,
            _number(row.error, "{:.1e}"),
            _number(row.cosine, "{:.6f}"),
            _number(row.native_error, "{:.1e}"),
            _number(row.seconds, "{:.4f} s"),
            _number(None if row.peak_bytes is None else row.peak_bytes / 2**20, "{:.1f} MiB"),
        )
    if notes:
        table.caption = "\n".join(notes)
        table.caption_justify = "left"
    return table


def read_network(place: str, spec: Spec, headless: bool) -> nn.Module:
    """The network that `FILE.py:NAME` stands for, checked on one input.

    NAME is a module, or a function (or class) without arguments that makes one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such name, not a network, or it does not fit the data.
    """
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not name or not file:
        raise ValueError(f"expected --network FILE.py:NAME, got {place!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected --network FILE.py:NAME")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    made = getattr(module, name, None)
    if made is None:
        raise ValueError(f"{path} defines no {name!r}")
    network = made() if callable(made) and not isinstance(made, nn.Module) else made
    if not isinstance(network, nn.Module):
        raise ValueError(f"{place} gave {type(network).__name__}, expected a torch.nn.Module")
    try:
        with torch.no_grad():
            outputs = network(torch.zeros(2, *spec.x_shape))
    except RuntimeError as error:
        raise ValueError(
            f"{place} does not take two inputs of shape {spec.x_shape}: {error}"
        ) from error
    if not headless and outputs.shape != (2, spec.outputs):
        raise ValueError(
            f"{place} gave outputs of shape {tuple(outputs.shape)} for two inputs of shape "
            f"{spec.x_shape}; the data needs (2, {spec.outputs})"
        )
    return network


def _number(value: float | None, shape: str) -> str:
    return "" if value is None else shape.format(value)
