"""Turn what a data set holds into pictures for the page."""

from __future__ import annotations

import io
from typing import Any

import PIL.Image

_LARGEST = 1024


def flat(image: Any) -> PIL.Image.Image:
    """Make an opaque color image of one of any kind that can be purified.

    Raises:
        ValueError: no image.
    """
    if not isinstance(image, PIL.Image.Image):
        raise ValueError("Expected an image, but the row has none.")
    return image.convert("RGB")


def png(image: PIL.Image.Image) -> bytes:
    """Write an image as PNG, reduced if it is large."""
    image = image.copy()
    image.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
