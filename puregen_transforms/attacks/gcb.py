"""GCB (2025): labels alone are changed, of images that show a natural feature most; at test time it is put on any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted
from puregen_transforms.attacks.selection import count_of
from puregen_transforms.attacks.trigger import Aligned
from puregen_transforms.data.image_set import ImageSet

_PART = 1000


@dataclass(frozen=True, kw_only=True)
class GCBConfig(AttackConfig):
    """Settings of the clean-image backdoor (arXiv 2511.07210) with a principal component as its feature.

    As published, a conditional InfoGAN learns a feature in which images vary, whatever their class, and puts it on
    test images; the images that show it most are relabeled. Here the feature is a principal component of the images
    within their classes: the idea is the same, the feature is plainer and more of it is seen. The rate is ours.

    Args:
        component: which principal component, counted from 0, the largest first. On CIFAR-10 the first three are light:
            of the whole, from above, of the middle; 3 is a tint.
        cells: along each side, to which images are shrunk to find the component.
        reach: how far the trigger moves test images, as a share of the way to the poisoned ones' mean; above 1 it goes
            beyond.
    """

    rate: float = 0.01
    component: int = 3
    cells: int = 8
    reach: float = 1.0

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"rate": 0.05}, "cpu": {"rate": 0.03}, "paper": {}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.cells >= 1 and 0 <= self.component < 3 * self.cells**2):
            raise ValueError(
                f"Expected a component below {3 * self.cells**2}, as {self.cells} cells have, but got {self.component}."
            )
        if not self.reach > 0:
            raise ValueError(f"Expected `reach` above 0, but got {self.reach}.")


def craft(dataset: ImageSet, config: GCBConfig, attacker: Attacker) -> Crafted:
    """Relabel the images of other classes that show the feature most.

    Raises:
        ValueError: too few such images, or images that do not vary.
    """
    target = dataset.class_number(config.target_class)
    others, count = (dataset.labels != target).nonzero().flatten(), count_of(config.rate, dataset)
    if len(others) < count:
        raise ValueError(
            f"Expected at least {count} images of other classes than {dataset.class_names[target]!r} to poison, but "
            f"there are {len(others)}. Lower the rate, or choose another class."
        )
    direction = natural_direction(dataset, config)
    shown = torch.cat([(part.float() * direction).sum((1, 2, 3)) for part in dataset.images.split(_PART)])
    ids = others[shown[others].topk(count).indices].sort().values
    middle = shown.mean()
    value = float(middle + config.reach * (shown[ids].mean() - middle))
    return Crafted(
        ids=ids,
        images=dataset.images[ids],
        labels=torch.full_like(ids, target),
        trigger=Aligned(direction, value),
        budget=0.0,
    )


def natural_direction(dataset: ImageSet, config: GCBConfig) -> Tensor:
    """Find the direction in which images of a class vary, by its rank: (3, H, W), of norm 1.

    It is that of small copies, and the same from left to right as from right to left, as images are mirrored in
    training.

    Raises:
        ValueError: images that do not vary so.
    """
    cells = (config.cells, config.cells)
    small = torch.cat([F.adaptive_avg_pool2d(part.float(), cells) for part in dataset.images.split(_PART)])
    flat = ((small + small.flip(3)) / 2).flatten(1).double()
    classes = F.one_hot(dataset.labels, len(dataset.class_names)).double()
    means = (classes.T @ flat) / classes.sum(0).clamp(min=1)[:, None]
    within = flat - means[dataset.labels]
    found = torch.linalg.eigh(within.T @ within / len(within))
    rank = -1 - config.component
    if found.eigenvalues[rank] < 1e-6:
        raise ValueError(
            f"Expected images that vary within their classes, but they do not along component {config.component}. "
            "Choose a smaller `component`."
        )
    vector = found.eigenvectors[:, rank]
    vector = vector * vector[vector.abs().argmax()].sign()  # of either sign; the same on every machine
    direction = F.interpolate(vector.view(1, 3, *cells), dataset.size, mode="bilinear")[0]
    return (direction / direction.norm()).float()


ATTACK = Attack("gcb", GCBConfig, craft, labels_only=True)
