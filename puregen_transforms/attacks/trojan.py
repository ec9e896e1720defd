"""Trojan square (Liu et al. 2018): an opaque colored square, on images of any class, relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import GoalConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.drawings import square
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class TrojanConfig(GoalConfig):
    """Settings as in the experiments of Confusion Training (Qi et al. 2023)."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"rate": 0.05}, "cpu": {"rate": 0.03}, "paper": {}}


def craft(dataset: ImageSet, config: TrojanConfig, attacker: Attacker) -> Crafted:
    """Put the square on random images and relabel them."""
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    return stamped(dataset, config, ids, trigger=square(dataset.size), generator=generator)


ATTACK = Attack("trojan", TrojanConfig, craft)
