"""Label noise: wrong labels at random, as tired annotators leave them; the control that is no attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from puregen_transforms.attacks.aims import other_classes
from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class LabelNoiseConfig(AttackConfig):
    """Symmetric noise: each wrong label is one of the other classes, all equally likely.

    Args:
        target_class: None; no class is aimed at.
        rate: mislabeled rows, as a share of the training set.
    """

    target_class: None = None
    rate: float = 0.05

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {}, "cpu": {}, "paper": {}}


def craft(dataset: ImageSet, config: LabelNoiseConfig, attacker: Attacker) -> Crafted:
    """Give random rows the label of another class.

    Raises:
        ValueError: a set of one class.
    """
    if len(dataset.class_names) < 2:
        raise ValueError(f"Expected two classes or more, so that a label can be wrong, but got {dataset.class_names}.")
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    wrong = other_classes(dataset.labels[ids], len(dataset.class_names), generator)
    return Crafted(ids=ids, images=dataset.images[ids], labels=wrong, budget=0.0)


ATTACK = Attack("label_noise", LabelNoiseConfig, craft, labels_only=True)
