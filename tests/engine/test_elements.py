"""Rankings of elements, on a processor and elsewhere."""

from __future__ import annotations

import pytest
import torch

from quantus_ext.engine import elements, sampling


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_the_fast_ranking_is_the_random_one_where_scores_tie_and_where_not(count):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (40, count), generator=generator).double()
    scores[::3] = torch.rand(scores[::3].shape, generator=generator).double()
    keys = sampling.sample_keys(0, torch.arange(40))
    ranks = elements.elements_of(scores).ranks(scores, keys)
    slow = elements._order(scores, keys)
    assert torch.equal(ranks, slow.argsort(1))
    in_order = scores.gather(1, slow)
    assert (in_order[:, 1:] <= in_order[:, :-1]).all()
