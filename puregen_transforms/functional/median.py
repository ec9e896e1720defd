"""Medians of 3x3 pixels, in all images or only where a pixel stands out."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor


def median_3x3(images: Tensor) -> Tensor:
    """Replace pixels by the median of their 3x3 neighborhood: (n, C, H, W) of any type that can be padded -> the same.

    At the edges, pixels count again as their own neighbors outside.
    """
    return _median_inside(F.pad(images, (1, 1, 1, 1), mode="replicate"))


def _median_inside(padded: Tensor) -> Tensor:
    """Take the median of all 3x3 pixels: (n, C, H + 2, W + 2) -> (n, C, H, W).

    That of nine is the median of the largest of the columns' smallest values, the middle one of the middle ones, and
    the smallest of the largest ones.
    """
    height, width = padded.shape[-2] - 2, padded.shape[-1] - 2
    low, middle, high = _sorted(*(padded[..., row : row + height, :] for row in range(3)))
    lows, middles, highs = (
        _sorted(*(one[..., column : column + width] for column in range(3))) for one in (low, middle, high)
    )
    return _sorted(lows[2], middles[1], highs[0])[1]


def _sorted(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)


def despeckle(images: Tensor, threshold: float) -> Tensor:
    """Replace pixels that differ from all but at most one of their neighbors by the median of the 3x3 around them.

    A median filter for impulse noise, which leaves all other pixels as they are: those of edges and lines have at least
    two neighbors of their color, except where a line ends.

    Args:
        images: (n, C, H, W) float, of two rows and columns or more.
        threshold: two pixels differ if they do so by more than this in any channel.

    Returns:
        (n, C, H, W) float.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), value=torch.inf)  # nothing is like what lies outside
    least = second = images.new_full((len(images), 1, height, width), torch.inf)
    for down, right in product(range(3), repeat=2):
        if (down, right) == (1, 1):
            continue
        neighbors = padded[..., down : down + height, right : right + width]
        difference = (neighbors - images).abs().amax(1, keepdim=True)
        second = torch.minimum(second, torch.maximum(least, difference))
        least = torch.minimum(least, difference)
    medians = _median_inside(F.pad(images, (1, 1, 1, 1), mode="reflect"))
    return torch.where(second > threshold, medians, images)
