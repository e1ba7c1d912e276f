"""What the outer loop is told: how long, with which optimiser, what to watch and what to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..core.bounds import Bound, Count, Positive, Rate
from ..engine import Engine, Precision


@dataclass(frozen=True)
class Settings:
    """How a run is trained.

    iterations: outer steps (0: the network is evaluated as it was initialised).
    meta_batch: tasks per outer step.
    optimizer, lr: the outer optimiser and its rate; `momentum` counts for "sgd", `eps` for "adam".
    schedule: how the rate goes from `lr` at the first step towards 0 after the last one.
    clip_value, clip_norm: bounds on each entry, and on the norm, of the meta-gradient.
    minutes: stop after this much training time even if iterations are left; a schedule then goes
        by whichever is further along, time or steps, so the run depends on the machine's speed.
    validate_every, validate_tasks, validate_steps: outer steps between validations (0: never), and
        on how many tasks and inner steps (null: as in training); the best weights are kept.
    checkpoint_every, keep_last: outer steps between checkpoints (0: only at the end), and how many
        of them are kept.
    log_every: outer steps averaged into one line of metrics.jsonl.
    threads: CPU threads of a process (0: torch's own choice, and 1 for each of several workers).
    workers: processes of this machine that share each meta-batch (1: this process does it all).
    engine: how meta-gradients are executed: "eager", "traced" (recorded once, then replayed) or
        "compiled" (recorded, then through torch.compile).
    precision: "bfloat16" runs the model in it; the meta-gradient is then no longer exact.
    device: "auto" takes an accelerator if there is one; else "cpu", "cuda", "cuda:1", "mps", ...
    tensorboard: also write TensorBoard files; needs `pip install innerloop[tensorboard]`.
    """

    iterations: Count = 60_000
    meta_batch: Positive = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Rate = 1e-3
    momentum: Annotated[float, Bound(low=0, high=1)] = 0.0
    eps: Rate = 1e-8
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    clip_value: Rate | None = None
    clip_norm: Rate | None = None
    minutes: Rate | None = None
    validate_every: Count = 500
    validate_tasks: Positive = 100
    validate_steps: Count | None = None
    checkpoint_every: Count = 500
    keep_last: Positive = 2
    log_every: Positive = 50
    threads: Count = 0
    workers: Positive = 1
    engine: Engine = "eager"
    precision: Precision = "float32"
    device: str = "auto"
    tensorboard: bool = False
