"""UEraser (Qin et al. 2023): of several augmented versions of each image, the one read worst is learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from puregen_transforms.defenses.training_defense import Hooked
from puregen_transforms.functional.images import normalize, to_pixels
from puregen_transforms.train.hooks import TrainingHooks

_CHANCE = 0.5
_ROUGHNESS = (0.3, 0.7)
_INTENSITY = (0.5, 1.0)
_STEEPEST = 4.0
"""Probability, and ranges, of the published augmentations."""

_SHEAR = math.degrees(math.atan(0.3))

ONE_OF = v2.RandomChoice(
    [
        v2.RandomAutocontrast(1.0),
        v2.RandomEqualize(1.0),
        v2.RandomRotation(30),
        v2.RandomPosterize(4, p=1.0),
        v2.RandomSolarize(128, p=1.0),
        v2.ColorJitter(contrast=(0.1, 1.9)),
        v2.ColorJitter(brightness=(0.1, 1.9)),
        v2.RandomAdjustSharpness(1.9, p=1.0),
        v2.RandomAffine(0, shear=(-_SHEAR, _SHEAR, 0, 0)),
        v2.RandomAffine(0, shear=(0, 0, -_SHEAR, _SHEAR)),
        v2.RandomAffine(0, translate=(0.5, 0)),
        v2.RandomAffine(0, translate=(0, 0.5)),
    ]
)
"""The operations of TrivialAugment that the published code draws from, with their ranges; thresholds are fixed here."""


@dataclass(frozen=True, kw_only=True)
class UEraser(Hooked):
    """Learn, of several augmented versions of each image, the one that the network reads worst.

    Perturbations that make a set unlearnable are easy to read, but not through every augmentation. Published for 200
    epochs, the first 60 of them with five versions.

    Args:
        versions: number of them. Each costs a pass of the network, forth and back.
        share: part of the epochs, from the first, in which the worst version is chosen; then there is only one. 1 is
            the published UEraser-max.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"smoke": {"versions": 2}, "cpu": {}, "paper": {}}

    versions: int = 5
    share: float = 0.3

    def __post_init__(self) -> None:
        if self.versions < 1:
            raise ValueError(f"Expected `versions` of 1 or more, but got {self.versions}.")
        if not 0 < self.share <= 1:
            raise ValueError(f"Expected `share` above 0 and up to 1, but got {self.share}.")

    def hooks(self, seed: int) -> WorstVersions:
        """Make the hooks of one training; what they draw comes from the training's generator."""
        return WorstVersions(self)


class WorstVersions(TrainingHooks):
    """Augment each batch, as `UEraser` says."""

    def __init__(self, config: UEraser) -> None:
        self.config = config
        self._epoch = self._until = 0

    def begin(self, epochs: int) -> None:
        """Count the epochs in which the worst version is chosen: one at least."""
        self._until = math.ceil(self.config.share * epochs)

    def rows(self, epoch: int, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Take note of the epoch; all rows are learned."""
        self._epoch = epoch
        return super().rows(epoch, model, images, labels)

    def scores(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the scores of the worst version of each image."""
        versions = self.config.versions if self._epoch < self._until else 1
        return worst(torch.stack([model(augmented(images, generator)) for _ in range(versions)]), labels)


def worst(scores: Tensor, labels: Tensor) -> Tensor:
    """Choose of each image the scores with the largest cross-entropy.

    Args:
        scores: (k, n, K), of k versions.
        labels: (n,) int64.

    Returns:
        (n, K).
    """
    versions, count, _ = scores.shape
    losses = F.cross_entropy(scores.detach().float().flatten(0, 1), labels.repeat(versions), reduction="none")
    return scores[losses.view(versions, count).argmax(0), torch.arange(count, device=scores.device)]


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change images as published: brightness and contrast by plasmas, the order of colors, then one operation for all.

    Args:
        images: (n, 3, H, W) in [-1, 1].
        generator: of all that is drawn.

    Returns:
        (n, 3, H, W) in [-1, 1], of 8 bits.
    """

    def drawn(low: float, high: float) -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=generator) * (high - low) + low

    def map_of_each() -> Tensor:
        return plasma(drawn(*_ROUGHNESS), (images.shape[2], images.shape[3]), generator)

    def sometimes(changed: Tensor, pixels: Tensor) -> Tensor:
        return torch.where(drawn(0, 1).to(pixels.device) < _CHANCE, changed, pixels)

    x = (images + 1) / 2
    brightness = (drawn(*_INTENSITY) * (2 * map_of_each() - 1)).to(x.device)
    x = sometimes((x + brightness).clamp(0, 1), x)
    contrast = (_STEEPEST * map_of_each()).to(x.device)
    x = sometimes(((x - 0.5) * contrast + 0.5).clamp(0, 1), x)
    order = torch.rand(len(x), 3, generator=generator).argsort(1).to(x.device)
    x = sometimes(x.gather(1, order.view(-1, 3, 1, 1).expand_as(x)), x)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return normalize(ONE_OF(to_pixels(255 * x)))


def plasma(roughness: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw clouds: random grids, each twice as fine as the one before, enlarged, weighed and summed.

    The published code has the diamond-square algorithm instead.

    Args:
        roughness: (n, 1, 1, 1), the weight of a grid, as a share of the weight of the one before.
        size: height and width.
        generator: of the grids.

    Returns:
        (n, 1, H, W) float32, each from 0 to 1.
    """
    clouds = torch.zeros(len(roughness), 1, *size)
    for level in range(max(size).bit_length()):
        grid = torch.rand(len(roughness), 1, 2**level + 1, 2**level + 1, generator=generator)
        clouds += roughness**level * F.interpolate(grid, size=size, mode="bilinear", align_corners=True)
    low, high = clouds.amin((2, 3), keepdim=True), clouds.amax((2, 3), keepdim=True)
    return (clouds - low) / (high - low).clamp(min=1e-6)
