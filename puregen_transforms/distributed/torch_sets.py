"""Torch map-style data sets as tables, and purified tables as torch data sets again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Features, Image, List, Value
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset
from torchvision.transforms.v2 import functional as F

from puregen_transforms.data.sample_transforms import without_transforms
from puregen_transforms.data.sources import split_of
from puregen_transforms.data.tables import TableCopy
from puregen_transforms.distributed.manifest import manifest_path, read_settings
from puregen_transforms.functional.images import check_unit_range, rounded
from puregen_transforms.transforms.samples import choose_slots, find_slots

IMAGE_FORMS = ("pil", "array", "uint8 image", "float image")
"""PIL images, uint8 arrays (H, W, C), and tensors (C, H, W) of uint8 or of floats in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns that a sample is made of, and the form of each.

    Args:
        kind: "tuple", "list", "dict", or "image" for an image alone.
        names: columns, in the sample's order; of a dict, its keys.
        forms: of each column: one of `IMAGE_FORMS`, the dtype of another tensor, or None for Python values.
    """

    kind: str
    names: tuple[str, ...]
    forms: tuple[str | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return {"kind": self.kind, "names": list(self.names), "forms": list(self.forms)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Layout:
        """Rebuild from `to_dict`."""
        return cls(kind=values["kind"], names=tuple(values["names"]), forms=tuple(values["forms"]))

    def values(self, sample: Any) -> list[Any]:
        """Take a sample apart, into one value for each column."""
        if self.kind == "image":
            return [sample]
        if isinstance(sample, Mapping):
            return [sample[name] for name in self.names]
        return list(sample)

    def sample(self, values: Sequence[Any]) -> Any:
        """Put a sample together from one value for each column."""
        if self.kind == "image":
            return values[0]
        if self.kind == "dict":
            return dict(zip(self.names, values, strict=True))
        return list(values) if self.kind == "list" else tuple(values)


class TorchSplit:
    """A torch map-style data set, read as a table.

    Its images are taken before its own transforms, which belong after the purification.

    Args:
        dataset: with `__len__` and `__getitem__`.
        columns: positions or keys of the images in a sample, where that is ambiguous.

    Raises:
        ValueError: no rows, no image in a sample, or parts that cannot be stored in a table.
    """

    def __init__(self, dataset: Any, columns: tuple[str | int, ...] | None = None) -> None:
        self._dataset = without_transforms(dataset)
        if not len(self._dataset):
            raise ValueError("Expected at least one row, but the data set is empty.")
        first = self._dataset[0]
        self.layout = _layout_of(first, columns)
        self.features = _features_of(dataset, self.layout, self.layout.values(first))

    @property
    def image_columns(self) -> list[str]:
        """Columns with images to purify."""
        return [name for name, form in zip(self.layout.names, self.layout.forms, strict=True) if form in IMAGE_FORMS]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self._dataset)

    def batches(self, size: int, start: int, stop: int) -> Iterator[pa.Table]:
        """Read the samples from `start` to before `stop` as tables of `size` rows and a rest."""
        for first in range(start, stop, size):
            rows = [self._row(index) for index in range(first, min(first + size, stop))]
            cells = {name: [row[place] for row in rows] for place, name in enumerate(self.layout.names)}
            yield pa.table(self.features.encode_batch(cells), schema=self.features.arrow_schema)

    def _row(self, index: int) -> list[Any]:
        try:
            values = self.layout.values(self._dataset[index])
        except (OSError, SyntaxError) as error:  # Pillow reports broken files by either.
            raise OSError(f"Expected an image in sample {index}, but got: {error}") from error
        if len(values) != len(self.layout.names):
            raise ValueError(
                f"Expected samples of {len(self.layout.names)} parts like the first, but sample {index} has "
                f"{len(values)}."
            )
        stored = zip(values, self.layout.forms, strict=True)
        return [_stored_image(value, index) if form in IMAGE_FORMS else _plain(value) for value, form in stored]


@dataclass(frozen=True, kw_only=True)
class TorchCopy(TableCopy):
    """A copy into Parquet files that remember how the samples looked."""

    def describe(self) -> dict[str, Any]:
        """Describe the source as a table, and how its samples looked."""
        (split,) = self.tables.values()
        assert isinstance(split, TorchSplit)
        return {**super().describe(), "sample": split.layout.to_dict()}


class PurifiedDataset(TorchDataset[Any]):
    """A purified copy of a torch data set, with the samples and the interface of its source.

    Args:
        folder: where `purify_dataset` has written it.
        transform: of the image; see torchvision.
        target_transform: of what follows the image.
        transforms: of a whole sample, in place of the two.

    Attributes:
        classes: names of the classes, where the labels have them.
        class_to_idx: their numbers.
        targets: the labels, where there is one for each image.

    Raises:
        ValueError: the folder holds no copy of a torch data set.
        OSError: it cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        transforms: Callable[..., Any] | None = None,
    ) -> None:
        source = read_settings(manifest_path(Path(folder)))["source"]
        if "sample" not in source:
            raise ValueError(
                f"Expected a purified copy of a torch data set, but {folder} is one of another kind. "
                f'Open it with datasets.load_dataset("{folder}").'
            )
        self._layout = Layout.from_dict(source["sample"])
        self._rows = split_of(str(folder), "train")
        self.transform = transform
        self.target_transform = target_transform
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        row = self._rows[int(index)]
        stored = ((row[name], form) for name, form in zip(self._layout.names, self._layout.forms, strict=True))
        return self._transformed(self._layout.sample([_restored(value, form) for value, form in stored]))

    def _transformed(self, sample: Any) -> Any:
        if self.transforms is not None:
            return self.transforms(*sample) if isinstance(sample, tuple) else self.transforms(sample)
        if self._layout.kind == "image":
            return sample if self.transform is None else self.transform(sample)
        for place, form in zip(self._places, self._layout.forms, strict=True):
            is_image = form in IMAGE_FORMS
            change = self.transform if is_image else self.target_transform
            if change is not None and (is_image or place == self._label_place):
                sample = _with(sample, place, change)
        return sample

    @property
    def _places(self) -> list[Any]:
        return list(self._layout.names) if self._layout.kind == "dict" else list(range(len(self._layout.names)))

    @cached_property
    def _label(self) -> str | None:
        """The column of labels, if just one column is made of whole numbers."""
        kinds = {name: self._rows.features[name] for name in self._layout.names}
        found = [name for name, kind in kinds.items() if isinstance(kind, ClassLabel)]
        found = found or [name for name, kind in kinds.items() if kind == Value("int64")]
        return found[0] if len(found) == 1 else None

    @property
    def _label_place(self) -> Any:
        return None if self._label is None else self._places[self._layout.names.index(self._label)]

    def __getattr__(self, name: str) -> Any:
        # Only what the source would have too.
        if name == "targets" and self._label is not None:
            return list(self._rows[self._label])
        if name in ("classes", "class_to_idx") and self._label is not None:
            kind = self._rows.features[self._label]
            if isinstance(kind, ClassLabel):
                return list(kind.names) if name == "classes" else {word: kind.str2int(word) for word in kind.names}
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _layout_of(sample: Any, columns: tuple[str | int, ...] | None) -> Layout:
    slots = choose_slots(find_slots(sample), sample, columns)
    if slots[0].path == ():
        return Layout(kind="image", names=("image",), forms=(_form(sample),))
    if any(len(slot.path) > 1 for slot in slots) or not isinstance(sample, (tuple, list, Mapping)):
        raise ValueError(
            "Expected samples that are an image, or a flat tuple, list or dict with images, but got an image at "
            f"{slots[0].name}. Give out flat samples, or use `PureGen` as a transform."
        )
    places = {slot.path[0] for slot in slots}
    if isinstance(sample, Mapping):
        names = tuple(map(str, sample))
        forms = tuple(_form(value) if key in places else _other_form(value) for key, value in sample.items())
        return Layout(kind="dict", names=names, forms=forms)
    forms = tuple(_form(value) if place in places else _other_form(value) for place, value in enumerate(sample))
    return Layout(kind="list" if isinstance(sample, list) else "tuple", names=_names(sample, forms), forms=forms)


def _names(sample: Sequence[Any], forms: Sequence[str | None]) -> tuple[str, ...]:
    """Name the columns of a sample: image and label where these are clear, else with numbers."""
    words = []
    for value, form in zip(sample, forms, strict=True):
        is_label = isinstance(_plain(value), int) and not isinstance(value, bool)
        words.append("image" if form in IMAGE_FORMS else "label" if is_label else "field")
    return tuple(
        word if words.count(word) == 1 and word != "field" else f"{word}_{place}" for place, word in enumerate(words)
    )


def _form(value: Any) -> str:
    if isinstance(value, PILImage.Image):
        return "pil"
    if isinstance(value, np.ndarray):
        return "array"
    if isinstance(value, Tensor) and value.ndim == 3:
        return "uint8 image" if value.dtype == torch.uint8 else "float image"
    raise ValueError(
        f"Expected single images in a sample, but got {type(value).__name__} of shape {tuple(value.shape)}."
    )


def _other_form(value: Any) -> str | None:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else None


def _features_of(dataset: Any, layout: Layout, values: Sequence[Any]) -> Features:
    found = {}
    for name, form, value in zip(layout.names, layout.forms, values, strict=True):
        found[name] = Image() if form in IMAGE_FORMS else _feature(name, _plain(value), _classes(dataset))
    return Features(found)


def _classes(dataset: Any) -> list[str] | None:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else None


def _feature(name: str, value: Any, classes: list[str] | None) -> Any:
    if isinstance(value, bool):
        return Value("bool")
    if isinstance(value, int):
        named = name == "label" and classes is not None and len(set(classes)) == len(classes)
        return ClassLabel(names=classes) if named else Value("int64")
    if isinstance(value, float):
        return Value("float64")
    if isinstance(value, str):
        return Value("string")
    if isinstance(value, list) and value:
        return List(_feature("", value[0], None))
    raise ValueError(
        f"Expected samples of images, numbers, texts and lists of these, but got a {type(value).__name__} as {name!r}, "
        "which a table cannot hold. Give out only what can be stored."
    )


def _plain(value: Any) -> Any:
    """Turn tensors and arrays into numbers and lists."""
    return value.tolist() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value


def _stored_image(value: Any, index: int) -> dict[str, Any]:
    """Encode an image as PNG, without the work of compressing: it is decoded again at once."""
    image = value
    if isinstance(value, Tensor):
        try:
            if value.is_floating_point():
                check_unit_range(value)
            image = F.to_pil_image(rounded(value))
        except ValueError as error:
            raise ValueError(f"{error} (image of sample {index})") from error
    elif isinstance(value, np.ndarray):
        image = PILImage.fromarray(value.squeeze(-1) if value.shape[-1] == 1 else value)
    if not isinstance(image, PILImage.Image):
        raise ValueError(f"Expected an image in sample {index} as in the first, but got {type(value).__name__}.")
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=0)
    return {"bytes": buffer.getvalue(), "path": None}


def _restored(value: Any, form: str | None) -> Any:
    if form is None or form == "pil":
        return value
    if form not in IMAGE_FORMS:
        return torch.tensor(value, dtype=getattr(torch, form))
    image = value
    if form == "array":
        pixels = np.array(image)
        return pixels[..., None] if pixels.ndim == 2 else pixels
    pixels = F.pil_to_tensor(image)
    return pixels if form == "uint8 image" else F.to_dtype(pixels, torch.float32, scale=True)


def _with(sample: Any, place: Any, change: Callable[[Any], Any]) -> Any:
    values = list(sample) if isinstance(sample, tuple) else copy.copy(sample)
    values[place] = change(values[place])
    return tuple(values) if isinstance(sample, tuple) else values
