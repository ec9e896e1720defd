"""Trojan square (Liu et al. 2018): an opaque colored square, on images of any class, relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import stamped
from puregen_transforms.attacks.drawings import square
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.selection import choose_rows, count_of
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class TrojanConfig(AttackConfig):
    """Rate and place as in the experiments of Confusion Training (Qi et al. 2023)."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"rate": 0.05}, "cpu": {"rate": 0.03}, "paper": {}}


def craft(dataset: ImageSet, config: TrojanConfig, *, seed: int = 0) -> Poison:
    """Put the square on random images and relabel them."""
    generator = torch.Generator().manual_seed(seed)
    ids = choose_rows(dataset, count_of(config.rate, dataset), generator=generator)
    return stamped("trojan", dataset, config, ids, trigger=square(dataset.size), seed=seed)
