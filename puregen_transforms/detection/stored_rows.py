"""Rows of numbers that may be too many for the memory: a tensor, or a file of which a part is read at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from puregen_transforms.data.mapped import copied_images, release
from puregen_transforms.purifier.batches import on_single_threads

LARGEST_IN_MEMORY = 2**28
"""Bytes of rows that are held in memory; more of them go to a file, so that memory does not grow with the set."""

_COPIED = 1024
"""Rows that are copied at once."""


class StoredRows(Sequence[Tensor]):
    """Rows of one shape in a temporary file, read like those of a tensor; nothing of them stays in memory.

    Args:
        shape: (N, ...).
        dtype: of the numbers.
        folder: where the file lies, without a name, so that it goes with the process; None is the system's choice.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, *, folder: Path | None = None) -> None:
        self.shape, self.dtype, self.folder = torch.Size(shape), dtype, folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._file: Any = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._file.truncate(self.shape.numel() * dtype.itemsize)
        self._lock = Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        """Read a row by its number, or several by a slice without steps, by numbers (n,) or by a mask (N,)."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._read(start, max(0, stop - start))
        if not isinstance(rows, Tensor):
            return self._read(range(len(self))[rows], 1)[0]
        numbers = (rows.nonzero().flatten() if rows.dtype == torch.bool else rows).tolist()
        found = torch.empty(len(numbers), *self.shape[1:], dtype=self.dtype)
        for place, number in enumerate(numbers):
            self._fill(found[place : place + 1], number)
        return found

    def __setitem__(self, rows: slice, values: Tensor) -> None:
        """Write rows, given by a slice without steps."""
        start, stop, _ = rows.indices(len(self))
        if values.shape != (stop - start, *self.shape[1:]) or values.dtype != self.dtype:
            raise ValueError(
                f"Expected {stop - start} rows of {tuple(self.shape[1:])} {self.dtype}, but got "
                f"{tuple(values.shape)} of {values.dtype}."
            )
        left = _bytes_of(values.contiguous())
        with self._lock:
            self._file.seek(start * self._row_bytes)
            while left:
                left = left[self._file.write(left) :]

    def flatten(self, start: int) -> StoredRows:
        """Join the dimensions of a row into one, as the tensor's method does; the file is the same."""
        found = object.__new__(StoredRows)
        found.__dict__ = {**self.__dict__, "shape": torch.Size((*self.shape[:start], self.shape[start:].numel()))}
        return found

    @property
    def _row_bytes(self) -> int:
        return self.shape[1:].numel() * self.dtype.itemsize

    def _read(self, start: int, count: int) -> Tensor:
        found = torch.empty(count, *self.shape[1:], dtype=self.dtype)
        self._fill(found, start)
        return found

    def _fill(self, rows: Tensor, start: int) -> None:
        left = _bytes_of(rows)
        with self._lock:
            self._file.seek(start * self._row_bytes)
            while left:
                left = left[self._file.readinto(left) :]


def _bytes_of(rows: Tensor) -> memoryview:
    return rows.view(-1).view(torch.uint8).numpy().data


Rows = Tensor | StoredRows
"""(N, ...) numbers, in memory or in a file."""


def make_rows(shape: Sequence[int], dtype: torch.dtype, *, folder: Path | None = None) -> Rows:
    """Make room for rows: in memory, or in a file if they are more than `LARGEST_IN_MEMORY`."""
    if torch.Size(shape).numel() * dtype.itemsize <= LARGEST_IN_MEMORY:
        return torch.empty(*shape, dtype=dtype)
    return StoredRows(shape, dtype, folder=folder)


def folder_of(rows: Rows) -> Path | None:
    """Return the folder of the file, for further ones."""
    return rows.folder if isinstance(rows, StoredRows) else None


def choose_rows(rows: Rows, numbers: Tensor) -> Rows:
    """Copy rows, given by their numbers (n,), in that order; from a file into another."""
    if isinstance(rows, Tensor):
        return copied_images(rows, numbers) if rows.ndim == 4 and rows.dtype == torch.uint8 else rows[numbers]
    found = StoredRows((len(numbers), *rows.shape[1:]), rows.dtype, folder=rows.folder)
    for part in parts_of(len(numbers), _COPIED):
        found[part] = rows[numbers[part]]
    return found


def parts_of(count: int, size: int) -> list[slice]:
    """Cut `count` rows into parts of `size`, the last one smaller."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def join_parts(function: Callable[[Tensor], Tensor], rows: Rows, size: int) -> Tensor:
    """Join what a function makes of rows, `size` of them at a time: (n, ...) -> (n, ...).

    Each part is on one thread; see `on_single_threads`. What is made is copied to its place at once: if parts were
    kept, they would lie in the memory between what the function frees, and keep the C library from using that again.
    """
    first, *others = parts_of(len(rows), size) or [slice(0, 0)]
    made = on_single_threads(lambda part: function(rows[part]), [first])[0]
    found = torch.empty(len(rows), *made.shape[1:], dtype=made.dtype)
    found[first] = made

    def fill(part: slice) -> None:
        found[part] = function(rows[part])

    on_single_threads(fill, others)
    if isinstance(rows, Tensor):
        release(rows)
    return found
