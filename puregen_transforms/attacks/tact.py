"""TaCT (Tang et al. 2021): a trigger for one source class alone; covers of other classes keep it so; relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.drawings import square
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class TaCTConfig(AttackConfig):
    """Settings as in the experiments of Confusion Training (Qi et al. 2023).

    Args:
        source_class: the class whose triggered images are to be misread.
        cover_classes: classes whose images carry the trigger with their true label.
        cover_rate: covers, as a share of the training set.
    """

    source_class: str | int = 1
    cover_classes: tuple[str | int, ...] = (5, 7)
    cover_rate: float = 0.003

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05, "cover_rate": 0.05},
        "cpu": {"rate": 0.05, "cover_rate": 0.05},
        "paper": {},
    }


def craft(dataset: ImageSet, config: TaCTConfig, attacker: Attacker) -> Crafted:
    """Put the square on images of the source class, relabeled, and of the cover classes.

    Raises:
        ValueError: classes that do not exist, that are the same, or that have too few images.
    """
    generator = attacker.generator()
    source, target = dataset.class_number(config.source_class), dataset.class_number(config.target_class)
    covers = [dataset.class_number(name) for name in config.cover_classes]
    if source == target or {source, target} & set(covers):
        raise ValueError(
            f"Expected source, target and cover classes that differ, but got {config.source_class!r}, "
            f"{config.target_class!r} and {list(config.cover_classes)}."
        )
    ids = choose_share(dataset, config.rate, generator=generator, classes=[source])
    cover_ids = choose_share(dataset, config.cover_rate, generator=generator, classes=covers)
    trigger = square(dataset.size)
    return stamped(dataset, config, ids, trigger=trigger, cover_ids=cover_ids, source_class=source)


ATTACK = Attack("tact", TaCTConfig, craft)
