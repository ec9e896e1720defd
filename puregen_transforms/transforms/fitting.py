"""The energy threshold of a whole data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor


def batches_of(dataset: Any, size: int) -> Iterator[list[Any]]:
    """Yield the samples of a data set in lists of up to `size`; of a tensor or an array, one slice each."""
    if isinstance(dataset, (Tensor, np.ndarray)):
        for start in range(0, len(dataset), size):
            yield [dataset[start : start + size]]
        return
    # torch's map-style data sets promise only __len__ and __getitem__.
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not hasattr(dataset, "__iter__")
    samples = (dataset[index] for index in range(len(dataset))) if indexed else iter(dataset)
    while batch := list(islice(samples, size)):
        yield batch


def threshold_of(energies: Tensor, fraction: float) -> float:
    """Compute the energy that the given share of (N,) energies reaches.

    It lies midway between two neighbors, so that rounding in another batch moves no image across.
    """
    ordered = energies.double().sort(descending=True).values
    count = max(1, round(fraction * len(ordered)))
    if count == len(ordered):
        return float(ordered[-1]) - 1.0
    return float((ordered[count - 1] + ordered[count]) / 2)
