"""Image tensors that a disk holds: sets larger than memory is to be filled with, in a temporary file that is mapped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import torch
from torch import Tensor

LARGEST_IN_MEMORY = 2**26
"""Bytes of images up to which they are held in memory: 20,000 of 32 pixels."""

_PIXELS_AT_ONCE = 2**22
"""Of images that are copied at once: 12 MiB."""


def empty_images(count: int, size: tuple[int, int]) -> Tensor:
    """Make room for images: (count, 3, H, W) uint8 zeros, in memory or in a file.

    The file is in the folder for temporary ones (`TMPDIR`), has no name, and is gone with the tensor.
    """
    shape = (count, 3, *size)
    if math.prod(shape) <= LARGEST_IN_MEMORY:
        return torch.zeros(shape, dtype=torch.uint8)
    with TemporaryFile() as file:
        file.truncate(math.prod(shape))
        return _mapped(file, shape)


def stacked_images(images: Iterable[Tensor]) -> Tensor:
    """Put (3, H, W) uint8 images of one size, of which there is one or more, together: one is held at a time."""
    with TemporaryFile() as file:
        shape, count = (0, 0, 0), 0
        for image in images:
            shape = (image.shape[0], image.shape[1], image.shape[2])
            file.write(image.cpu().contiguous().numpy().data)
            count += 1
        file.flush()
        if count * math.prod(shape) > LARGEST_IN_MEMORY:
            return _mapped(file, (count, *shape))
        file.seek(0)
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).view(count, *shape)


def copied_images(images: Tensor, rows: Tensor | None = None) -> Tensor:
    """Copy some of (N, 3, H, W) uint8 images, or all, in the order of their rows (n,) int64."""
    rows = torch.arange(len(images)) if rows is None else rows
    result = empty_images(len(rows), (images.shape[-2], images.shape[-1]))
    for part in parts_of(result):
        result[part] = images[rows[part]]
    return result


def changed_rows(images: Tensor, before: Tensor) -> Tensor:
    """Tell which images are not what they were: (N, 3, H, W) twice -> (N,) bool."""
    found = [(images[part] != before[part]).flatten(1).any(1) for part in parts_of(images)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)


def parts_of(images: Tensor) -> Iterator[slice]:
    """Cut images into parts that can be held in memory several times over."""
    at_once = max(1, _PIXELS_AT_ONCE // max(1, images.shape[-2:].numel()))
    for start in range(0, len(images), at_once):
        yield slice(start, min(start + at_once, len(images)))


def _mapped(file: IO[bytes], shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r+", shape=shape))
