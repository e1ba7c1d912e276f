"""What the last point of adaptation leaves behind for the next tasks."""

from __future__ import annotations

from ..core.contract import Learner, Memory, Point
from ..core.types import Params


def remembered(learner: Learner, end: Point) -> Params:
    """What outlives the tasks, summed over them, where the learner keeps something."""
    keeper = learner.offer(Memory)  # type: ignore[type-abstract]
    return {k: v.sum(0) for k, v in keeper.of(end).items()} if isinstance(keeper, Memory) else {}
