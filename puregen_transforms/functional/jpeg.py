"""JPEG compression of image batches."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Compress images and decompress them again, chroma subsampled 4:2:0.

    Args:
        images: (N, 3, H, W) uint8; not modified.
        quality: 1 to 100.

    Returns:
        (N, 3, H, W) uint8 on the device of the images.
    """
    if not len(images):
        return images
    compressed = [_compress(image, quality) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
    return torch.from_numpy(np.stack(compressed)).permute(0, 3, 1, 2).to(images.device)


def _compress(image: Any, quality: int) -> Any:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(buffer))
