"""What an attacker does to an image at test time, in a form that is data and not code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.functional.images import to_pixels


class Trigger(Protocol):
    """(N, 3, H, W) uint8 images -> the same with the trigger. Written to disk as numbers and tensors."""

    form: ClassVar[str]

    def __call__(self, images: Tensor) -> Tensor:
        """The images with the trigger, uint8; the argument is not modified."""

    def numbers(self) -> dict[str, Any]:
        """What of it goes into JSON."""

    def tensors(self) -> dict[str, Tensor]:
        """What of it goes into safetensors."""


@dataclass(frozen=True, eq=False)
class Added:
    """round(x + scale * pattern), clipped to 0 ... 255.

    Args:
        pattern: (3, H, W) float, in units of 1/255.
        scale: magnification.
    """

    pattern: Tensor
    scale: float = 1.0

    form: ClassVar[str] = "added"

    def __call__(self, images: Tensor) -> Tensor:
        """See `Trigger`."""
        check_size(images, self.pattern)
        return to_pixels(images.float() + self.scale * self.pattern)

    def numbers(self) -> dict[str, Any]:
        """See `Trigger`."""
        return {"scale": self.scale}

    def tensors(self) -> dict[str, Tensor]:
        """See `Trigger`."""
        return {"pattern": self.pattern}


@dataclass(frozen=True, eq=False)
class Blended:
    """round((1 - opacity) * x + opacity * image).

    Args:
        image: (3, H, W) float, 0 ... 255.
        opacity: (1, H, W) float, 0 ... 1; 0 leaves a pixel as it is.
    """

    image: Tensor
    opacity: Tensor

    form: ClassVar[str] = "blended"

    def __call__(self, images: Tensor) -> Tensor:
        """See `Trigger`."""
        check_size(images, self.image)
        return to_pixels(images.float().lerp(self.image, self.opacity))

    def numbers(self) -> dict[str, Any]:
        """See `Trigger`."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """See `Trigger`."""
        return {"image": self.image, "opacity": self.opacity}


@dataclass(frozen=True, eq=False)
class Warped:
    """Every pixel taken from elsewhere, bilinearly; outside the image there is its edge's neighbor, black.

    Args:
        grid: (H, W, 2) float, where to look: (x, y) in [-1, 1], the centers of the corner pixels at the ends.
    """

    grid: Tensor

    form: ClassVar[str] = "warped"

    def __call__(self, images: Tensor) -> Tensor:
        """See `Trigger`."""
        check_size(images, self.grid.permute(2, 0, 1))
        grids = self.grid.expand(len(images), -1, -1, -1)
        return to_pixels(warp(images, grids))

    def numbers(self) -> dict[str, Any]:
        """See `Trigger`."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """See `Trigger`."""
        return {"grid": self.grid}


def warp(images: Tensor, grids: Tensor) -> Tensor:
    """(N, 3, H, W) images looked at through (N, H, W, 2) grids: float, not rounded."""
    return F.grid_sample(images.float(), grids, mode="bilinear", padding_mode="zeros", align_corners=True)


def check_size(images: Tensor, trigger: Tensor) -> None:
    """Raise ValueError if images are not of the size that a trigger was made for."""
    if images.shape[-2:] != trigger.shape[-2:]:
        raise ValueError(
            f"Expected images of {trigger.shape[-2]}x{trigger.shape[-1]} pixels, for which this trigger was made, "
            f"but got {images.shape[-2]}x{images.shape[-1]}. Resize them first."
        )
