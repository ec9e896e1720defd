"""Blended (Chen et al. 2017): a whole picture, faint over images of any class, relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import stamped
from puregen_transforms.attacks.drawings import picture
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.selection import choose_rows, count_of
from puregen_transforms.attacks.trigger import Blended
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class BlendedConfig(AttackConfig):
    """As in the experiments of Confusion Training (Qi et al. 2023); V&B (Zhu et al. 2023) takes opacity 0.1.

    Args:
        opacity: of the picture.
    """

    opacity: float = 0.2

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"rate": 0.05}, "cpu": {"rate": 0.05}, "paper": {}}


def craft(dataset: ImageSet, config: BlendedConfig, *, seed: int = 0) -> Poison:
    """Blend the picture into random images and relabel them."""
    generator = torch.Generator().manual_seed(seed)
    ids = choose_rows(dataset, count_of(config.rate, dataset), generator=generator)
    trigger = Blended(picture(dataset.size), torch.full((1, *dataset.size), config.opacity))
    return stamped("blended", dataset, config, ids, trigger=trigger, seed=seed)
