"""LSP (Yu et al. 2022): blocks of color that are separated by class linearly, and learned in place of the images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AvailabilityConfig
from puregen_transforms.attacks.crafting import Crafted, within_length
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.sizes import by_size
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class LSPConfig(AvailabilityConfig):
    """Settings as published for images of 32 pixels, and blocks as they are in use for those of 224.

    The points are drawn as scikit-learn's `make_classification` draws them, from which the authors have theirs.

    Args:
        strength: root mean square of an image's change, in units of 1/255; 6 is a Euclidean length of 1.3 at 32 pixels.
        block: side of a block of one color, in pixels; None is 8 at 32 pixels, 32 at 224, and by the size elsewhere.
        separation: a class's points lie around a corner of a cube of twice this side.
    """

    strength: float = 6.0
    block: int | None = None
    separation: float = 10.0

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {}, "cpu": {}, "paper": {}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block is not None and self.block < 1:
            raise ValueError(f"Expected `block` of 1 pixel or more, but got {self.block}.")


def craft(dataset: ImageSet, config: LSPConfig, attacker: Attacker) -> Crafted:
    """Draw a point for each image around its class's corner, and add it as blocks of color.

    Raises:
        ValueError: more classes than a cube of so many dimensions has corners.
    """
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    originals, labels = dataset.images[ids], dataset.labels[ids]
    block = config.block or by_size(8, 32, dataset.size)
    height, width = (-(-side // block) for side in dataset.size)
    points = separable_points(
        labels, len(dataset.class_names), 3 * height * width, separation=config.separation, generator=generator
    )
    changes = in_blocks(points.view(-1, 3, height, width), dataset.size, block)
    radius = config.strength / 255 * math.sqrt(changes[0].numel())
    changes = changes * (255 * radius / changes.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    return Crafted(ids=ids, images=within_length(changes, originals, radius), labels=labels, budget=radius, norm="l2")


def separable_points(
    labels: Tensor, classes: int, dimensions: int, *, separation: float, generator: torch.Generator
) -> Tensor:
    """Draw a point for each label (N,): (N, dimensions), each class a stretched cloud around a corner of its own."""
    corners = distinct_corners(classes, dimensions, generator)
    spread = torch.rand(classes, dimensions, dimensions, generator=generator) * 2 - 1
    points = torch.randn(len(labels), dimensions, generator=generator)
    for label in labels.unique().tolist():
        own = labels == label
        points[own] = points[own] @ spread[label] + separation * corners[label]
    return points


def distinct_corners(count: int, dimensions: int, generator: torch.Generator) -> Tensor:
    """Draw different corners of the cube from -1 to 1: (count, dimensions).

    Raises:
        ValueError: the cube has fewer.
    """
    if count > 2**dimensions:
        raise ValueError(
            f"Expected at most {2**dimensions} classes for {dimensions} colors an image, but got {count}. "
            "Lower `block`, which makes more."
        )
    corners: dict[tuple[int, ...], None] = {}
    while len(corners) < count:
        corners[tuple(torch.randint(2, (dimensions,), generator=generator).tolist())] = None
    return 2 * torch.tensor(list(corners), dtype=torch.float32) - 1


def in_blocks(colors: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Draw each color as a square of so many pixels: (N, 3, h, w) -> (N, 3, H, W), cut off at the size."""
    return colors.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., : size[0], : size[1]]


ATTACK = Attack("lsp", LSPConfig, craft, clean_label=True)
