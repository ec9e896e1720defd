"""Several attacks on one set: each has rows, a trigger and a target class of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class MixedConfig(AttackConfig):
    """Settings of attacks that are put together; nobody published them.

    Args:
        target_class: of the first attack.
        rate: rows that each attack poisons, as a share of the training set.
        attacks: their names; any with a trigger.
        other_target_classes: name or index of a class for each of the other attacks.
        preset_of_each: preset of every attack, for all other settings of its own.
    """

    attacks: tuple[str, ...] = ("badnets", "blended")
    other_target_classes: tuple[str | int, ...] = (1,)
    preset_of_each: str = "paper"

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05, "preset_of_each": "smoke"},
        "cpu": {"rate": 0.05, "preset_of_each": "cpu"},
        "paper": {},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.attacks) < 2 or len(self.other_target_classes) != len(self.attacks) - 1:
            raise ValueError(
                f"Expected two attacks or more and a target class for each but the first, but got "
                f"{list(self.attacks)} and {list(self.other_target_classes)}."
            )


def craft(dataset: ImageSet, config: MixedConfig, attacker: Attacker) -> Crafted:
    """Craft one attack after the other, each on the rows that are left.

    Raises:
        ValueError: an attack that does not exist, has no trigger or needs what the attacker does not have; or too few
            rows for all of them.
    """
    from puregen_transforms.attacks.registry import find_attack  # which has this attack, too

    rows, poisons, places = torch.arange(len(dataset)), [], []
    target_classes = (config.target_class, *config.other_target_classes)
    for number, (name, target_class) in enumerate(zip(config.attacks, target_classes, strict=True)):
        attack = find_attack(name)
        if config.rate * len(dataset) > len(rows):
            raise ValueError(f"Expected rows enough for {name!r}, but only {len(rows)} are left. Lower the rate.")
        settings = {
            "rate": config.rate * len(dataset) / len(rows),  # as many, of the rows that are left
            "target_class": target_class,
            "jitter": config.jitter,
            "reencode": config.reencode,
        }
        own = attack.config.preset(config.preset_of_each, **settings)
        poison = attack.craft(dataset.subset(rows), own, replace(attacker, seed=attacker.seed + number))
        if len(poison.aims) != 1:
            raise ValueError(f"Expected attacks with one trigger each, but got {name!r}. Choose another.")
        poisons.append(poison)
        places.append(rows[poison.ids])
        left = torch.ones(len(rows), dtype=torch.bool)
        left[poison.ids] = False
        rows = rows[left]
    return joined(poisons, places)


def joined(poisons: Sequence[Poison], places: Sequence[Tensor]) -> Crafted:
    """Join poisons of disjoint rows; the first one's trigger is that of the whole, the others stand beside it.

    Args:
        poisons: each with one trigger.
        places: of each, (n,) the rows of the whole set that it changes.
    """
    budgets = [poison.budget for poison in poisons if poison.budget is not None]
    return Crafted(
        ids=torch.cat(list(places)),
        images=torch.cat([poison.images for poison in poisons]),
        labels=torch.cat([poison.labels for poison in poisons]),
        covers=torch.cat([poison.covers for poison in poisons]),
        source_class=poisons[0].source_class,
        trigger=poisons[0].trigger,
        others=tuple(poison.aims[0] for poison in poisons[1:]),
        budget=max(budgets) if len(budgets) == len(poisons) else None,
        varied=True,
    )


ATTACK = Attack("mixed", MixedConfig, craft, optimizes=True)
