"""Large sets of images in a temporary file that is mapped: the disk holds them, and memory what is being looked at."""

from __future__ import annotations

import errno
import math
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile, gettempdir
from typing import IO

import torch
from torch import Tensor

LARGEST_IN_MEMORY = 2**26
"""Bytes of images up to which they are held in memory: 20,000 of 32 pixels."""

_PIXELS_AT_ONCE = 2**20
"""Of images that are looked at together: 1,024 of 32 pixels, twenty of 224."""

_MAPS: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()
"""Files that are mapped, by the address of their first byte."""


def empty_images(count: int, size: tuple[int, int]) -> Tensor:
    """Make room for images: (count, 3, H, W) uint8 zeros, in memory or in a file.

    The file is in the folder for temporary ones (`TMPDIR`), has no name, and is gone with the tensor.

    Raises:
        OSError: that folder has no room for it.
    """
    shape = (count, 3, *size)
    if math.prod(shape) <= LARGEST_IN_MEMORY:
        return torch.zeros(shape, dtype=torch.uint8)
    with _temporary_file() as file:
        if hasattr(os, "posix_fallocate"):  # a mapped file without blocks of its own would kill the process later
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        file.truncate(math.prod(shape))
        return _mapped(file, shape)


def stacked_images(images: Iterable[Tensor]) -> Tensor:
    """Put (3, H, W) uint8 images of one size together, one held at a time: (N, 3, H, W), of no pixels without any.

    Raises:
        OSError: the folder for temporary files has no room for them.
    """
    with _temporary_file() as file:
        shape, count = (3, 0, 0), 0
        for image in images:
            shape = (image.shape[0], image.shape[1], image.shape[2])
            file.write(image.cpu().contiguous().numpy().data)
            count += 1
        file.flush()
        if count * math.prod(shape) > LARGEST_IN_MEMORY:
            return _mapped(file, (count, *shape))
        if not count:
            return torch.zeros(0, *shape, dtype=torch.uint8)
        file.seek(0)
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).view(count, *shape)


def copied_images(images: Tensor, rows: Tensor | None = None) -> Tensor:
    """Copy some of (N, 3, H, W) uint8 images, or all, in the order of their rows (n,) int64."""
    rows = torch.arange(len(images)) if rows is None else rows
    result = empty_images(len(rows), (images.shape[-2], images.shape[-1]))
    for part in parts_of(result):
        result[part] = images[rows[part]]
        release(images)
    return result


def changed_rows(images: Tensor, before: Tensor) -> Tensor:
    """Tell which images are not what they were: (N, 3, H, W) twice -> (N,) bool."""
    changed = torch.zeros(len(images), dtype=torch.bool)
    for part in parts_of(images):
        changed[part] = (images[part] != before[part]).flatten(1).any(1)
        release(before)
    return changed


def parts_of(images: Tensor) -> Iterator[slice]:
    """Cut images into parts that can be held in memory several times over, each released before the next is given."""
    at_once = max(1, _PIXELS_AT_ONCE // max(1, images.shape[-2:].numel()))
    for start in range(0, len(images), at_once):
        yield slice(start, min(start + at_once, len(images)))
        release(images)


def bytes_of(tensor: Tensor) -> Iterator[memoryview]:
    """Give the bytes of a tensor, piece by piece, to be hashed."""
    pieces = (tensor[part] for part in parts_of(tensor)) if tensor.ndim == 4 else [tensor]
    for piece in pieces:
        yield piece.cpu().contiguous().numpy().data


def release(images: Tensor) -> None:
    """Give back the memory of images in a file, which are read from it again when needed; others stay as they are."""
    mapped = _MAPS.get(images.untyped_storage().data_ptr())
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@contextmanager
def _temporary_file() -> Iterator[IO[bytes]]:
    """Open a file without a name, and say what to do where there is no room for it."""
    try:
        with TemporaryFile() as file:
            yield file
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"Expected room for images in the folder for temporary files, {gettempdir()}, but it is full. "
            "Name another one in TMPDIR",
        ) from error


def _mapped(file: IO[bytes], shape: tuple[int, ...]) -> Tensor:
    content = mmap.mmap(file.fileno(), math.prod(shape))
    images = torch.frombuffer(content, dtype=torch.uint8).view(shape)
    _MAPS[images.data_ptr()] = content
    return images
