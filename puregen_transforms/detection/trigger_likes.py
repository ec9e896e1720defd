"""Add to clean images what triggers are like, so that a detector can learn the difference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from puregen_transforms.functional.images import to_pixels


def add_trigger_likes(images: Tensor, others: Tensor, *, generator: torch.Generator) -> Tensor:
    """Change each image in one of five ways, drawn at random.

    They are those of Zeng et al. (2021): a white block in a corner, a block of random colors, Gaussian noise, a
    shadow, and another image blended in.

    Args:
        images: (n, 3, H, W) uint8.
        others: (m, 3, H, W) uint8, images that are blended in.
        generator: of all that is random.

    Returns:
        (n, 3, H, W) uint8.
    """
    kinds = torch.randint(len(_KINDS), (len(images),), generator=generator).tolist()
    return torch.stack(
        [_KINDS[kind](image.float(), others, generator) for kind, image in zip(kinds, images, strict=True)]
    )


def _white_block(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    side = _side(image, generator)
    down, right = (int(torch.randint(2, (), generator=generator)) * (size - side) for size in image.shape[1:])
    changed = image.clone()
    changed[:, down : down + side, right : right + side] = 255
    return to_pixels(changed)


def _colored_block(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    side = _side(image, generator)
    down, right = (int(torch.randint(size - side + 1, (), generator=generator)) for size in image.shape[1:])
    changed = image.clone()
    changed[:, down : down + side, right : right + side] = 255 * torch.rand(3, side, side, generator=generator)
    return to_pixels(changed)


def _noise(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    size = _between(5, 25, generator)
    return to_pixels(image + size * torch.randn(image.shape, generator=generator))


def _shadow(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Darken one side of a line through the image."""
    height, width = image.shape[1:]
    down, right = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    angle = torch.tensor(_between(0, 6.2832, generator))
    side = down * angle.sin() + right * angle.cos() > _between(-0.7, 0.7, generator)
    return to_pixels(image * torch.where(side, _between(0.3, 0.7, generator), 1.0))


def _blend(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    other = others[int(torch.randint(len(others), (), generator=generator))].float()
    weight = _between(0.1, 0.3, generator)
    return to_pixels((1 - weight) * image + weight * other)


_KINDS: tuple[Callable[[Tensor, Tensor, torch.Generator], Tensor], ...] = (
    _white_block,
    _colored_block,
    _noise,
    _shadow,
    _blend,
)


def _side(image: Tensor, generator: torch.Generator) -> int:
    """Draw the side of a block: from a sixteenth to a quarter of the image's, and 2 pixels at least."""
    shorter = min(image.shape[1:])
    low, high = max(2, shorter // 16), max(3, shorter // 4)
    return min(shorter, int(torch.randint(low, high + 1, (), generator=generator)))


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
