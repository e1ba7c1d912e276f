"""`innerloop cite`: the papers that a run builds on."""

from __future__ import annotations

from pathlib import Path

from ..config import stored
from ..config.own import Own
from ..recipes.cite import OUTER, cited, entries
from .console import terminal


def cite(run_dir: Path) -> None:
    """Print the entries of the run's method, network, data, split and optimiser."""
    config = stored(run_dir)
    keys = cited(
        method=config.method.kind,
        # What is one's own comes from no paper, as a plain network or plain data would not.
        model="mlp" if isinstance(config.model, Own) else config.model.kind,
        data="folder"
        if isinstance(config.data, Own)
        else getattr(config.data, "dataset", config.data.kind),
        split=getattr(config.data, "split", None),
        optimizer=config.train.optimizer,
        outer=[name for name in OUTER if getattr(config.train, name) is not None],
    )
    known = entries()
    none = f"% no piece of {run_dir} comes from a paper that is known here"
    text = "\n\n".join(known[key] for key in keys) or none
    terminal().print(text, soft_wrap=True)
