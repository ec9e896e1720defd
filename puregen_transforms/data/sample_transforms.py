"""The transforms that a torch data set applies to its own samples: off while images are changed, and on again after.

A wrapper of your own is looked through if it has a method `without_transforms()`, which returns a data set with the
same samples before its random transforms. Its attributes `transform`, `target_transform` and `transforms`, where it
has them, act on the samples of the result.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Subset

_NAMES = ("transform", "target_transform", "transforms")

_MOST_LOOKED_AT = 100
"""Members of a list in which data sets are looked for."""


def without_transforms(dataset: Any) -> Any:
    """Strip a data set of the transforms that it applies to its own samples, also inside the wrappers of torch.

    Raises:
        ValueError: another wrapper, of a data set with transforms.
    """
    if isinstance(dataset, Subset):
        return Subset(without_transforms(dataset.dataset), dataset.indices)
    if isinstance(dataset, ConcatDataset):
        return ConcatDataset([without_transforms(part) for part in dataset.datasets])
    if hasattr(type(dataset), "without_transforms"):
        return dataset.without_transforms()
    for inner in _wrapped(dataset):
        if any(_own_transforms(leaf) for leaf in leaves_of(inner)[0]):
            raise ValueError(
                f"Expected images before random transforms, but {type(dataset).__name__} wraps a "
                f"{type(inner).__name__} with transforms of its own, which cannot be taken off from outside. Give "
                f"{type(dataset).__name__} a method without_transforms() that returns it with the same samples before "
                "them, or purify the inner data set."
            )
    twin = dataset
    for name in _own_transforms(dataset):
        twin = copy.copy(dataset) if twin is dataset else twin
        setattr(twin, name, _as_they_are if name == "transforms" else _as_it_is)
    return twin


def leaves_of(dataset: Any) -> tuple[list[Any], np.ndarray]:
    """Find the data sets that torch's wrappers, `Subset` and `ConcatDataset`, are around.

    Returns:
        The data sets, and for each row of the outermost, which of them it is in, and its row there: (N, 2) int64.
    """
    if isinstance(dataset, Subset):
        leaves, places = leaves_of(dataset.dataset)
        return leaves, places[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        leaves, found = [], []
        for part in dataset.datasets:
            inner, places = leaves_of(part)
            found.append(places + np.array([len(leaves), 0]))
            leaves += inner
        return leaves, np.concatenate(found)
    rows = np.arange(len(dataset), dtype=np.int64)
    return [dataset], np.stack([np.zeros_like(rows), rows], axis=1)


@dataclass(frozen=True)
class RowTransforms:
    """The transforms of each row, where joined data sets have different ones.

    Args:
        transforms: of each data set.
        places: for each row, its data set, and its row there: (N, 2) int64.
    """

    transforms: tuple[Mapping[str, Any] | RowTransforms, ...]
    places: np.ndarray

    def __call__(self, row: int) -> Mapping[str, Any]:
        """Give the transforms of a row, by attribute."""
        leaf, inner = self.places[row]
        found = self.transforms[leaf]
        return found(int(inner)) if isinstance(found, RowTransforms) else found


def transforms_of(dataset: Any) -> dict[str, Any]:
    """Return the transforms that `without_transforms` strips, by attribute; as "by_row" where rows differ in them."""
    leaves, places = leaves_of(dataset)
    found = [getattr(leaf, "by_row", None) or _by_attribute(leaf) for leaf in leaves]
    first = found[0]
    if isinstance(first, dict) and all(one == first for one in found):
        return first
    return {"by_row": RowTransforms(tuple(found), places)}


def _by_attribute(dataset: Any) -> dict[str, Any]:
    own = _own_transforms(dataset)
    separate = {name: own.get(name) for name in ("transform", "target_transform")}
    return separate if any(separate.values()) else {"transforms": own.get("transforms")}


def _own_transforms(dataset: Any) -> dict[str, Any]:
    found = {name: getattr(dataset, name, None) for name in _NAMES}
    return {name: value for name, value in found.items() if value not in (None, _as_it_is, _as_they_are)}


def _wrapped(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that an object holds in its attributes, alone or in lists."""
    for value in vars(dataset).values() if hasattr(dataset, "__dict__") else ():
        members = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        for member in list(members)[:_MOST_LOOKED_AT]:
            is_sized = hasattr(member, "__getitem__") and hasattr(member, "__len__")
            if is_sized and hasattr(member, "__dict__") and not isinstance(member, type):
                yield member


def _as_it_is(value: Any) -> Any:
    return value


def _as_they_are(*values: Any) -> Any:
    return values[0] if len(values) == 1 else values
