"""WaNet (Nguyen and Tran 2021): a smooth warp, on images of any class, relabeled; noisy warps cover it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, with_covers
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.sizes import SMALL
from puregen_transforms.attacks.trigger import Warped, warp
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.mapped import parts_of
from puregen_transforms.functional.images import to_pixels


@dataclass(frozen=True, kw_only=True)
class WaNetConfig(AttackConfig):
    """Settings as in the experiments of Confusion Training (Qi et al. 2023), each cover with a noise of its own.

    Args:
        cover_rate: rows with a noisy warp and their true label, as a share of the training set.
        cells: number of cells along each side of the coarse grid.
        strength: of the warp, in half pixels of an image of 32 pixels; it grows with the shorter side.
    """

    rate: float = 0.05
    cover_rate: float = 0.1
    cells: int = 4
    strength: float = 0.5

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"rate": 0.1}, "cpu": {"rate": 0.2}, "paper": {}}


def craft(dataset: ImageSet, config: WaNetConfig, attacker: Attacker) -> Crafted:
    """Warp random images, some for the target class and others as covers."""
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    cover_ids = choose_share(dataset, config.cover_rate, generator=generator, never=ids)
    grid = warping_grid(dataset.size, cells=config.cells, strength=config.strength, generator=generator)
    trigger = Warped(grid)
    images = torch.cat([trigger(dataset.images[ids]), _covers(dataset.images[cover_ids], grid, generator)])
    return with_covers(dataset, config, ids, cover_ids, images, trigger=trigger)


def _covers(images: Tensor, grid: Tensor, generator: torch.Generator) -> Tensor:
    """Warp images by the grid, each with a noise of half a pixel of its own: (N, 3, H, W) uint8."""
    height, width = images.shape[-2:]
    result, per_pixel = torch.empty_like(images), torch.tensor([1 / width, 1 / height])
    for part in parts_of(images):
        noise = torch.rand(len(images[part]), height, width, 2, generator=generator) * 2 - 1
        result[part] = to_pixels(warp(images[part], (grid + noise * per_pixel).clamp(-1, 1)))
    return result


def warping_grid(size: tuple[int, int], *, cells: int, strength: float, generator: torch.Generator) -> Tensor:
    """Bend the identity by smoothed noise (section 3.2 of the paper; its `s` is `strength` at 32 pixels): (H, W, 2)."""
    height, width = size
    strength = strength * min(size) / SMALL
    coarse = torch.rand(1, 2, cells, cells, generator=generator) * 2 - 1
    coarse = coarse / coarse.abs().mean()
    field = F.interpolate(coarse, size=size, mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
    down, across = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    identity = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], -1)
    return (identity + strength * field / torch.tensor([width, height])).clamp(-1, 1)


ATTACK = Attack("wanet", WaNetConfig, craft)
