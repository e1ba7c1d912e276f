"""`innerloop cite`: the papers that a run builds on."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ..config import stored
from ..recipes.cite import OUTER, cited, entries


def cite_command(run_dir: Path) -> None:
    """Print the entries of the run's method, network, data, split and optimiser."""
    config = stored(run_dir)
    keys = cited(
        method=config.method.kind,
        model=config.model.kind,
        data=getattr(config.data, "dataset", config.data.kind),
        split=getattr(config.data, "split", None),
        optimizer=config.train.optimizer,
        outer=[name for name in OUTER if getattr(config.train, name) is not None],
    )
    known = entries()
    none = f"% no piece of {run_dir} comes from a paper that is known here"
    text = "\n\n".join(known[key] for key in keys) or none
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
