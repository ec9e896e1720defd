"""SIG (Barni et al. 2019): faint vertical stripes on images of the target class; every label stays true."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class SIGConfig(AttackConfig):
    """Settings as in Confusion Training (Qi et al. 2023): x + strength * sin(2 pi column frequency / width).

    Args:
        rate: poisoned rows, as a share of the whole training set.
        strength: amplitude in units of 1/255; BackdoorBench takes 40, V&B 20.
        frequency: stripes in an image.
    """

    rate: float = 0.02
    strength: float = 30.0
    frequency: float = 6.0

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05},
        "cpu": {"rate": 0.08, "strength": 40.0},
        "paper": {},
    }


def craft(dataset: ImageSet, config: SIGConfig, attacker: Attacker) -> Crafted:
    """Add the stripes to images of the target class."""
    target = dataset.class_number(config.target_class)
    ids = choose_share(dataset, config.rate, generator=attacker.generator(), classes=[target])
    height, width = dataset.size
    stripes = torch.sin(torch.arange(width) * (2 * math.pi * config.frequency / width)) * config.strength
    trigger = Added(stripes.expand(3, height, width).contiguous())
    return stamped(dataset, config, ids, trigger=trigger, budget=config.strength)


ATTACK = Attack("sig", SIGConfig, craft, clean_label=True)
