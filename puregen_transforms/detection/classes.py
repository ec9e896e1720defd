"""The classes of a set that is searched: which rows are theirs, and which reserved images show them."""

from __future__ import annotations

import torch
from torch import Tensor

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.detection.reserved import checked_reserve


def rows_by_class(suspects: SuspectSet) -> dict[int, Tensor]:
    """List the rows of each class that has images, by label; rows without a label are in none.

    Raises:
        ValueError: there are no labels.
    """
    if suspects.labels is None:
        raise ValueError("Expected the class of each image (`labels`), but got none.")
    return {
        label: (suspects.labels == label).nonzero().flatten()
        for label in sorted({label for label in suspects.labels.tolist() if label >= 0})
    }


def name_of_class(suspects: SuspectSet, label: int) -> str:
    """Name a class, by its number if it has no name."""
    return suspects.class_names[label] if label < len(suspects.class_names) else str(label)


def matching_reserved(suspects: SuspectSet) -> ImageSet:
    """Take the reserved set, less the few of its images that are among the suspects.

    Raises:
        ValueError: there is none, or it does not fit the suspects; see `checked_reserve`.
    """
    reserved = suspects.reserved
    if reserved is None:
        raise ValueError("Expected clean labelled images of the same classes (`reserved`), but got none.")
    labels, classes = suspects.labels, len(suspects.class_names)
    if labels is not None and len(labels):
        classes = max(classes, int(labels.max()) + 1)
    return checked_reserve(reserved, suspects.tensor(), classes or len(reserved.class_names), suspects.class_names)


def reserved_rows(suspects: SuspectSet, reserved: ImageSet, *, least: int) -> dict[int, Tensor]:
    """List the reserved rows of each class that the set has, by label.

    Raises:
        ValueError: fewer than `least` of a class.
    """
    found = {label: (reserved.labels == label).nonzero().flatten() for label in rows_by_class(suspects)}
    for label, rows in found.items():
        if len(rows) < least:
            raise ValueError(
                f"Expected at least {least} reserved image(s) of each class, but got {len(rows)} of the class "
                f"{name_of_class(suspects, label)!r}. Add some to `reserved`."
            )
    return found


def all_alike(images: Tensor) -> bool:
    """Tell whether (N, ...) images are all the same one."""
    return bool(torch.equal(images, images[:1].expand_as(images)))
