"""Give back the memory of files that libraries have mapped, such as the tables of `datasets`."""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import cast

_MAPS = Path("/proc/self/maps")


def release_files(names: Collection[str]) -> None:
    """Give back the memory of files that libraries have mapped to read them, where the system lists these (Linux).

    They are read again when needed.

    Args:
        names: their absolute paths.
    """
    if _MAPS.exists() and (advise := _madvise()) is not None:
        for line in _MAPS.read_text().splitlines():
            where, may, *_, name = line.split(maxsplit=5)
            if name in names and may.startswith("r--"):  # nothing was written there that would be lost
                first, end = (int(number, 16) for number in where.split("-"))
                advise(first, end - first, mmap.MADV_DONTNEED)


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None
    with suppress(OSError, AttributeError):
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        return cast("Callable[[int, int, int], int]", advise)
    return None
