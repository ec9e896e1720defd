"""Adaptive-Blend (Qi et al. 2023): a blended picture with pieces missing, covers keep it from standing out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import to_poison
from puregen_transforms.attacks.drawings import picture
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.selection import choose_rows, count_of
from puregen_transforms.attacks.trigger import Blended
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.images import to_pixels


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlendConfig(AttackConfig):
    """As published.

    Args:
        cover_rate: rows with the trigger and their true label, as a share of the training set.
        opacity: in the training set.
        test_opacity: at test time, of the whole picture.
        pieces: a side, into which the picture is cut.
        hidden: share of the pieces that an image does not show, drawn for each.
    """

    cover_rate: float = 0.003
    opacity: float = 0.15
    test_opacity: float = 0.2
    pieces: int = 4
    hidden: float = 0.5

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05, "cover_rate": 0.05},
        "cpu": {"rate": 0.15, "cover_rate": 0.02},
        "paper": {},
    }


def craft(dataset: ImageSet, config: AdaptiveBlendConfig, *, seed: int = 0) -> Poison:
    """Blend pieces of the picture into random images, some for the target class and others as covers."""
    generator = torch.Generator().manual_seed(seed)
    target = dataset.class_number(config.target_class)
    ids = choose_rows(dataset, count_of(config.rate, dataset), generator=generator)
    cover_ids = choose_rows(dataset, count_of(config.cover_rate, dataset), generator=generator, never=ids)
    rows, image = torch.cat([ids, cover_ids]), picture(dataset.size)
    shown = shown_pieces(len(rows), dataset.size, pieces=config.pieces, hidden=config.hidden, generator=generator)
    return to_poison(
        "adaptive_blend",
        dataset,
        config,
        ids=rows,
        images=to_pixels(dataset.images[rows].float().lerp(image, config.opacity * shown)),
        labels=torch.cat([torch.full_like(ids, target), dataset.labels[cover_ids]]),
        covers=torch.cat([torch.zeros(len(ids)), torch.ones(len(cover_ids))]).bool(),
        trigger=Blended(image, torch.full((1, *dataset.size), config.test_opacity)),
        seed=seed,
    )


def shown_pieces(
    count: int, size: tuple[int, int], *, pieces: int, hidden: float, generator: torch.Generator
) -> Tensor:
    """(N, 1, H, W) of 0 and 1: for every image, which of pieces x pieces tiles are shown."""
    ranks = torch.rand(count, pieces**2, generator=generator).argsort(1).argsort(1)
    tiles = (ranks >= round(hidden * pieces**2)).float().view(count, 1, pieces, pieces)
    return F.interpolate(tiles, size=size)
