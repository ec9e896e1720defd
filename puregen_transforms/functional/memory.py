"""Say what becomes of memory that was freed."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

_LARGE = 2**21
"""Pixels beyond which an image itself fills much of the memory."""

_LEAVES_MUCH = 2**19
"""Pixels from which on a network call takes seconds, and leaves so much free memory that it matters."""


@functools.cache
def keep_freed_memory() -> None:
    """Have the C library keep what a network call frees for the next, where it adapts (glibc).

    Otherwise it hands the top of its heap back whenever a few megabytes of it are free, and the system maps and
    clears the same pages again at every layer, a good part of the time. Freeing one large block raises that limit: to
    twice its size, here 64 MB, the largest glibc takes.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def give_back_freed_memory() -> None:
    """Hand memory that is free back to the system, where the C library can (glibc).

    It keeps what was freed for later, at most as much as was ever held at once; what comes later is of other sizes, and
    comes on top.
    """
    if (trim := _trim()) is not None:
        trim(0)


def make_room_beside(images: Tensor) -> None:
    """Hand memory that is free back to the system, before a call for images (..., H, W) of half a megapixel or more.

    What was left free fits other sizes, and is 200 MiB at 2048x2048 pixels. Each thread has its own.
    """
    if images.shape[-2:].numel() >= _LEAVES_MUCH and images.device.type == "cpu":
        give_back_freed_memory()


def largest_beside(images: Tensor, pixels: int) -> int:
    """Choose the pixels of a tile: `pixels`, or two thirds where the images (..., H, W) themselves are large."""
    return pixels * 2 // 3 if _is_large(images) else pixels


def _is_large(images: Tensor) -> bool:
    return images.shape[-2:].numel() > _LARGE


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # another C library
        return None
