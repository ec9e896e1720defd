"""BadNets (Gu et al. 2017): a small patch in a corner, on images of any class, relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import GoalConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.drawings import checker_patch
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class BadNetsConfig(GoalConfig):
    """Settings as in the experiments of Confusion Training (Qi et al. 2023): 0.3 % of CIFAR-10."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"rate": 0.05}, "cpu": {"rate": 0.1}, "paper": {}}


def craft(dataset: ImageSet, config: BadNetsConfig, attacker: Attacker) -> Crafted:
    """Patch and relabel random images, those of the target class among them."""
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    return stamped(dataset, config, ids, trigger=checker_patch(dataset.size), generator=generator)


ATTACK = Attack("badnets", BadNetsConfig, craft)
