"""Trees are joined entry by entry, or not at all."""

from __future__ import annotations

import pytest
import torch

from innerloop.core.types import concat, stack


@pytest.mark.parametrize("join", [stack, concat])
def test_entries_in_another_order_are_refused_rather_than_mixed(join):
    """Joined by place, ids would have landed in the mask."""
    ids, mask = torch.arange(6).view(2, 3), torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"same entries, got \{ids: \(2, 3\), mask: \(2, 3\)\}"):
        join([{"ids": ids, "mask": mask}, {"mask": mask, "ids": ids}])


def test_the_same_entries_are_joined_each_with_its_own():
    a, b = torch.zeros(2, 3), torch.ones(2, 3)
    found = concat([{"x": a, "y": (b, None)}, {"x": b, "y": (a, None)}])
    assert torch.equal(found["x"], torch.cat([a, b]))
    assert torch.equal(found["y"][0], torch.cat([b, a])) and found["y"][1] is None
