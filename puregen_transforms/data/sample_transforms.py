"""The transforms that a torch data set applies to its own samples: off while images are changed, and on again after."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.data import Subset


def without_transforms(dataset: Any) -> Any:
    """Strip a data set of the transforms that it applies to its own samples; subsets included."""
    if isinstance(dataset, Subset):
        return Subset(without_transforms(dataset.dataset), dataset.indices)
    twin = dataset
    for name, neutral in (("transform", _as_it_is), ("target_transform", _as_it_is), ("transforms", _as_they_are)):
        if getattr(dataset, name, None) is not None:
            twin = copy.copy(dataset) if twin is dataset else twin
            setattr(twin, name, neutral)
    return twin


def transforms_of(dataset: Any) -> dict[str, Any]:
    """Return the transforms that `without_transforms` strips."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    separate = {name: getattr(dataset, name, None) for name in ("transform", "target_transform")}
    if any(separate.values()):
        return separate
    return {"transforms": getattr(dataset, "transforms", None)}


def _as_it_is(value: Any) -> Any:
    return value


def _as_they_are(*values: Any) -> Any:
    return values[0] if len(values) == 1 else values
