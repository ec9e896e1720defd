"""Turn what an attack crafted into a poison."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.metadata import version

import torch
from torch import Tensor

from puregen_transforms import __version__
from puregen_transforms.attacks.aims import ALL_TO_ALL, ALL_TO_ONE, Aim, next_classes, other_classes
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.stored_images import image_hash
from puregen_transforms.attacks.trigger import Trigger
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.jpeg import jpeg


@dataclass(frozen=True, kw_only=True, eq=False)
class Crafted:
    """Hold the parts of a `Poison` that an attack decides; rows in any order.

    Args:
        ids: (n,) rows to change.
        images: (n, 3, H, W) uint8, their new images.
        labels: (n,) their new labels.
        covers: (n,) bool; None is no cover.
        source_class: the only class whose triggered images are attacked; None is every class.
        trigger: at test time.
        stamp: the trigger that made `images` out of the set's, if it was one and the same for all.
        others: further triggers, each with its own aim.
        target_images: (k, 3, H, W) uint8, for triggerless attacks.
        target_labels: (k,) their true labels.
        budget: most that an image is changed, in `norm`, if it is bounded.
        norm: what the budget bounds, out of `NORMS`.
        varied: whether triggers were moved, and rows compressed, as the settings say.
    """

    ids: Tensor
    images: Tensor
    labels: Tensor
    covers: Tensor | None = None
    source_class: int | None = None
    trigger: Trigger | None = None
    stamp: Trigger | None = None
    others: tuple[Aim, ...] = ()
    target_images: Tensor | None = None
    target_labels: Tensor | None = None
    budget: float | None = None
    norm: str = "linf"
    varied: bool = False

    def to_poison(self, attack: str, dataset: ImageSet, config: AttackConfig, *, seed: int) -> Poison:
        """Vary what was crafted as the settings say, and add what holds for every attack: its name, settings and set.

        Raises:
            ValueError: triggers that are to be moved, and cannot.
        """
        crafted = self if self.varied else self.variation(dataset, config, seed)
        order = crafted.ids.argsort()
        ids = crafted.ids[order]
        return Poison(
            attack=attack,
            ids=ids,
            images=crafted.images[order].cpu(),
            labels=crafted.labels[order],
            originals=tuple(image_hash(image) for image in dataset.images[ids]),
            target_class=None if config.target_class is None else dataset.class_number(config.target_class),
            covers=None if crafted.covers is None else crafted.covers[order],  # type: ignore[arg-type]
            source_class=crafted.source_class,
            trigger=crafted.trigger,
            goal=config.goal,
            others=crafted.others,
            target_images=crafted.target_images,
            target_labels=crafted.target_labels,
            budget=crafted.budget,
            norm=crafted.norm,
            recipe=config.to_dict(),
            seed=seed,
            set_rows=len(dataset),
            class_names=dataset.class_names,
            versions={"puregen_transforms": __version__, "torch": version("torch")},
        )

    def variation(self, dataset: ImageSet, config: AttackConfig, seed: int) -> Crafted:
        """Move triggers, and compress rows, if the settings say so.

        Raises:
            ValueError: triggers that cannot be moved, or images that are not to be changed.
        """
        crafted = self.jittered(dataset, config.jitter, seed) if config.jitter else self
        return crafted.reencoded(config.reencode) if config.reencode is not None else crafted

    def jittered(self, dataset: ImageSet, pixels: int, seed: int) -> Crafted:
        """Stamp every row anew, with the trigger at a place drawn for it, up to so many pixels from its own.

        Raises:
            ValueError: images that were not made by one trigger which has a place.
        """
        if self.stamp is None:
            raise ValueError(
                "Expected an attack that puts one trigger on images at one place, to move it, but got another. "
                "Leave out `jitter`."
            )
        downs, rights = self.stamp.room(pixels)
        generator = torch.Generator().manual_seed(seed)
        places = torch.randint(len(downs) * len(rights), (len(self.ids),), generator=generator)
        images, originals = torch.empty_like(self.images), dataset.images[self.ids]
        for place in places.unique().tolist():
            moved = self.stamp.moved(downs[place // len(rights)], rights[place % len(rights)])
            images[places == place] = moved(originals[places == place])
        return replace(self, images=images)

    def reencoded(self, quality: int) -> Crafted:
        """Compress every row as JPEG; no bound on its pixels holds any more.

        Raises:
            ValueError: an attack that leaves images as they are.
        """
        if self.budget == 0:
            raise ValueError("Expected an attack that changes images, to compress them, but got one on labels alone.")
        return replace(self, images=jpeg(self.images.cpu(), quality), budget=None, norm="linf")


def within(images: Tensor, originals: Tensor, epsilon: float) -> Tensor:
    """Round crafted images, 0 ... 255, to uint8 that is at most epsilon away from the originals."""
    start, limit = originals.float(), math.floor(epsilon)
    return images.float().round().clamp(start - limit, start + limit).clamp(0, 255).to(torch.uint8)


def within_length(changes: Tensor, originals: Tensor, radius: float) -> Tensor:
    """Add changes to images, shrunk where rounding would make them longer than a radius: (N, 3, H, W) uint8.

    Args:
        changes: (N, 3, H, W) float, in units of 1/255.
        originals: (N, 3, H, W) uint8.
        radius: largest Euclidean length of an image's change, for pixels in [0, 1].
    """
    start, scale = originals.float(), torch.ones(len(originals), 1, 1, 1)
    while True:
        images = (start + scale * changes).round().clamp(0, 255)
        length = (images - start).double().flatten(1).norm(dim=1).div(255).view_as(scale)
        if not bool((length > radius).any()):
            return images.to(torch.uint8)
        scale = torch.where(length > radius, 0.999 * scale * radius / length.float(), scale)


def with_covers(
    dataset: ImageSet,
    config: AttackConfig,
    ids: Tensor,
    cover_ids: Tensor,
    images: Tensor,
    *,
    trigger: Trigger,
    source_class: int | None = None,
    budget: float | None = None,
    generator: torch.Generator | None = None,
) -> Crafted:
    """Label poisoned rows as the target class, or as the goal has it, and covers as they were.

    Args:
        dataset: the training set.
        config: settings, with the target class.
        ids: (n,) rows to poison.
        cover_ids: (m,) rows of covers.
        images: (n + m, 3, H, W) uint8, the new images of the one and the other.
        trigger: at test time.
        source_class: the only class whose triggered images are attacked; None is every class.
        budget: largest change of a pixel in units of 1/255, if it is bounded.
        generator: of labels that are drawn; needed for an untargeted attack.
    """
    return Crafted(
        ids=torch.cat([ids, cover_ids]),
        images=images,
        labels=torch.cat([relabeled(dataset, config, ids, generator), dataset.labels[cover_ids]]),
        covers=torch.arange(len(ids) + len(cover_ids)) >= len(ids),
        source_class=source_class,
        trigger=trigger,
        budget=budget,
    )


def relabeled(dataset: ImageSet, config: AttackConfig, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Give poisoned rows the labels that serve the goal: (n,) int64.

    Args:
        dataset: the training set.
        config: settings, with the goal and the target class.
        ids: (n,) rows to poison.
        generator: of labels that are drawn; needed for an untargeted attack.

    Raises:
        ValueError: no such class, or a set of one class where others are wanted.
    """
    if config.goal == ALL_TO_ONE:
        return torch.full_like(ids, dataset.class_number(config.target_class))
    classes = len(dataset.class_names)
    if classes < 2:
        raise ValueError(f"Expected at least 2 classes for the goal {config.goal}, but got {classes}.")
    if config.goal == ALL_TO_ALL:
        return next_classes(dataset.labels[ids], classes)
    assert generator is not None
    return other_classes(dataset.labels[ids], classes, generator)


def stamped(
    dataset: ImageSet,
    config: AttackConfig,
    ids: Tensor,
    *,
    trigger: Trigger,
    poisoning: Trigger | None = None,
    cover_ids: Tensor | None = None,
    source_class: int | None = None,
    budget: float | None = None,
    generator: torch.Generator | None = None,
) -> Crafted:
    """Put one trigger on all rows, and label them as the target class, or as the goal has it; covers keep their label.

    Args:
        dataset: the training set.
        config: settings, with the target class.
        ids: (n,) rows to poison.
        trigger: at test time.
        poisoning: the trigger in the training set, where it is another.
        cover_ids: (m,) rows of covers.
        source_class: the only class whose triggered images are attacked; None is every class.
        budget: largest change of a pixel in units of 1/255, if it is bounded.
        generator: of labels that are drawn; needed for an untargeted attack.
    """
    cover_ids = ids[:0] if cover_ids is None else cover_ids
    images = (poisoning or trigger)(dataset.images[torch.cat([ids, cover_ids])])
    crafted = with_covers(
        dataset,
        config,
        ids,
        cover_ids,
        images,
        trigger=trigger,
        source_class=source_class,
        budget=budget,
        generator=generator,
    )
    return replace(crafted, stamp=poisoning or trigger)
