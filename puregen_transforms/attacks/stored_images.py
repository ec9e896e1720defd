"""Convert images between the forms in which data sets store them, and know them again."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor


def image_hash(image: Tensor) -> str:
    """Name a (3, H, W) uint8 image by 16 hexadecimal digits of a hash."""
    pixels = image.contiguous().cpu().numpy()
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def to_tensor(image: Any) -> Tensor:
    """Convert a stored image, PIL or (3, H, W) uint8, to a tensor.

    Raises:
        ValueError: something else, such as an image that a transform has changed.
    """
    if is_pil(image):
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return image
    raise ValueError(
        f"Expected stored images, PIL or (3, H, W) uint8, but got {type(image).__name__}. "
        "Apply the poison to the data set without transforms, and the transforms to the result."
    )


def to_pil(image: Tensor) -> PIL.Image.Image:
    """Convert a (3, H, W) uint8 image to PIL."""
    return PIL.Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def is_pil(image: Any) -> bool:
    """Tell whether an image is a PIL image."""
    return isinstance(image, PIL.Image.Image)
