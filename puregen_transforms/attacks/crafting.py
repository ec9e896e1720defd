"""The last step of every attack: what was crafted, as a record."""

from __future__ import annotations

import math
from importlib.metadata import version

import torch
from torch import Tensor

from puregen_transforms import __version__
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.poison import Poison, image_hash
from puregen_transforms.attacks.trigger import Trigger
from puregen_transforms.data.image_set import ImageSet


def to_poison(
    attack: str,
    dataset: ImageSet,
    config: AttackConfig,
    *,
    ids: Tensor,
    images: Tensor,
    labels: Tensor,
    seed: int,
    covers: Tensor | None = None,
    source_class: int | None = None,
    trigger: Trigger | None = None,
    target_images: Tensor | None = None,
    target_labels: Tensor | None = None,
    budget: float | None = None,
) -> Poison:
    """Rows in any order -> the record; see `Poison`."""
    order = ids.argsort()
    ids = ids[order]
    return Poison(
        attack=attack,
        ids=ids,
        images=images[order].cpu(),
        labels=labels[order],
        originals=tuple(image_hash(image) for image in dataset.images[ids]),
        target_class=None if config.target_class is None else dataset.class_number(config.target_class),
        covers=None if covers is None else covers[order],  # type: ignore[arg-type]
        source_class=source_class,
        trigger=trigger,
        target_images=target_images,
        target_labels=target_labels,
        budget=budget,
        recipe=config.to_dict(),
        seed=seed,
        set_rows=len(dataset),
        class_names=dataset.class_names,
        versions={"puregen_transforms": __version__, "torch": version("torch")},
    )


def within(images: Tensor, originals: Tensor, epsilon: float) -> Tensor:
    """Crafted images, 0 ... 255, as uint8 that are no further than epsilon from the originals after rounding, too."""
    start, limit = originals.float(), math.floor(epsilon)
    return images.float().round().clamp(start - limit, start + limit).clamp(0, 255).to(torch.uint8)


def stamped(
    attack: str,
    dataset: ImageSet,
    config: AttackConfig,
    ids: Tensor,
    *,
    trigger: Trigger,
    seed: int,
    poisoning: Trigger | None = None,
    cover_ids: Tensor | None = None,
    source_class: int | None = None,
    budget: float | None = None,
) -> Poison:
    """Rows that all get one trigger and the target's label, and perhaps covers that keep theirs.

    Args:
        attack: its name.
        dataset: the training set.
        config: settings of the attack.
        ids: (n,) rows to poison.
        trigger: at test time.
        seed: of all that was drawn.
        poisoning: the trigger in the training set, where it is another.
        cover_ids: (m,) rows of covers.
        source_class: see `Poison`.
        budget: see `Poison`.
    """
    poisoning = poisoning or trigger
    target = torch.full_like(ids, dataset.class_number(config.target_class))
    images, covers = poisoning(dataset.images[ids]), None
    if cover_ids is not None:
        images = torch.cat([images, poisoning(dataset.images[cover_ids])])
        covers = torch.cat([torch.zeros(len(ids)), torch.ones(len(cover_ids))]).bool()
        target = torch.cat([target, dataset.labels[cover_ids]])
        ids = torch.cat([ids, cover_ids])
    return to_poison(
        attack,
        dataset,
        config,
        ids=ids,
        images=images,
        labels=target,
        seed=seed,
        covers=covers,
        source_class=source_class,
        trigger=trigger,
        budget=budget,
    )
