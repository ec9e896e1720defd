"""Lengths in triggers, by the size of the images."""

from __future__ import annotations

SMALL, LARGE = 32, 224
"""Shorter sides, in pixels, of the images for which triggers are published."""


def by_size(small: float, large: float, size: tuple[int, int]) -> int:
    """Choose a length in pixels that is published for both sizes: 1 or more.

    Between them it grows evenly; below and above it is in proportion to the shorter side.

    Args:
        small: at 32 pixels.
        large: at 224 pixels.
        size: of the images, height and width.
    """
    side = min(size)
    if side < SMALL:
        length = small * side / SMALL
    elif side > LARGE:
        length = large * side / LARGE
    else:
        length = small + (large - small) * (side - SMALL) / (LARGE - SMALL)
    return max(1, round(length))
