"""Batches of rows in random order, and of images drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from puregen_transforms.functional.images import to_signed


def shuffled_batches(rows: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """Part rows into batches in random order: (n,) int64 -> tensors of `size` rows, the last of fewer.

    A last batch of one row joins the one before, as batch norms want more than one image.
    """
    batches = list(rows[torch.randperm(len(rows), generator=generator)].split(size))
    if len(batches) > 1 and len(batches[-1]) == 1 < size:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches if len(rows) else []


def check_squares(images: Tensor, side: int) -> Tensor:
    """Return training images if they are (N, 3, side, side) uint8; anything else is a ValueError."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, side, side):
        raise ValueError(
            f"Expected training images of dtype uint8 and shape (N, 3, {side}, {side}), but got {images.dtype} "
            f"{tuple(images.shape)}."
        )
    return images


def draw_images(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw images with replacement, every second one mirrored: (N, 3, H, W) uint8 -> (count, 3, H, W) in [-1, 1]."""
    index = torch.randint(len(images), (count,), generator=generator)
    drawn = to_signed(images[index])
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, drawn.flip(3), drawn)
