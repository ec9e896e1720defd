"""Find the images of any sample, and put purified ones back where they were.

A sample is whatever a pipeline hands on: an image, a batch, or images among labels inside tuples,
lists and mappings. Everything that is not an image comes back as the same object.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor
from torchvision import tv_tensors

from puregen_transforms.transforms.formats import OpenImage, has_image_shape, open_image

_DEEPEST = 64
"""Containers within each other; a list that holds itself has no end of them."""

SlotPath = tuple[str | int, ...]
Columns = tuple[str | int, ...]


@dataclass(frozen=True)
class Slot:
    """A place of a sample that holds an image or several.

    Args:
        path: of keys and positions, to it.
        value: what is there.
        rank: how sure it is: 0 a tv_tensors.Image, 1 a PIL image, 2 a plain tensor or array of image shape.
    """

    path: SlotPath
    value: Any
    rank: int

    @property
    def name(self) -> str:
        """The path as a user would write it."""
        return "".join(f"[{key!r}]" for key in self.path) or "the sample itself"


@dataclass(frozen=True)
class FoundImages:
    """The images of a sample.

    Args:
        images: in the order they stand in; each may be a batch.
        put_back: purified uint8 batches, one per image -> the sample with them in place.
    """

    images: list[OpenImage]
    put_back: Callable[[list[Tensor]], Any]


def find_images(sample: Any, *, columns: Columns | None = None) -> FoundImages:
    """Open the images of a sample.

    In a lazy row or batch of `datasets.map`, columns without images are never decoded.

    Args:
        sample: any nesting of tuples, lists and mappings, `datasets`' lazy batches among them.
        columns: mapping keys or positions that hold images; None finds them.

    Raises:
        ValueError: no image, several where it is not clear which are meant, one that cannot be
            opened, or a column that is not there.
    """
    slots = _lazy_slots(sample, columns) if is_lazy(sample) else choose_slots(find_slots(sample), sample, columns)
    opened = [_open_slot(slot) for slot in slots]

    def put_back(purified: list[Tensor]) -> Any:
        remaining, result = iter(purified), sample
        for slot, images in zip(slots, opened, strict=True):
            closed = [None if image is None else image.close(next(remaining)) for image in images]
            # A list also for an array of objects, which datasets could not write.
            result = _put(result, slot.path, closed if _holds_several(slot.value) else closed[0])
        return result

    return FoundImages([image for images in opened for image in images if image is not None], put_back)


def is_lazy(sample: Any) -> bool:
    """Tell whether this is the `LazyRow` or `LazyBatch` that `datasets.map` passes."""
    return isinstance(sample, Mapping) and hasattr(sample, "pa_table") and hasattr(sample, "formatter")


def rank_in(inputs: tuple[Any, ...]) -> int | None:
    """Find the rank that `datasets.map` passes with `with_rank`, None without.

    After a batch come its row indices, as a list, and the rank; after a row, its index and the rank. So a single
    number after a row may be either, and is not taken.
    """
    if not is_lazy(inputs[0]):
        return None
    certain = len(inputs) == 3 or (len(inputs) == 2 and _is_batch(inputs[0]))
    return inputs[-1] if certain and isinstance(inputs[-1], int) else None


def _is_batch(lazy: Any) -> bool:
    from datasets.formatting.formatting import LazyBatch  # imported already: `lazy` is of datasets

    return isinstance(lazy, LazyBatch)


def find_slots(sample: Any, path: SlotPath = ()) -> list[Slot]:
    """Find every place that may be an image.

    Raises:
        ValueError: containers within containers without end, or nearly so.
    """
    if len(path) > _DEEPEST:
        raise ValueError(f"Expected a sample of at most {_DEEPEST} containers in each other, but got more.")
    rank = _rank(sample)
    if rank is not None:
        return [Slot(path, sample, rank)]
    if isinstance(sample, Mapping):
        return [slot for key in sample for slot in find_slots(sample[key], (*path, key))]
    if isinstance(sample, (list, tuple)):
        return [slot for index, item in enumerate(sample) for slot in find_slots(item, (*path, index))]
    return []


def choose_slots(slots: list[Slot], sample: Any, columns: Columns | None) -> list[Slot]:
    """Choose the slots to purify: those named, or those that are beyond doubt; none in a batch of empty cells."""
    if columns is not None:
        for column in columns:
            if not any(column in slot.path for slot in slots) and column not in _empty_columns(sample):
                raise ValueError(
                    f"Expected an image at column {column!r}, but found images only at "
                    f"{[slot.name for slot in slots] or 'no place'} of {_describe(sample)}."
                )
        return [slot for slot in slots if any(column in slot.path for column in columns)]
    if not slots and _empty_columns(sample):
        return []
    if not slots:
        raise ValueError(
            f"PureGen found no image in {_describe(sample)}. Expected a PIL image, a tv_tensors.Image, a tensor "
            "(..., C, H, W) or a uint8 array (..., H, W, C), gray ones with C of 1; if one is there, name it with "
            "`columns=`."
        )
    best = min(slot.rank for slot in slots)
    chosen = [slot for slot in slots if slot.rank == best]
    if len(chosen) > 1 and best > 0:
        raise ValueError(
            f"PureGen found several images, at {', '.join(slot.name for slot in chosen)}, and cannot tell which are "
            "inputs and which are labels. Name the ones to purify with `columns=`, for example "
            f"PureGen(columns={[chosen[0].path[-1]]!r})."
        )
    return chosen


def _empty_columns(sample: Any) -> list[Any]:
    """Name the columns of a batch that hold nothing: no rows, or rows without an image."""
    if not isinstance(sample, Mapping):
        return []
    return [name for name, value in sample.items() if _holds_several(value) and all(item is None for item in value)]


def _rank(value: Any) -> int | None:
    if isinstance(value, tv_tensors.Image):
        return 0
    if isinstance(value, tv_tensors.TVTensor):  # masks, boxes, key points, videos
        return None
    if isinstance(value, PIL.Image.Image):
        return 1
    if has_image_shape(value):
        return 2
    if isinstance(value, list):
        return _rank_of_list(value)
    if _holds_several(value):
        return _rank_of_objects(value)
    return None


def _rank_of_list(values: list[Any]) -> int | None:
    """Rank a list: single images of one kind are a batch; anything else is a container."""
    present = [value for value in values if value is not None]
    if not present or any(isinstance(value, (list, tuple, Mapping)) for value in present):
        return None
    kinds = {(_rank(value), _channels(value)) for value in present}
    rank = next(iter(kinds))[0]
    if len(kinds) > 1 or rank is None:
        return None
    return rank if all(isinstance(value, PIL.Image.Image) or value.ndim == 3 for value in present) else None


def _rank_of_objects(values: np.ndarray) -> int | None:
    """Rank an array of objects: single images are a batch, whatever their sizes and channels."""
    present = [value for value in values if value is not None]
    return 2 if present and all(has_image_shape(value) and value.ndim == 3 for value in present) else None


def _channels(value: Any) -> int:
    if isinstance(value, Tensor) and value.ndim >= 3:
        return value.shape[-3]
    return value.shape[-1] if isinstance(value, np.ndarray) and value.ndim else 0


def _open_slot(slot: Slot) -> list[OpenImage | None]:
    several = _holds_several(slot.value)
    opened: list[OpenImage | None] = []
    for index, value in enumerate(slot.value if several else [slot.value]):
        try:
            opened.append(None if value is None else open_image(value))
        except ValueError as error:
            where = slot.name + (f", item {index}" if several else "")
            raise ValueError(f"{error} (image at {where})") from error
    return opened


def _holds_several(value: Any) -> bool:
    """Tell whether this is a list, or the array of objects that is a column of `datasets` in numpy format."""
    return isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1)


def _put(sample: Any, path: SlotPath, value: Any) -> Any:
    """Copy the containers along `path`, with `value` at its end."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(sample, tuple):
        items: list[Any] = [*sample]
        items[key] = _put(items[key], rest, value)  # type: ignore[index]
        return type(sample)(*items) if hasattr(sample, "_fields") else tuple(items)
    changed = copy.copy(sample)
    changed[key] = _put(sample[key], rest, value)
    return changed


def _lazy_slots(batch: Any, columns: Columns | None) -> list[Slot]:
    return [Slot((name,), batch[name], 1) for name in _lazy_image_columns(batch, columns)]


def _lazy_image_columns(batch: Any, columns: Columns | None) -> Sequence[str]:
    from datasets import Image

    features = batch.formatter.features or {}
    images = [name for name in batch if isinstance(features.get(name), Image)]
    if columns is not None:
        for column in columns:
            if column not in images:
                raise ValueError(f"Expected `columns` among the image columns {images}, but got {column!r}.")
        return [name for name in images if name in columns]
    if len(images) != 1:
        raise ValueError(
            f"Expected one column with an Image feature, but found {images or 'none'} among {list(batch)}. "
            + ("Name the ones to purify with `columns=`." if images else "Cast it with ds.cast_column(name, Image()).")
        )
    return images


def _describe(sample: Any, depth: int = 0) -> str:
    if isinstance(sample, Mapping):
        return "{" + ", ".join(f"{key!r}: {_describe(sample[key], depth + 1)}" for key in list(sample)[:8]) + "}"
    if isinstance(sample, (list, tuple)) and depth < 3:
        shown = ", ".join(_describe(item, depth + 1) for item in sample[:4])
        return f"{type(sample).__name__}({shown}{', ...' if len(sample) > 4 else ''})"
    if isinstance(sample, (Tensor, np.ndarray)):
        return f"{type(sample).__name__} {sample.dtype} {tuple(sample.shape)}"
    return type(sample).__name__
