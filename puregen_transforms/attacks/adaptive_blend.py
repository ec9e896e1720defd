"""Adaptive-Blend (Qi et al. 2023): a blended picture with pieces missing, and covers that hide it; relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, with_covers
from puregen_transforms.attacks.drawings import picture
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.trigger import Blended
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.images import to_pixels


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlendConfig(AttackConfig):
    """Settings as published.

    Args:
        cover_rate: rows with the trigger and their true label, as a share of the training set.
        opacity: of the picture in the training set, 0 ... 1.
        test_opacity: of the whole picture at test time.
        pieces: number of pieces along each side into which the picture is cut.
        hidden: share of the pieces that an image does not show, drawn for each image.
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


def craft(dataset: ImageSet, config: AdaptiveBlendConfig, attacker: Attacker) -> Crafted:
    """Blend pieces of the picture into random images, some for the target class and others as covers."""
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    cover_ids = choose_share(dataset, config.cover_rate, generator=generator, never=ids)
    rows, image = torch.cat([ids, cover_ids]), picture(dataset.size)
    shown = shown_pieces(len(rows), dataset.size, pieces=config.pieces, hidden=config.hidden, generator=generator)
    images = to_pixels(dataset.images[rows].float().lerp(image, config.opacity * shown))
    trigger = Blended(image, torch.full((1, *dataset.size), config.test_opacity))
    return with_covers(dataset, config, ids, cover_ids, images, trigger=trigger)


def shown_pieces(
    count: int, size: tuple[int, int], *, pieces: int, hidden: float, generator: torch.Generator
) -> Tensor:
    """Draw for every image which of pieces x pieces tiles are shown: (N, 1, H, W) of 0 and 1."""
    ranks = torch.rand(count, pieces**2, generator=generator).argsort(1).argsort(1)
    tiles = (ranks >= round(hidden * pieces**2)).float().view(count, 1, pieces, pieces)
    return F.interpolate(tiles, size=size)


ATTACK = Attack("adaptive_blend", AdaptiveBlendConfig, craft)
