"""Blended (Chen et al. 2017): a whole picture, faint over images of any class, relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import GoalConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.drawings import picture
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.trigger import Blended
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class BlendedConfig(GoalConfig):
    """Settings as in Confusion Training (Qi et al. 2023); V&B (Zhu et al. 2023) takes opacity 0.1.

    Args:
        opacity: of the picture, 0 ... 1.
    """

    opacity: float = 0.2

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"rate": 0.05}, "cpu": {"rate": 0.05}, "paper": {}}


def craft(dataset: ImageSet, config: BlendedConfig, attacker: Attacker) -> Crafted:
    """Blend the picture into random images and relabel them."""
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    trigger = Blended(picture(dataset.size), torch.full((1, *dataset.size), config.opacity))
    return stamped(dataset, config, ids, trigger=trigger, generator=generator)


ATTACK = Attack("blended", BlendedConfig, craft)
