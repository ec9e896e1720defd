"""Bit depth reduction (Image Shortcut Squeezing, Liu et al. 2023): small perturbations fall between the levels left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from puregen_transforms.defenses.training_defense import Hooked
from puregen_transforms.functional.images import normalize, to_uint8
from puregen_transforms.train.hooks import TrainingHooks


@dataclass(frozen=True, kw_only=True)
class BitDepthReduction(Hooked):
    """Keep the highest bits of each color of the training images; test images stay as they are.

    Args:
        bits: number that is kept of 8; 2 as published.
    """

    bits: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"Expected `bits` from 1 to 8, but got {self.bits}.")

    def hooks(self, seed: int) -> FewLevels:
        """Make the hooks of one training; nothing is random in them."""
        return FewLevels(self.bits)


class FewLevels(TrainingHooks):
    """Reduce each batch, as `BitDepthReduction` says."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def change(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Set the lower bits to zero."""
        return normalize(F.posterize(to_uint8(images), self.bits))
