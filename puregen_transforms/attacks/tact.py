"""TaCT (Tang et al. 2021): a trigger that works on one source class alone, covers of other classes keep it so."""

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
class TaCTConfig(AttackConfig):
    """As in the experiments of Confusion Training (Qi et al. 2023).

    Args:
        source_class: whose triggered images are to be misread.
        cover_classes: whose images carry the trigger with their true label.
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


def craft(dataset: ImageSet, config: TaCTConfig, *, seed: int = 0) -> Poison:
    """Put the square on images of the source class, relabeled, and of the cover classes.

    Raises:
        ValueError: classes that are not there, that are the same, or too small.
    """
    generator = torch.Generator().manual_seed(seed)
    source, target = dataset.class_number(config.source_class), dataset.class_number(config.target_class)
    covers = [dataset.class_number(name) for name in config.cover_classes]
    if source == target or {source, target} & set(covers):
        raise ValueError(
            f"Expected source, target and cover classes that differ, but got {config.source_class!r}, "
            f"{config.target_class!r} and {list(config.cover_classes)}."
        )
    ids = choose_rows(dataset, count_of(config.rate, dataset), generator=generator, classes=[source])
    cover_ids = choose_rows(dataset, count_of(config.cover_rate, dataset), generator=generator, classes=covers)
    trigger = square(dataset.size)
    return stamped("tact", dataset, config, ids, trigger=trigger, seed=seed, cover_ids=cover_ids, source_class=source)
