"""Cutting images into tiles."""

import pytest
import torch

from puregen_transforms.functional.tiles import ramps, tiles_of


@pytest.mark.parametrize("size", [(1, 5000), (256, 256), (300, 411), (1023, 77)])
@pytest.mark.parametrize(("margin", "multiple"), [(48, 4), (32, 8), (32, 1)])
def test_tiles_cover_each_pixel_once_and_weights_add_up(size, margin, multiple):
    owned, weight = torch.zeros(size), torch.zeros(size)
    cut = tiles_of(*size, largest=160 * 160, margin=margin, multiple=multiple)
    assert len(cut) > 1 or size[0] * size[1] <= 160 * 160
    for tile in cut:
        owned[tile.rows.of, tile.columns.of] += 1
        weight[tile.seen_rows.of, tile.seen_columns.of] += ramps(tile, *size, margin=margin)
        assert tile.rows.start % multiple == tile.columns.start % multiple == 0
    assert bool((owned == 1).all())
    torch.testing.assert_close(weight, torch.ones(size))
