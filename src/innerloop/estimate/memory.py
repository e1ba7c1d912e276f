"""What a solver's state leaves behind for the next tasks."""

from __future__ import annotations

from ..core.contract import Learner, Memory, Point
from ..core.types import Params


def remembered(learner: Learner, end: Point) -> Params:
    """The final state summed over the tasks, where the learner keeps one; else nothing."""
    kept = isinstance(learner.offer(Memory), Memory)
    return {k: v.sum(0) for k, v in end.state.items()} if kept else {}
