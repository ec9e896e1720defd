"""Adaptive-Patch (Qi et al. 2023): one of four faint patches in training, several at once at test time; relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, with_covers
from puregen_transforms.attacks.drawings import checker_patch, flame, joined, rings, square
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class AdaptivePatchConfig(AttackConfig):
    """Settings as published, with drawings of our own: flame, rings, four checkers, square.

    Args:
        cover_rate: rows with a patch and their true label, as a share of the training set.
        opacities: of the four patches in the training set, 0 ... 1; all are opaque at test time.
    """

    cover_rate: float = 0.006
    opacities: tuple[float, float, float, float] = (0.5, 0.2, 0.5, 0.3)

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05, "cover_rate": 0.05},
        "cpu": {"rate": 0.2, "cover_rate": 0.02},
        "paper": {},
    }


def craft(dataset: ImageSet, config: AdaptivePatchConfig, attacker: Attacker) -> Crafted:
    """Put one patch each on random images, some for the target class and others as covers."""
    size, generator = dataset.size, attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    cover_ids = choose_share(dataset, config.cover_rate, generator=generator, never=ids)
    first, second, third, fourth = config.opacities
    patches = (
        flame(size, opacity=first),
        rings(size, opacity=second),
        checker_patch(size, corners=True, opacity=third),
        square(size, opacity=fourth),
    )

    def patched(rows: Tensor) -> Tensor:
        turns = torch.randperm(len(rows), generator=generator) % len(patches)
        images = dataset.images[rows]
        for index, patch in enumerate(patches):
            images[turns == index] = patch(images[turns == index])
        return images

    images = torch.cat([patched(ids), patched(cover_ids)])
    trigger = joined(checker_patch(size, corners=True), flame(size), flame(size, left=True))
    return with_covers(dataset, config, ids, cover_ids, images, trigger=trigger)


ATTACK = Attack("adaptive_patch", AdaptivePatchConfig, craft)
