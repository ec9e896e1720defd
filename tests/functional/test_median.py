import pytest
import torch
import torch.nn.functional as F

from puregen_transforms.functional.median import despeckle, median_3x3


@pytest.fixture
def noise():
    return torch.randint(0, 256, (2, 3, 7, 9), generator=torch.Generator().manual_seed(0)).float()


def medians(images, mode="replicate"):
    windows = F.pad(images, (1, 1, 1, 1), mode=mode).unfold(2, 3, 1).unfold(3, 3, 1)
    return windows.flatten(-2).median(-1).values


def test_median_of_nine(noise):
    assert torch.equal(median_3x3(noise), medians(noise))


def test_a_pixel_that_at_most_one_neighbor_is_like_is_replaced(noise):
    expected, instead = noise.clone(), medians(noise, "reflect")
    for index in range(2):
        for row in range(7):
            for column in range(9):
                around = noise[index, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                differences = (around - noise[index, :, row, column][:, None, None]).abs().amax(0)
                like = int((differences <= 100).sum()) - 1  # it is like itself
                if like <= 1:
                    expected[index, :, row, column] = instead[index, :, row, column]
    assert 10 < (expected != noise).any(1).sum() < 116
    assert torch.equal(despeckle(noise, 100), expected)


def test_edges_lines_and_slopes_stay():
    images = torch.zeros(3, 3, 8, 8)
    images[0, :, :, 4:] = 200  # an edge
    images[1, :, 3] = 200  # a line
    images[2] = torch.arange(8) * 30.0  # a slope
    expected = images.clone()
    expected[1, :, 3, [0, 7]] = 0  # but for the ends of lines
    assert torch.equal(despeckle(images, 40), expected)


@pytest.mark.parametrize("place", [(0, 0), (0, 5), (7, 7), (3, 4)])
@pytest.mark.parametrize("color", [(255, 255, 255), (0, 90, 90), (90, 90, 150)])
def test_single_pixels_and_pairs_vanish_wherever_they_are(place, color):
    images = torch.full((1, 3, 8, 8), 90.0)
    row, column = place
    single, pair = images.clone(), images.clone()
    single[0, :, row, column] = torch.tensor(color)
    pair[0, :, row, [column, column - 1 if column else 1]] = torch.tensor(color)[:, None].float()
    assert torch.equal(despeckle(single, 40), images)
    assert torch.equal(despeckle(pair, 40), images)
    assert torch.equal(despeckle(single, 166), single)
