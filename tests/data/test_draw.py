import pytest
import torch

from innerloop.data.draw import distinct


def test_every_ordered_pair_is_equally_likely(rng):
    drawn = distinct(torch.full((60000,), 4), 2, rng)
    counts = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16).view(4, 4)
    assert (counts.diagonal() == 0).all()
    off = counts[~torch.eye(4, dtype=torch.bool)].double()
    chi2 = ((off - 5000) ** 2 / 5000).sum()
    assert chi2 < 31.3  # 0.999 quantile at 11 degrees of freedom


def test_sizes_may_differ_and_all_can_be_taken(rng):
    size = torch.tensor([[3, 10], [1000, 4]])
    drawn = distinct(size, 3, rng)
    assert drawn.shape == (2, 2, 3)
    assert (drawn >= 0).all() and (drawn < size.unsqueeze(-1)).all()
    assert (drawn.sort(-1).values.diff(dim=-1) > 0).all()
    assert drawn[0, 0].sort().values.tolist() == [0, 1, 2]


def test_more_than_there_are_is_refused(rng):
    with pytest.raises(ValueError, match="4 different items from 3"):
        distinct(torch.tensor([9, 3]), 4, rng)
