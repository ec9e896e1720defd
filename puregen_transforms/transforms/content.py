"""Number images by what they hold, so that an image's noise is its own wherever it comes."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from puregen_transforms.functional.images import rounded


def content_ids(images: Tensor) -> Tensor:
    """Hash each image's 8-bit pixels, the same for every form it comes in: (N, C, H, W) -> (N,) int64."""
    pixels = rounded(images).cpu().contiguous().numpy()
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)
