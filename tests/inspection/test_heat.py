"""Heat over images: what is ordinary, and how it is drawn."""

import pytest
import torch

from puregen_transforms.inspection.heat import Scale, glowing


def test_noise_glows_and_what_is_ordinary_stays_gray():
    image = torch.full((3, 32, 35), 90, dtype=torch.uint8)
    heat = torch.full((8, 8), -0.5)
    heat[4:, 4:] = 1.5
    drawn = glowing(image, heat)
    assert drawn.shape == image.shape
    assert drawn[:, 2, 2].tolist() == [90, 90, 90]
    red, green, _ = drawn[:, 30, 34].tolist()
    assert red > green + 100


def test_one_part_of_ten_is_above_the_scale():
    maps = torch.arange(4000.0).view(4, 20, 50)
    scale = Scale.of(maps)
    heat = scale.heat(maps)
    assert (heat > 0).float().mean() == pytest.approx(0.1, abs=1e-3)
    assert (heat > 1).sum() == 4


def test_of_very_many_parts_some_are_looked_at():
    many = torch.arange(2**24 + 5.0)  # more than torch takes quantiles of
    assert Scale.of([many]).cool == pytest.approx(0.9 * 2**24, rel=1e-3)


def test_a_set_of_one_color_does_not_glow():
    scale = Scale.of([torch.zeros(8, 8)])
    assert (scale.heat(torch.zeros(8, 8)) == 0).all()
