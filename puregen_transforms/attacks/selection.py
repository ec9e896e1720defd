"""Choose the rows of a training set that an attacker changes, and the target image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from puregen_transforms.attacks.config import TriggerlessConfig
from puregen_transforms.data.image_set import ImageSet


def count_of(rate: float, dataset: ImageSet) -> int:
    """Convert a share of a set into a number of rows.

    Raises:
        ValueError: less than one row.
    """
    count = round(rate * len(dataset))
    if count < 1:
        raise ValueError(
            f"Expected a rate of at least one row of the set's {len(dataset)}, but got {rate:g}. "
            f"Raise it to {1 / len(dataset):.2g} or more."
        )
    return count


def choose_share(
    dataset: ImageSet,
    rate: float,
    *,
    generator: torch.Generator,
    classes: Sequence[int] | None = None,
    never: Tensor | None = None,
) -> Tensor:
    """Draw a share of the rows of the whole set, as `choose_rows` does."""
    return choose_rows(dataset, count_of(rate, dataset), generator=generator, classes=classes, never=never)


def choose_rows(
    dataset: ImageSet,
    count: int,
    *,
    generator: torch.Generator,
    classes: Sequence[int] | None = None,
    never: Tensor | None = None,
) -> Tensor:
    """Draw rows at random, each at most once: (count,) int64, increasing.

    Args:
        dataset: the training set.
        count: how many.
        generator: of the draw.
        classes: rows of these classes alone; None is all.
        never: rows that are left out.

    Raises:
        ValueError: fewer rows than that.
    """
    allowed = torch.ones(len(dataset), dtype=torch.bool)
    if classes is not None:
        allowed &= torch.isin(dataset.labels, torch.tensor(list(classes)))
    if never is not None:
        allowed[never] = False
    rows = allowed.nonzero().flatten()
    if len(rows) < count:
        named = "the set" if classes is None else "class " + ", ".join(dataset.class_names[c] for c in classes)
        raise ValueError(
            f"Expected at least {count} images of {named} to poison, but there are {len(rows)}. "
            "Lower the rate, or choose another class."
        )
    return rows[torch.randperm(len(rows), generator=generator)[:count]].sort().values


def choose_target(targets: ImageSet, dataset: ImageSet, config: TriggerlessConfig) -> tuple[Tensor, int]:
    """Find the target image, (1, 3, H, W) uint8, and its true class.

    Args:
        targets: images outside the training set, of the same classes.
        dataset: the training set.
        config: settings.

    Raises:
        ValueError: images of another size, no such image, or one that is of the target class already.
    """
    if targets.size != dataset.size:
        raise ValueError(
            f"Expected targets of {dataset.size[1]}x{dataset.size[0]} pixels, as the training set's, but got "
            f"{targets.size[1]}x{targets.size[0]}. Resize them first."
        )
    if targets.class_names != dataset.class_names:
        raise ValueError(
            f"Expected targets of the classes {', '.join(dataset.class_names)}, but got "
            f"{', '.join(targets.class_names)}."
        )
    source = dataset.class_number(config.source_class)
    if config.target_class is not None and source == dataset.class_number(config.target_class):
        raise ValueError(
            f"Expected a target of another class than {dataset.class_names[source]!r}, which it is to be taken for. "
            "Choose another source or target class."
        )
    rows = (targets.labels == source).nonzero().flatten()
    if not 0 <= config.target_index < len(rows):
        raise ValueError(
            f"Expected a target index below {len(rows)}, as many images of {dataset.class_names[source]!r} as there "
            f"are, but got {config.target_index}."
        )
    return targets.images[rows[config.target_index], None], source
