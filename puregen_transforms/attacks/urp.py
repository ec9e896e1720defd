"""URP, class-wise random noise (Huang et al. 2021, as a baseline): one random pattern on all images of a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AvailabilityConfig
from puregen_transforms.attacks.crafting import Crafted, within
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class URPConfig(AvailabilityConfig):
    """Settings as published.

    Args:
        epsilon: the noise is uniform in -epsilon ... epsilon, in units of 1/255.
    """

    epsilon: float = 8.0

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {}, "cpu": {}, "paper": {}}


def craft(dataset: ImageSet, config: URPConfig, attacker: Attacker) -> Crafted:
    """Draw a pattern for each class, and add it to the class's images."""
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    shape = (len(dataset.class_names), 3, *dataset.size)
    patterns = (torch.rand(shape, generator=generator) * 2 - 1) * config.epsilon
    originals, labels = dataset.images[ids], dataset.labels[ids]
    images = within(originals + patterns[labels], originals, config.epsilon)
    return Crafted(ids=ids, images=images, labels=labels, budget=config.epsilon)


ATTACK = Attack("urp", URPConfig, craft, clean_label=True)
