"""CTRL (Li et al. 2023): two frequencies added to the colors of images of the target class; every label stays true."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.image_set import ImageSet

_OF_U, _OF_V = (0.0, -0.396, 2.029), (1.14, -0.581, 0.0)
"""What a unit of the color differences U and V adds to red, green and blue."""


@dataclass(frozen=True, kw_only=True)
class CTRLConfig(AttackConfig):
    """Settings as published, for learning without labels; BackdoorBench poisons 5 % for learning with them.

    Args:
        rate: poisoned rows, as a share of the whole training set.
        strength: added to each coefficient of the orthonormal DCT of U and of V, in units of 1/255.
        test_strength: the same at test time.
        window: side of the squares that are transformed one by one.
        frequencies: number of half waves along either side, of each coefficient, below `window`.
    """

    rate: float = 0.01
    strength: float = 100.0
    test_strength: float = 100.0
    window: int = 32
    frequencies: tuple[int, ...] = (15, 31)

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"rate": 0.05}, "cpu": {"rate": 0.05}, "paper": {}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.test_strength > 0:
            raise ValueError(f"Expected `test_strength` above 0, but got {self.test_strength}.")
        if not self.frequencies or not all(0 <= frequency < self.window for frequency in self.frequencies):
            raise ValueError(f"Expected frequencies from 0 to {self.window - 1}, but got {list(self.frequencies)}.")


def craft(dataset: ImageSet, config: CTRLConfig, attacker: Attacker) -> Crafted:
    """Add the frequencies to images of the target class.

    The transforms are linear: to raise coefficients is to add the same pattern to every image.
    """
    target = dataset.class_number(config.target_class)
    ids = choose_share(dataset, config.rate, generator=attacker.generator(), classes=[target])
    pattern = config.strength * waves(dataset.size, config)
    return stamped(
        dataset,
        config,
        ids,
        poisoning=Added(pattern),
        trigger=Added(pattern, config.test_strength / config.strength),
        budget=float(pattern.abs().max().ceil()),
    )


def waves(size: tuple[int, int], config: CTRLConfig) -> Tensor:
    """Draw what a unit of each coefficient adds to an image: (3, H, W)."""
    place = torch.arange(config.window, dtype=torch.float64) + 0.5
    tile = torch.zeros(config.window, config.window, dtype=torch.float64)
    for frequency in config.frequencies:
        norm = math.sqrt((2 if frequency else 1) / config.window)
        wave = norm * torch.cos(math.pi * frequency * place / config.window)
        tile += wave[:, None] * wave
    height, width = size
    tiled = tile.repeat(-(-height // config.window), -(-width // config.window))[:height, :width]
    colors = torch.tensor(_OF_U, dtype=torch.float64) + torch.tensor(_OF_V, dtype=torch.float64)
    return (colors[:, None, None] * tiled).float()


ATTACK = Attack("ctrl", CTRLConfig, craft, clean_label=True)
