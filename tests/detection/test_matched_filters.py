"""Neighbors, and what tells an overlay from a natural group: carriers far from all other images."""

import pytest
import torch
import torch.nn.functional as F

from puregen_transforms.detection.matched_filters import BUMP, NEIGHBORS, Match, find_neighbors


def match(*scores: torch.Tensor) -> Match:
    return Match(template=torch.ones(1), scores=torch.cat(scores), limit=0.1)


OTHERS = torch.linspace(-0.05, 0.05, 2000)


def test_an_overlay_is_a_bump():
    found = match(OTHERS, torch.linspace(0.15, 0.3, 40), torch.tensor([0.07]))
    assert len(found.carriers) == 40
    assert found.bump > BUMP
    assert not found.is_tail


def test_a_group_that_goes_over_into_the_others_is_a_tail():
    """As many T-shirts photographed on one sheet: their median lies far enough, but some are hardly alike."""
    found = match(OTHERS, torch.linspace(0.068, 0.1, 33), torch.linspace(0.101, 0.21, 44))
    assert found.bump > BUMP
    assert found.is_tail


def test_one_sign_of_a_tail_is_not_enough():
    weak = match(OTHERS, torch.linspace(0.101, 0.3, 44))  # a weak overlay, with nothing below the limit
    many_near = match(OTHERS, torch.linspace(0.068, 0.1, 33), torch.linspace(0.16, 0.3, 44))
    assert not weak.is_tail
    assert not many_near.is_tail


def test_nothing_found_is_no_tail():
    assert not match(OTHERS).is_tail


@pytest.mark.parametrize("count", [5, 256, 257, 600])
def test_neighbors_are_those_of_every_pair(count):
    generator = torch.Generator().manual_seed(count)
    rows = F.normalize(torch.randn(count + 1, 12, generator=generator))
    group = torch.randperm(count + 1, generator=generator)[:count]
    copies = torch.eye(count).bool()
    copies[0, 3] = copies[3, 0] = True
    closeness, nearest = find_neighbors(rows, [(group, copies)])

    cosines = (rows[group].double() @ rows[group].double().T).masked_fill(copies, -1)
    best = cosines.topk(NEIGHBORS, dim=1)
    torch.testing.assert_close(closeness[group], best.values.mean(1).float())
    known = best.values[:, -1] > -1  # where there are as many
    assert torch.equal(nearest[group][known], group[best.indices][known])
    left_out = torch.ones(count + 1, dtype=torch.bool).index_fill(0, group, False)
    assert (closeness[left_out] == -1).all()
