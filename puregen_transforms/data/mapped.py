"""Tensors that may be too large for the memory: these are in a file that is mapped, and read from it when needed."""

from __future__ import annotations

import errno
import math
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO

import torch
from torch import Tensor

LARGEST_IN_MEMORY = 2**26
"""Bytes up to which a tensor is held in memory: 20,000 images of 32 pixels."""

_BYTES_AT_ONCE = 3 * 2**20
"""Of rows that are looked at together: 1,024 images of 32 pixels, twenty of 224."""

_READ_APART = 32
"""Rows anywhere in a file that are read before it is released: the system may map two megabytes around each."""


class _Mapping(mmap.mmap):
    """A file that is mapped; `folder` is where it lies, None the folder for temporary files."""

    folder: Path | None = None


_MAPPINGS: weakref.WeakValueDictionary[int, _Mapping] = weakref.WeakValueDictionary()
"""Files that are mapped, by the address of their first byte."""


def empty_rows(shape: Sequence[int], dtype: torch.dtype, *, folder: Path | None = None) -> Tensor:
    """Make room for rows: zeros of a shape (N, ...), in memory or in a file.

    The file has no name, and is gone with the tensor. What is written to it, or read, stays in memory until `release`.

    Args:
        shape: of the tensor.
        dtype: of its numbers.
        folder: for the file; None is the one for temporary files (`TMPDIR`).

    Raises:
        OSError: that folder has no room for it.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= LARGEST_IN_MEMORY:
        return torch.zeros(*shape, dtype=dtype)
    with _temporary_file(folder) as file:
        if hasattr(os, "posix_fallocate"):  # a mapped file without blocks of its own would kill the process later
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
        return _mapped(file, shape, dtype, folder)


def empty_images(count: int, size: tuple[int, int]) -> Tensor:
    """Make room for images, (count, 3, H, W) uint8; see `empty_rows`."""
    return empty_rows((count, 3, *size), torch.uint8)


def stacked_images(images: Iterable[Tensor], *, folder: Path | None = None) -> Tensor:
    """Put (3, H, W) uint8 images of one size together, one held at a time: (N, 3, H, W), of no pixels without any.

    Raises:
        OSError: the folder has no room for them; see `empty_rows`.
    """
    with _temporary_file(folder) as file:
        shape, count = (3, 0, 0), 0
        for image in images:
            shape = (image.shape[0], image.shape[1], image.shape[2])
            file.write(image.cpu().contiguous().numpy().data)
            count += 1
        file.flush()
        if count * math.prod(shape) > LARGEST_IN_MEMORY:
            return _mapped(file, (count, *shape), torch.uint8, folder)
        if not count:
            return torch.zeros(0, *shape, dtype=torch.uint8)
        file.seek(0)
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).view(count, *shape)


def copied_rows(rows: Tensor, numbers: Tensor | None = None) -> Tensor:
    """Copy some rows, or all, in the order of their numbers (n,) int64; from a file into another in its folder."""
    numbers = torch.arange(len(rows)) if numbers is None else numbers
    copy = empty_rows((len(numbers), *rows.shape[1:]), rows.dtype, folder=folder_of(rows))
    for part in parts_of(copy):
        copy[part] = gathered(rows, numbers[part])
    return copy


def gathered(rows: Tensor, numbers: Tensor) -> Tensor:
    """Copy some rows into memory: (n,) int64 -> (n, ...). Of a file, little more than they fill is held meanwhile."""
    if not is_in_file(rows):
        return rows[numbers]
    found = torch.empty(len(numbers), *rows.shape[1:], dtype=rows.dtype)
    for part in cut(len(numbers), _READ_APART):
        found[part] = rows[numbers[part]]
        release(rows)
    return found


def changed_rows(rows: Tensor, before: Tensor) -> Tensor:
    """Tell which rows are not what they were: (N, ...) twice -> (N,) bool."""
    changed = torch.zeros(len(rows), dtype=torch.bool)
    for part in parts_of(rows):
        changed[part] = (rows[part] != before[part]).flatten(1).any(1)
        release(before)
    return changed


def parts_of(rows: Tensor, at_once: int | None = None) -> Iterator[slice]:
    """Cut (N, ...) rows into parts, each released before the next is given.

    Args:
        rows: to be looked at.
        at_once: so many of them; None takes what can be held in memory several times over.
    """
    for part in cut(len(rows), at_once or max(1, _BYTES_AT_ONCE // max(1, rows.shape[1:].numel() * rows.itemsize))):
        yield part
        release(rows)


def cut(count: int, at_once: int) -> list[slice]:
    """Cut so many rows into parts of `at_once`, the last one smaller."""
    return [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]


def bytes_of(tensor: Tensor) -> Iterator[memoryview]:
    """Give the bytes of a tensor, piece by piece, to be hashed."""
    pieces = (tensor[part] for part in parts_of(tensor)) if tensor.ndim == 4 else [tensor]
    for piece in pieces:
        yield piece.cpu().contiguous().numpy().data


def release(rows: object) -> None:
    """Give back the memory of rows in a file, which are read from it again when needed; all else stays as it is."""
    mapping = _mapping_of(rows) if isinstance(rows, Tensor) else None
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def is_in_file(rows: Tensor) -> bool:
    """Tell whether rows, or all that they are a view of, are in a file."""
    return _mapping_of(rows) is not None


def folder_of(rows: Tensor) -> Path | None:
    """Return the folder of the file that rows are in, for further ones; None is that for temporary files."""
    mapping = _mapping_of(rows)
    return None if mapping is None else mapping.folder


def _mapping_of(rows: Tensor) -> _Mapping | None:
    return _MAPPINGS.get(rows.untyped_storage().data_ptr())


@contextmanager
def _temporary_file(folder: Path | None) -> Iterator[IO[bytes]]:
    """Open a file without a name, and say what to do where there is no room for it."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            yield file
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"Expected room for a large set of images in {folder or gettempdir()}, but it is full. Make room there"
            + ("" if folder else ", or name another folder in TMPDIR"),
        ) from error


def _mapped(file: IO[bytes], shape: Sequence[int], dtype: torch.dtype, folder: Path | None) -> Tensor:
    mapping = _Mapping(file.fileno(), math.prod(shape) * dtype.itemsize)
    mapping.folder = folder
    rows = torch.frombuffer(mapping, dtype=dtype).view(*shape)
    _MAPPINGS[rows.data_ptr()] = mapping
    return rows
