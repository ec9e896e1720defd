"""Parts of a labeled set by the count of images of each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from puregen_transforms.data.image_set import ImageSet


@dataclass(frozen=True, eq=False)
class TransferSplit:
    """The protocol of Bullseye Polytope (Aghakhani et al. 2021).

    Args:
        pretrain: what feature extractors learn; the attacker's and the victim's alike.
        fine_tune: what the victim learns on top of them, and the attacker poisons.
        targets: the rest; images to be misread.
    """

    pretrain: ImageSet
    fine_tune: ImageSet
    targets: ImageSet


def transfer_split(dataset: ImageSet, *, pretrain: int = 4800, fine_tune: int = 50) -> TransferSplit:
    """Split a set into the first images of each class, the next ones, and the others.

    Args:
        dataset: a set with more images of each class than both counts together.
        pretrain: images of each class.
        fine_tune: images of each class.

    Raises:
        ValueError: a class with fewer.
    """
    return TransferSplit(
        per_class(dataset, 0, pretrain),
        per_class(dataset, pretrain, pretrain + fine_tune),
        per_class(dataset, pretrain + fine_tune, None),
    )


def at_most_per_class(dataset: ImageSet, count: int) -> ImageSet:
    """Choose the first images of each class, all of a class that has fewer, in the set's order."""
    rows = [(dataset.labels == label).nonzero().flatten()[:count] for label in range(len(dataset.class_names))]
    return dataset.subset(torch.cat(rows).sort().values)


def hold_out(dataset: ImageSet, share: float) -> tuple[ImageSet, ImageSet]:
    """Part a set at random, the same for each class: the rest, and the share that is held out.

    Raises:
        ValueError: a class with an image of which there are too few to be parted.
    """
    generator, held = torch.Generator().manual_seed(0), []
    for label, name in enumerate(dataset.class_names):
        own = (dataset.labels == label).nonzero().flatten()
        count = round(share * len(own))
        if len(own) and not 0 < count < len(own):
            raise ValueError(
                f"Expected enough images of {name!r} to hold {share:.0%} of them out, but there are {len(own)}. "
                "Name a test set."
            )
        held.append(own[torch.randperm(len(own), generator=generator)[:count]])
    mask = torch.zeros(len(dataset), dtype=torch.bool)
    mask[torch.cat(held)] = True
    return dataset.subset(~mask), dataset.subset(mask)


def per_class(dataset: ImageSet, start: int, end: int | None) -> ImageSet:
    """Take images of each class, from its `start`th to before its `end`th, in the set's order.

    Raises:
        ValueError: a class with fewer.
    """
    rows = []
    for label, name in enumerate(dataset.class_names):
        own = (dataset.labels == label).nonzero().flatten()
        if len(own) < (start + 1 if end is None else end):
            raise ValueError(
                f"Expected at least {start + 1 if end is None else end} images of {name!r}, but there are {len(own)}."
            )
        rows.append(own[start:end])
    return dataset.subset(torch.cat(rows).sort().values)
