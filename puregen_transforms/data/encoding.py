"""How the images of a set are stored."""

from __future__ import annotations

from collections import Counter
from typing import Any

import PIL.Image

_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
"""The luminance table of the JPEG standard (annex K), which encoders scale by quality."""

_LOOKED_AT = 100


def jpeg_quality(picture: PIL.Image.Image) -> int | None:
    """Estimate the quality, 1 to 100, that a JPEG image was stored with; None for another format.

    Args:
        picture: as opened from its file.

    Returns:
        The quality whose table is nearest: exact for the tables of libjpeg, and so of Pillow.
    """
    tables = getattr(picture, "quantization", None)
    if picture.format != "JPEG" or not tables:
        return None
    found = sorted(tables[min(tables)])

    def distance(quality: int) -> int:
        return sum(abs(a - b) for a, b in zip(found, _table(quality), strict=True))

    return min(range(1, 101), key=distance)


def _table(quality: int) -> list[int]:
    """Scale the standard's table as libjpeg does, sorted."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return sorted(min(255, max(1, (value * scale + 50) // 100)) for value in _LUMINANCE)


def commonest_quality(pictures: Any) -> int | None:
    """Estimate the JPEG quality of most of the first images of a column; None if most are stored another way.

    Args:
        pictures: images as opened from their files, by row.
    """
    looked_at = min(_LOOKED_AT, len(pictures))
    counted = Counter(jpeg_quality(pictures[row]) for row in range(looked_at))
    return counted.most_common(1)[0][0] if counted else None
