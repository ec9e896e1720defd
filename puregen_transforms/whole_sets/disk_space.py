"""Estimate the room that a copy takes on a disk, and look for it before the work."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from puregen_transforms.data.images import ImageProblemError
from puregen_transforms.whole_sets.repair import EncodedImage, decode_one

_LOOKED_AT = 32
"""Images that are stored for the estimate, at most."""

_MOST_PIXELS = 2**22
"""Pixels of these together: about a second of work."""

_SURELY = 3
"""The estimate divided by this is needed in any case. Images are measured before they are purified, which makes them
smoother, and smaller as PNG."""


def mean_bytes(images: Iterable[EncodedImage[Any]]) -> float:
    """Measure the bytes that an image takes in a copy, on average over the first that can be read, not yet purified."""
    sizes, pixels = [], 0
    for source in images:
        image = decode_one(source)
        if isinstance(image, ImageProblemError):
            continue
        sizes.append(len(source.storage.encode(image, source.image_format)))
        pixels += image.width * image.height
        if len(sizes) >= _LOOKED_AT or pixels >= _MOST_PIXELS:
            break
    return sum(sizes) / max(1, len(sizes))


def check_room(folder: Path, needed: float) -> str | None:
    """Compare an estimate with what is free on a disk.

    Args:
        folder: on that disk.
        needed: bytes, estimated.

    Returns:
        A warning where it may be too little.

    Raises:
        OSError: it is surely too little.
    """
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return None
    found = f"about {in_words(needed)}, but only {in_words(free)} are free on the disk of {folder.parent}"
    if needed / _SURELY <= free:
        return f"The copy may not fit: it takes {found}. What is finished stays, should the disk be full."
    raise OSError(
        f"Expected room for the copy, which takes {found}. Free some, choose another disk, or store smaller images "
        "(--format webp or jpeg)."
    )


def in_words(size: float) -> str:
    """Say a number of bytes as people do: "1.2 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
