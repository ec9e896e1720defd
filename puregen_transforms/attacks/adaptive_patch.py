"""Adaptive-Patch (Qi et al. 2023): one of four faint patches in training, several at once at test time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import to_poison
from puregen_transforms.attacks.drawings import checker_patch, flame, joined, rings, square
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.selection import choose_rows, count_of
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class AdaptivePatchConfig(AttackConfig):
    """As published, with drawings of our own: flame, rings, four checkers, square.

    Args:
        cover_rate: rows with a patch and their true label, as a share of the training set.
        opacities: of the four patches in the training set; all are opaque at test time.
    """

    cover_rate: float = 0.006
    opacities: tuple[float, float, float, float] = (0.5, 0.2, 0.5, 0.3)

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05, "cover_rate": 0.05},
        "cpu": {"rate": 0.2, "cover_rate": 0.02},
        "paper": {},
    }


def craft(dataset: ImageSet, config: AdaptivePatchConfig, *, seed: int = 0) -> Poison:
    """Put one patch each on random images, some for the target class and others as covers."""
    generator = torch.Generator().manual_seed(seed)
    size, target = dataset.size, dataset.class_number(config.target_class)
    ids = choose_rows(dataset, count_of(config.rate, dataset), generator=generator)
    cover_ids = choose_rows(dataset, count_of(config.cover_rate, dataset), generator=generator, never=ids)
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

    return to_poison(
        "adaptive_patch",
        dataset,
        config,
        ids=torch.cat([ids, cover_ids]),
        images=torch.cat([patched(ids), patched(cover_ids)]),
        labels=torch.cat([torch.full_like(ids, target), dataset.labels[cover_ids]]),
        covers=torch.cat([torch.zeros(len(ids)), torch.ones(len(cover_ids))]).bool(),
        trigger=joined(checker_patch(size, corners=True), flame(size), flame(size, left=True)),
        seed=seed,
    )
