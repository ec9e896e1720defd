"""Compute on rows part by part, in constant memory and with the same result for any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from puregen_transforms.data.mapped import cut, release
from puregen_transforms.purifier.batches import on_single_threads

_NUMBERS_AT_ONCE = 2**19


def rows_at_once(rows: Tensor) -> int:
    """Count the rows of (N, ...) that are one piece of work: half a million numbers, on any number of threads."""
    return max(1, _NUMBERS_AT_ONCE // rows.shape[1:].numel())


def join_parts(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """Join what a function makes of rows, `size` of them at a time: (n, ...) -> (n, ...).

    Each part is on one thread; see `on_single_threads`. What is made is copied to its place at once: if parts were
    kept, they would lie in the memory between what the function frees, and keep the C library from using that again.
    """
    first, *others = cut(len(rows), size) or [slice(0, 0)]
    made = on_single_threads(lambda part: function(rows[part]), [first])[0]
    found = torch.empty(len(rows), *made.shape[1:], dtype=made.dtype)
    found[first] = made

    def fill(part: slice) -> None:
        found[part] = function(rows[part])
        release(rows)

    on_single_threads(fill, others)
    release(rows)
    return found


def fill_parts(found: Tensor, function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """Write what a function makes of rows to (n, ...) `found`, which may be in a file, as `join_parts` does."""

    def fill(part: slice) -> None:
        found[part] = function(rows[part])
        release(rows)
        release(found)

    on_single_threads(fill, cut(len(rows), size))
    return found
