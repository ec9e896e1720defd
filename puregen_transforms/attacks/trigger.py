"""Triggers: what an attacker does to images at test time, in a form that is data and not code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.functional.images import to_pixels


class Trigger(ABC):
    """Put a trigger on (N, 3, H, W) uint8 images. On disk it is numbers and tensors."""

    form: ClassVar[str]

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Put the trigger on images: uint8, of the same shape; the argument is not modified."""

    def numbers(self) -> dict[str, Any]:
        """List the parts that go into JSON."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Tensor)}

    def tensors(self) -> dict[str, Tensor]:
        """List the parts that go into safetensors."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


@dataclass(frozen=True, eq=False)
class Added(Trigger):
    """Add a pattern: round(x + scale * pattern), clipped to 0 ... 255.

    Args:
        pattern: (3, H, W) float, in units of 1/255.
        scale: magnification.
    """

    pattern: Tensor
    scale: float = 1.0

    form: ClassVar[str] = "added"

    def __call__(self, images: Tensor) -> Tensor:
        """Add the pattern."""
        check_size(images, self.pattern)
        return to_pixels(images.float() + self.scale * self.pattern)


@dataclass(frozen=True, eq=False)
class Blended(Trigger):
    """Blend an image in: round((1 - opacity) * x + opacity * image).

    Args:
        image: (3, H, W) float, 0 ... 255.
        opacity: (1, H, W) float, 0 ... 1; 0 leaves a pixel as it is.
    """

    image: Tensor
    opacity: Tensor

    form: ClassVar[str] = "blended"

    def __call__(self, images: Tensor) -> Tensor:
        """Blend the image in."""
        check_size(images, self.image)
        return to_pixels(images.float().lerp(self.image, self.opacity))


@dataclass(frozen=True, eq=False)
class Warped(Trigger):
    """Take every pixel from elsewhere, bilinearly; outside of the image all is black.

    Args:
        grid: (H, W, 2) float, where to look: (x, y) in [-1, 1], the centers of the corner pixels at the ends.
    """

    grid: Tensor

    form: ClassVar[str] = "warped"

    def __call__(self, images: Tensor) -> Tensor:
        """Warp the images."""
        check_size(images, self.grid.permute(2, 0, 1))
        grids = self.grid.expand(len(images), -1, -1, -1)
        return to_pixels(warp(images, grids))


def warp(images: Tensor, grids: Tensor) -> Tensor:
    """Look at (N, 3, H, W) images through (N, H, W, 2) grids: float, not rounded."""
    return F.grid_sample(images.float(), grids, mode="bilinear", padding_mode="zeros", align_corners=True)


def check_size(images: Tensor, trigger: Tensor) -> None:
    """Refuse images that are not of the size that a trigger was made for, with a ValueError."""
    if images.shape[-2:] != trigger.shape[-2:]:
        raise ValueError(
            f"Expected images of {trigger.shape[-2]}x{trigger.shape[-1]} pixels, for which this trigger was made, "
            f"but got {images.shape[-2]}x{images.shape[-1]}. Resize them first."
        )
