"""Several trained methods that answer together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..core.contract import Objective
from ..core.types import Task
from .run import Evaluable


class Ensemble(nn.Module):
    """The mean of its members' outputs, each adapted by itself, at every inner step.

    Logits are averaged, not probabilities. MAML++ tests with the checkpoints of the five best
    validations of a run.

    Source: code of Antoniou et al. 2019 (MAML++).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one method, got none")
        self.members = nn.ModuleList(members)

    @property
    def objective(self) -> Objective:
        """What the first member is scored by."""
        return cast(Evaluable, self.members[0]).objective

    def query_outputs(self, tasks: Task, steps: int | None = None) -> Tensor:
        """Query outputs (S+1, T, n, ...) before adaptation and after each of S inner steps."""
        outputs = [cast(Evaluable, m).query_outputs(tasks, steps) for m in self.members]
        return torch.stack(outputs).mean(0)

    def describe(self) -> dict[str, str]:
        """As the first member, and how many there are."""
        told = cast(Evaluable, self.members[0]).describe()
        return {**told, "ensemble": f"mean outputs of {len(self.members)} checkpoints"}
