"""Check the clean images that a detector is given beside the suspects."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from puregen_transforms.data.image_set import ImageSet

ALLOWED_OVERLAP = 0.01
"""Share of the reserved set that may be found among the suspects, as sets have duplicates; it is left out."""


def checked_reserve(reserved: ImageSet, images: Tensor, classes: int, class_names: tuple[str, ...]) -> ImageSet:
    """Check that a reserved set fits the suspects, and leave out the few of its images that are among them.

    Args:
        reserved: clean images.
        images: (N, 3, H, W) uint8, the suspects.
        classes: how many.
        class_names: of the suspects; may be empty.

    Raises:
        ValueError: too few images, other classes, another image size, or too many that are among the suspects.
    """
    if class_names and reserved.class_names != class_names:
        raise ValueError(
            f"Expected a reserved set with the classes {', '.join(class_names)} of the suspects, in this order, but "
            f"got {', '.join(reserved.class_names)}."
        )
    if len(reserved) and int(reserved.labels.max()) >= classes:
        raise ValueError(
            f"Expected a reserved set of the {classes} classes of the suspects, but got label "
            f"{int(reserved.labels.max())}."
        )
    if reserved.images.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"Expected reserved images of {images.shape[-1]}x{images.shape[-2]} pixels, as the suspects have, but got "
            f"{reserved.size[1]}x{reserved.size[0]}. Resize them in the same way."
        )
    known = {_hash(image) for image in images.cpu()}
    fresh = torch.tensor([_hash(image) not in known for image in reserved.images.cpu()], dtype=torch.bool)
    if (shared := int((~fresh).sum())) > ALLOWED_OVERLAP * len(reserved):
        raise ValueError(
            f"Expected reserved images that are not among the suspects, but {shared} of {len(reserved)} are. "
            "Take them from a source that you trust."
        )
    if fresh.sum() < 2:
        raise ValueError(f"Expected at least two reserved images, better 1,000 or more, but got {int(fresh.sum())}.")
    return reserved.subset(fresh)


def _hash(image: Tensor) -> bytes:
    return hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()
