"""Torch map-style data sets as tables, and purified tables as torch data sets again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Image, Value
from torch.utils.data import Dataset as TorchDataset

from puregen_transforms._html import card, pictures
from puregen_transforms.data.images import look_at
from puregen_transforms.data.labels import class_indices
from puregen_transforms.data.sample_transforms import leaves_of, without_transforms
from puregen_transforms.data.sources import split_of
from puregen_transforms.whole_sets.manifest import manifest_path, read_settings
from puregen_transforms.whole_sets.sample_layout import Layout, features_of, is_image_form, values_of
from puregen_transforms.whole_sets.survey import is_folder_of_classes, survey
from puregen_transforms.whole_sets.table_copy import TableCopy

_SHOWN = 8
"""Images shown in a notebook."""


class TorchSplit:
    """A torch map-style data set, read as a table.

    Its images are taken before its own transforms, which belong after the purification.

    Args:
        dataset: with `__len__` and `__getitem__`.
        columns: positions or keys of the images in a sample, where that is ambiguous.
        skip: whether images that cannot be purified are left out later, rather than refused at once.
        convert: whether those of the modes `CONVERTED` are to become RGB.

    Raises:
        ValueError: no rows, no image in a sample, parts that cannot be stored in a table, or images that are others
            each time they are read.
    """

    def __init__(
        self,
        dataset: Any,
        columns: tuple[str | int, ...] | None = None,
        *,
        skip: bool = False,
        convert: bool = False,
    ) -> None:
        self._dataset = without_transforms(dataset)
        self.columns = columns
        self.layout, is_class = survey(self._dataset, columns, skip=skip, convert=convert)
        classes = _classes(dataset)
        self.class_names = tuple(classes) if classes and is_class(len(classes)) else ()
        self.features = features_of(self.layout, self.class_names or None)

    @property
    def image_columns(self) -> list[str]:
        """Columns with images to purify."""
        return list(self.layout.inputs)

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
        return self.layout.stored(self._sample(index), index)

    def _sample(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except (OSError, SyntaxError) as error:  # Pillow reports broken files by either.
            raise OSError(f"Expected an image in sample {index}, but got: {error}") from error

    def value(self, index: int, name: str) -> Any:
        """Read one part of a sample as the data set gives it."""
        values = values_of(self._sample(index), self.layout.kind, self.layout.names, index)
        return values[self.layout.names.index(name)]

    def labels(self, column: str | int | None = None) -> tuple[list[int] | None, tuple[str, ...]]:
        """Read the class of each sample, -1 where it has none, and the names of the classes.

        Args:
            column: key or position of the label in a sample; None takes the part that is made of whole numbers.

        Returns:
            None, and no names, where there is no such part.

        Raises:
            ValueError: the column is not there, or holds no classes.
        """
        names, kind = self.layout.names, self.layout.kind
        name = names[column] if isinstance(column, int) and kind != "dict" and column < len(names) else column
        if name is None and "label" in names and "label" not in self.layout.inputs:
            name = "label"
        if name is None:
            return None, ()
        if name not in names or name in self.layout.inputs:
            raise ValueError(f"Expected a label out of {list(names)}, but got {column!r}.")
        leaves, places = leaves_of(self._dataset)
        if all(map(is_folder_of_classes, leaves)):
            found = [leaves[leaf].targets[row] for leaf, row in places.tolist()]
        else:
            found = [self.value(row, str(name)) for row in range(self.rows)]
        present, class_names = class_indices([value for value in found if value is not None], self.class_names)
        numbers = iter(present.tolist())
        return [-1 if value is None else next(numbers) for value in found], class_names


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
        by_row: of each row, in place of the three, where joined data sets have different ones.

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
        by_row: Callable[[int], Mapping[str, Any]] | None = None,
    ) -> None:
        source = read_settings(manifest_path(Path(folder)))["source"]
        if "sample" not in source:
            raise ValueError(
                f"Expected a purified copy of a torch data set, but {folder} is one of another kind. "
                f'Open it with datasets.load_dataset("{folder}").'
            )
        self._layout = Layout.from_dict(source["sample"])
        rows = split_of(str(folder), "train")
        images = dict(zip(self._layout.names, map(is_image_form, self._layout.forms), strict=True))
        if set(images) != set(rows.features) or any(
            isinstance(rows.features[name], Image) != is_image for name, is_image in images.items()
        ):
            raise ValueError(f"Expected the columns {list(images)} in {folder}, but found {list(rows.features)}.")
        for name in (name for name, is_image in images.items() if is_image):
            rows = rows.cast_column(name, Image(decode=False))
        self._rows = rows
        self.transform = transform
        self.target_transform = target_transform
        self.transforms = transforms
        self.by_row = by_row

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        row = range(len(self))[index]
        stored = self._rows[row]
        sample = self._layout.sample([stored[name] for name in self._layout.names])
        return self._transformed(sample, self._own() if self.by_row is None else self.by_row(row))

    def _repr_html_(self) -> str:
        """Show the first images in a notebook, as they are stored."""
        classes = getattr(self, "classes", None)
        column = self._layout.inputs[0]
        first = range(min(_SHOWN, len(self)))
        drawn = [(look_at(self._rows[row][column]["bytes"]), self._word(row)) for row in first]
        about = f"PurifiedDataset: {len(self):,} samples" + (f", {len(classes)} classes" if classes else "")
        return card(about, pictures(drawn))

    def _word(self, row: int) -> object:
        """Name the label of a sample, or its row."""
        if self._label is None:
            return f"row {row}"
        kind, label = self._rows.features[self._label], self._rows[row][self._label]
        return kind.int2str(label) if isinstance(kind, ClassLabel) and label is not None and label >= 0 else label

    def without_transforms(self) -> PurifiedDataset:
        """Copy the data set without its transforms: samples are those that are stored."""
        twin = copy.copy(self)
        twin.transform = twin.target_transform = twin.transforms = twin.by_row = None
        return twin

    def _own(self) -> Mapping[str, Any]:
        return {
            "transform": self.transform,
            "target_transform": self.target_transform,
            "transforms": self.transforms,
        }

    def _transformed(self, sample: Any, transforms: Mapping[str, Any]) -> Any:
        whole, of_image, of_label = map(transforms.get, ("transforms", "transform", "target_transform"))
        if whole is not None:
            return whole(*sample) if isinstance(sample, tuple) else whole(sample)
        if self._layout.kind == "image":
            return sample if of_image is None else of_image(sample)
        for place, name in zip(self._places, self._layout.names, strict=True):
            change = of_image if name in self._layout.inputs else of_label if place == self._label_place else None
            if change is not None:
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
        """The part that a `target_transform` is for: the label, or what comes beside the image in a pair."""
        names = self._layout.names
        if self._label is None and len(names) == 2 and len(self._layout.inputs) == 1:
            return next(
                place for place, name in zip(self._places, names, strict=True) if name not in self._layout.inputs
            )
        return None if self._label is None else self._places[names.index(self._label)]

    def __getattr__(self, name: str) -> Any:
        # Only what the source would have too.
        if name == "targets" and self._label is not None:
            return list(self._rows[self._label])
        if name in ("classes", "class_to_idx") and self._label is not None:
            kind = self._rows.features[self._label]
            if isinstance(kind, ClassLabel):
                return list(kind.names) if name == "classes" else {word: kind.str2int(word) for word in kind.names}
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _classes(dataset: Any) -> Sequence[str] | None:
    """Name the classes, where all data sets that are joined have the same."""
    first, *others = [getattr(leaf, "classes", None) for leaf in leaves_of(dataset)[0]]
    if not isinstance(first, (list, tuple)) or any(list(one or ()) != list(first) for one in others):
        return None
    names = [str(name) for name in first]
    return names if len(set(names)) == len(names) else None


def _with(sample: Any, place: Any, change: Callable[[Any], Any]) -> Any:
    values = list(sample) if isinstance(sample, tuple) else copy.copy(sample)
    values[place] = change(values[place])
    return tuple(values) if isinstance(sample, tuple) else values
