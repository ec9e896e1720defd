"""The classes of a set that is searched: which rows are theirs, and which reserved images show them."""

from __future__ import annotations

import torch
from torch import Tensor

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.detector import SuspectSet


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
    """Take the reserved set, if its images and classes are those of the set that is searched.

    Raises:
        ValueError: there is none, or its images have another size, or it has other classes, or the same in another
            order.
    """
    reserved = suspects.reserved
    if reserved is None or not len(reserved):
        raise ValueError("Expected clean labelled images of the same classes (`reserved`), but got none.")
    size = tuple(suspects.tensor().shape[2:])
    if reserved.size != size:
        raise ValueError(
            f"Expected reserved images of {size[1]}x{size[0]} pixels, as the set has, but got "
            f"{reserved.size[1]}x{reserved.size[0]}. Resize them in the same way."
        )
    names, given = suspects.class_names, reserved.class_names
    if names and given != names:
        raise ValueError(
            f"Expected a reserved set with the classes {', '.join(names)} of the set, in this order, but got "
            f"{', '.join(given)}."
        )
    labels = suspects.labels
    if labels is not None and len(labels) and int(labels.max()) >= len(given):
        raise ValueError(
            f"Expected a reserved set with the classes of the set, but it has {len(given)}, and the set labels up to "
            f"{int(labels.max())}."
        )
    return reserved


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
