"""Pictures inside a page, and its style."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")

_LARGEST_PICTURE = 256


def around_gray(change: Tensor) -> Tensor:
    """Bring signed values, in units of 1/255, around mid-gray: (3, H, W) uint8."""
    return (change + 128).round().clamp(0, 255).to(torch.uint8)


def as_image(pixels: Tensor) -> PIL.Image.Image:
    """Make an image of (3 or 4, H, W) uint8."""
    return PIL.Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def picture(image: Tensor) -> str:
    """Encode a (3 or 4, H, W) uint8 image as PNG in a data URI."""
    made = as_image(image)
    made.thumbnail((_LARGEST_PICTURE, _LARGEST_PICTURE))
    buffer = io.BytesIO()
    made.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
