"""Triggers: what an attacker does to images at test time, in a form that is data and not code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.functional.images import to_pixels

_PIXELS_AT_ONCE = 2**20
"""Of images that are changed at once: a thousand of 32 pixels, twenty of 224."""


class Trigger(ABC):
    """Put a trigger on (N, 3, H, W) uint8 images. On disk it is numbers and tensors."""

    form: ClassVar[str]

    def __call__(self, images: Tensor) -> Tensor:
        """Put the trigger on images, in parts: uint8, of the same shape; the argument is not modified."""
        at_once = max(1, _PIXELS_AT_ONCE // max(1, images.shape[-2:].numel()))
        result = torch.empty_like(images, dtype=torch.uint8)
        for start in range(0, len(images), at_once):
            result[start : start + at_once] = self.put_on(images[start : start + at_once])
        return result

    @abstractmethod
    def put_on(self, images: Tensor) -> Tensor:
        """Put the trigger on images that fit the memory as floats; see `__call__`."""

    def room(self, pixels: int) -> tuple[range, range]:
        """List by how many pixels the trigger can be moved down and right without leaving the image.

        Args:
            pixels: at most so far, either way.

        Raises:
            ValueError: a trigger that has no place.
        """
        raise self._fixed()

    def moved(self, down: int, right: int) -> Trigger:
        """Move the trigger by pixels; what leaves the image comes in at the other side.

        Raises:
            ValueError: a trigger that has no place.
        """
        raise self._fixed()

    def _fixed(self) -> ValueError:
        return ValueError(f"Expected a trigger that can be moved, but one that is {self.form} has no place of its own.")

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

    def put_on(self, images: Tensor) -> Tensor:
        """Add the pattern."""
        check_size(images, self.pattern)
        return to_pixels(images.float() + self.scale * self.pattern)

    def room(self, pixels: int) -> tuple[range, range]:
        """List how far the pattern can be moved, see `Trigger.room`."""
        return _room(self.pattern.abs().amax(0), pixels)

    def moved(self, down: int, right: int) -> Added:
        """Move the pattern."""
        return Added(self.pattern.roll((down, right), (1, 2)), self.scale)


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

    def put_on(self, images: Tensor) -> Tensor:
        """Blend the image in."""
        check_size(images, self.image)
        return to_pixels(images.float().lerp(self.image, self.opacity))

    def room(self, pixels: int) -> tuple[range, range]:
        """List how far the picture can be moved, see `Trigger.room`."""
        return _room(self.opacity.amax(0), pixels)

    def moved(self, down: int, right: int) -> Blended:
        """Move the picture."""
        return Blended(self.image.roll((down, right), (1, 2)), self.opacity.roll((down, right), (1, 2)))


@dataclass(frozen=True, eq=False)
class Aligned(Trigger):
    """Move images along a direction until they all lie as far along it: round(x + (value - <x, d>) d), clipped.

    Args:
        direction: (3, H, W) float d, of norm 1.
        value: how far, in units of 1/255.
    """

    direction: Tensor
    value: float

    form: ClassVar[str] = "aligned"

    def put_on(self, images: Tensor) -> Tensor:
        """Move the images."""
        check_size(images, self.direction)
        pixels = images.float()
        along = (pixels * self.direction).sum((1, 2, 3), keepdim=True)
        return to_pixels(pixels + (self.value - along) * self.direction)


@dataclass(frozen=True, eq=False)
class Warped(Trigger):
    """Take every pixel from elsewhere, bilinearly; outside of the image all is black.

    Args:
        grid: (H, W, 2) float, where to look: (x, y) in [-1, 1], the centers of the corner pixels at the ends.
    """

    grid: Tensor

    form: ClassVar[str] = "warped"

    def put_on(self, images: Tensor) -> Tensor:
        """Warp the images."""
        check_size(images, self.grid.permute(2, 0, 1))
        grids = self.grid.expand(len(images), -1, -1, -1)
        return to_pixels(warp(images, grids))


def warp(images: Tensor, grids: Tensor) -> Tensor:
    """Look at (N, 3, H, W) images through (N, H, W, 2) grids: float, not rounded."""
    return F.grid_sample(images.float(), grids, mode="bilinear", padding_mode="zeros", align_corners=True)


def _room(shown: Tensor, pixels: int) -> tuple[range, range]:
    """List how far what is shown, where (H, W) is above 0, can be moved; over half a side long, it wraps."""
    return _room_along((shown > 0).any(1), pixels), _room_along((shown > 0).any(0), pixels)


def _room_along(shown: Tensor, pixels: int) -> range:
    places = shown.nonzero().flatten().tolist()
    before, after = places[0], len(shown) - 1 - places[-1]
    if before + after < len(shown) / 2:
        return range(-pixels, pixels + 1)
    return range(-min(pixels, before), min(pixels, after) + 1)


def check_size(images: Tensor, trigger: Tensor) -> None:
    """Refuse images that are not of the size that a trigger was made for, with a ValueError."""
    if images.shape[-2:] != trigger.shape[-2:]:
        raise ValueError(
            f"Expected images of {trigger.shape[-2]}x{trigger.shape[-1]} pixels, for which this trigger was made, "
            f"but got {images.shape[-2]}x{images.shape[-1]}. Resize them first."
        )
