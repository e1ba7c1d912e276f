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
    schedule: how the rate goes from `lr` at the first step towards `lr_end` after the last one.
    outer_hyper: let the outer rate follow its hypergradient from `lr` on, by steps of this size
        (null: it stays); `normalised_hyper` bounds each change by it, whatever the gradients.
    inner_hyper: update learned inner rates by plain gradient descent with this rate, apart from
        `optimizer` (Alpha MAML; null: as every other parameter). Needs `outer_hyper`.
    robust_lr: weight the groups of tasks by ascent on their losses, by steps of this size (TR-MAML;
        null: all count the same); `robust_update` keeps the weights on the simplex.
    clip_value, clip_norm: bounds on each entry, and on the norm, of the meta-gradient.
    minutes: stop after this much time, steps and validations together, even if iterations are left;
        a schedule then goes by whichever is further along, time or steps, so the run depends on the
        machine's speed. The last validation may overrun it by a tenth, then it is given up.
    validate_every, validate_tasks, validate_steps: outer steps between validations (0: never), and
        on how many tasks and inner steps (null: as in training); the best weights are kept, those
        of the `keep_best` best validations if that is more than one (for an ensemble).
    checkpoint_every, keep_last: outer steps between checkpoints (0: only at the end), and how many
        of them are kept.
    log_every: outer steps averaged into one line of metrics.jsonl.
    threads: CPU threads of a process (0: torch's own choice, and 1 for each of several workers).
    workers: processes of this machine that share each meta-batch (1: this process does it all).
    engine: how meta-gradients are executed: "eager", "traced" (recorded once, then replayed) or
        "compiled" (recorded, then compiled).
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
    lr_end: Annotated[float, Bound(low=0)] = 0.0
    outer_hyper: Rate | None = None
    normalised_hyper: bool = False
    inner_hyper: Rate | None = None
    robust_lr: Rate | None = None
    robust_update: Literal["projected", "exponentiated"] = "projected"
    clip_value: Rate | None = None
    clip_norm: Rate | None = None
    minutes: Rate | None = None
    validate_every: Count = 500
    validate_tasks: Positive = 100
    validate_steps: Count | None = None
    keep_best: Positive = 1
    checkpoint_every: Count = 500
    keep_last: Positive = 2
    log_every: Positive = 50
    threads: Count = 0
    workers: Positive = 1
    engine: Engine = "eager"
    precision: Precision = "float32"
    device: str = "auto"
    tensorboard: bool = False

    def problems(self) -> list[str]:
        """What no single setting can tell."""
        found = []
        if self.lr_end and self.schedule == "constant":
            found.append(
                f"lr_end: {self.lr_end:g} is where a schedule ends, and the rate stays; use "
                "schedule=cosine or linear, or lr_end=0"
            )
        if self.outer_hyper is not None and self.schedule != "constant":
            found.append(
                f"schedule: {self.schedule!r} sets the rate that outer_hyper learns; use "
                "schedule=constant, or outer_hyper=null"
            )
        if self.outer_hyper is None and (self.inner_hyper is not None or self.normalised_hyper):
            found.append(
                "outer_hyper: missing; inner_hyper and normalised_hyper belong to a learned outer "
                "rate, such as outer_hyper=1e-6"
            )
        if self.robust_lr is None and self.robust_update != "projected":
            found.append(
                "robust_lr: missing; robust_update belongs to weighted groups of tasks, such as "
                "robust_lr=1e-3"
            )
        return found
