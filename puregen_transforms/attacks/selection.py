"""Which rows of a training set an attacker alters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from puregen_transforms.data.image_set import ImageSet


def count_of(rate: float, dataset: ImageSet) -> int:
    """A share of a set as a number of rows.

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


def choose_rows(
    dataset: ImageSet,
    count: int,
    *,
    generator: torch.Generator,
    classes: Sequence[int] | None = None,
    never: Tensor | None = None,
) -> Tensor:
    """Some rows, drawn at random without repetition: (count,) int64, increasing.

    Args:
        dataset: the training set.
        count: how many.
        generator: of the draw.
        classes: rows of these alone; None is all.
        never: rows left out.

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
