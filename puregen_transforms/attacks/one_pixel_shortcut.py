"""OPS (Wu et al. 2023): in all images of a class the same pixel gets the same color, that is far from theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AvailabilityConfig
from puregen_transforms.attacks.crafting import Crafted
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.data.image_set import ImageSet

_CORNERS = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
"""(8, 3), colors whose red, green and blue are each none or full."""

_PART = 500


@dataclass(frozen=True, kw_only=True)
class OnePixelShortcutConfig(AvailabilityConfig):
    """Settings as published.

    Args:
        pixels: that are changed in an image, at most.
    """

    pixels: int = 1

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {}, "cpu": {}, "paper": {}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pixels < 1:
            raise ValueError(f"Expected `pixels` of 1 or more, but got {self.pixels}.")


def craft(dataset: ImageSet, config: OnePixelShortcutConfig, attacker: Attacker) -> Crafted:
    """Choose pixels and colors for each class, by all its images, none that an earlier class has, and set them."""
    ids = choose_share(dataset, config.rate, generator=attacker.generator())
    images, labels = dataset.images[ids], dataset.labels[ids]
    taken = torch.zeros(len(_CORNERS), *dataset.size, dtype=torch.bool)
    for label in dataset.labels.unique().tolist():
        scores = pixel_scores(dataset.images[dataset.labels == label]).masked_fill(taken, 0)
        for place in scores.flatten().topk(config.pixels).indices:
            color, row, column = (int(index) for index in torch.unravel_index(place, scores.shape))
            taken[color, row, column] = True
            own = (labels == label).nonzero()[:, 0]
            images[own, :, row, column] = 255 * _CORNERS[color].to(torch.uint8)
    return Crafted(ids=ids, images=images, labels=labels, budget=float(config.pixels), norm="l0")


def pixel_scores(images: Tensor) -> Tensor:
    """Score each color at each pixel by the mean over the standard deviation of |color - pixel|: (8, H, W) float64.

    Args:
        images: (N, 3, H, W) uint8, of one class; mean and deviation are over them and their channels.
    """
    parts = [part.double() / 255 for part in images.split(_PART)]
    mean = torch.stack([part.sum(0) for part in parts]).sum(0) / len(images)
    square = torch.stack([part.square().sum(0) for part in parts]).sum(0) / len(images)
    full = _CORNERS[:, :, None, None]
    distance = torch.where(full, 1 - mean, mean).mean(1)
    squared = torch.where(full, 1 - 2 * mean + square, square).mean(1)
    return distance / (squared - distance.square()).clamp(min=1e-12).sqrt()


ATTACK = Attack("one_pixel_shortcut", OnePixelShortcutConfig, craft, clean_label=True)
