"""Labels as class indices, in whatever form they come."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

Labels = Sequence[Any] | np.ndarray | Tensor
"""One label for each image: whole numbers, which are class indices already, or words; in a list, a tensor, an array or
a column of a table."""


MOST_CLASSES = 2**18
"""Classes at most: data sets that name more are not known, and a large index would take memory for all below it."""


def class_indices(labels: Labels, class_names: Sequence[str] = ()) -> tuple[Tensor, tuple[str, ...]]:
    """Turn labels into class indices, and name the classes.

    Args:
        labels: see `Labels`.
        class_names: by index. Where there are none, words are numbered in the order of the alphabet, which is that of
            image folders.

    Returns:
        (N,) int64, and the names: `class_names`, or the words found; of numbers without names there are none.

    Raises:
        ValueError: a label that is neither, numbers and words mixed, or a word that is no class.
    """
    listed = labels
    if isinstance(labels, (Tensor, np.ndarray)):
        if labels.ndim != 1:
            raise ValueError(f"Expected one label for each image, but got labels of shape {tuple(labels.shape)}.")
        listed = labels.tolist()
    values: list[Any] = [value.item() if isinstance(value, Tensor) and value.ndim == 0 else value for value in listed]
    words = isinstance(values[0], str) if values else False
    for row, value in enumerate(values):
        if not _is_like(value, words=words):
            raise ValueError(_misfit(value, row, words=words))
    if not words:
        if values and (largest := max(map(int, values))) >= MOST_CLASSES:
            raise ValueError(
                f"Expected class indices, numbered from 0, below {MOST_CLASSES:,}, but got {largest:,}. If they are "
                "names, write them as words."
            )
        return torch.tensor([int(value) for value in values], dtype=torch.int64), tuple(class_names)
    names = tuple(map(str, class_names)) or tuple(sorted(set(map(str, values))))
    index_of = {name: index for index, name in enumerate(names)}
    if unknown := [value for value in values if value not in index_of]:
        raise ValueError(f"Expected labels out of the classes {', '.join(names)}, but got {str(unknown[0])!r}.")
    return torch.tensor([index_of[value] for value in values], dtype=torch.int64), names


def _is_like(value: Any, *, words: bool) -> bool:
    """Tell whether this is a word, or a whole number; a truth value is neither."""
    return isinstance(value, str) if words else isinstance(value, Integral) and not isinstance(value, bool)


def _misfit(value: Any, row: int, *, words: bool) -> str:
    if value is None:
        return (
            f"Expected a label for each image, but got None in row {row}. Leave images without a label out; where "
            "they may stay, number the classes and write -1 for none."
        )
    wanted = "words as labels, like the first," if words else "class indices (whole numbers) or words as labels,"
    return f"Expected {wanted} but got {value!r} ({type(value).__name__}) in row {row}."
