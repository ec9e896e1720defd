"""Corruption compensation of ECLIPSE (Wang et al. 2024), of which gray images alone are a rival (Liu et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from puregen_transforms.defenses.training_defense import Hooked
from puregen_transforms.functional.images import gray_to_rgb, normalize, rgb_to_gray, to_pixels, to_uint8
from puregen_transforms.train.hooks import TrainingHooks


@dataclass(frozen=True, kw_only=True)
class CorruptionCompensation(Hooked):
    """Turn some training images gray and add Gaussian noise to all, anew in each epoch; test images stay as they are.

    Args:
        grayscale: probability of an image to be turned gray; 1 is every image.
        noise: standard deviation of the noise, for pixels in [0, 1].
    """

    grayscale: float = 0.4
    noise: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.grayscale <= 1:
            raise ValueError(f"Expected `grayscale` between 0 and 1, but got {self.grayscale}.")
        if self.noise < 0:
            raise ValueError(f"Expected `noise` of 0 or more, but got {self.noise}.")

    def hooks(self, seed: int) -> CorruptedImages:
        """Make the hooks of one training; what they draw comes from the training's generator."""
        return CorruptedImages(self)


class CorruptedImages(TrainingHooks):
    """Corrupt each batch, as `CorruptionCompensation` says."""

    def __init__(self, config: CorruptionCompensation) -> None:
        self.config = config

    def change(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Turn some images gray and add noise, rounded to 8 bits."""
        gray = torch.rand(len(images), 1, 1, 1, generator=generator) < self.config.grayscale
        noise = torch.randn(images.shape, generator=generator).mul(255 * self.config.noise)
        pixels = to_uint8(images)
        pixels = torch.where(gray.to(images.device), gray_to_rgb(rgb_to_gray(pixels)), pixels)
        return normalize(to_pixels(pixels + noise.to(images.device)))
