"""Torch map-style data sets to clean."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
from torch.utils.data import Subset

from puregen_transforms.cleaning.subjects import Subject
from puregen_transforms.data.images import CONVERTED, as_rgb
from puregen_transforms.data.pictures import cropped_to
from puregen_transforms.data.sample_transforms import transforms_of
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage
from puregen_transforms.whole_sets.torch_sets import PurifiedDataset, TorchCopy, TorchSplit
from puregen_transforms.whole_sets.treatment import ALL_KEPT, Key, Treatment

SPLIT = "train"
"""The only split of a torch data set."""


class TorchImages(Sequence[Any]):
    """The images of a torch data set by row, before its transforms.

    Args:
        split: of the data set.
        size: in pixels, to which images in PIL's form are resized; None takes them as they are.
        convert: whether those of the modes `CONVERTED` are given out in RGB.
    """

    def __init__(self, split: TorchSplit, size: int | None = None, *, convert: bool = False) -> None:
        self._split = split
        self._size = size
        self._convert = convert

    def __len__(self) -> int:
        return self._split.rows

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        image = self._split.value(int(row), self._split.image_columns[0])
        if self._convert and isinstance(image, PIL.Image.Image) and image.mode in CONVERTED:
            image = as_rgb(image)
        return image if self._size is None else cropped_to(image, self._size)


@dataclass(frozen=True, kw_only=True)
class TorchSource:
    """A torch map-style data set.

    Args:
        dataset: as it was given, with its transforms.
        split: its samples as rows of a table.
        subject: what is searched.
        storage: of the images that are purified or converted.
    """

    dataset: Any
    split: TorchSplit
    subject: Subject
    storage: Storage = LOSSLESS

    @classmethod
    def of(
        cls,
        dataset: Any,
        *,
        column: str | int | None,
        label_column: str | int | None,
        size: int | None,
        storage: Storage = LOSSLESS,
    ) -> TorchSource:
        """Look at every sample.

        Raises:
            ValueError: samples that do not fit, several images in each, or a label that is not there.
        """
        split = TorchSplit(dataset, None if column is None else (column,), convert=storage.convert)
        if len(split.image_columns) > 1:
            raise ValueError(f"Expected one image in each sample, but got {split.image_columns}. Name one as `column`.")
        labels, names = split.labels(label_column)
        facts = {"source": type(dataset).__name__, "columns": ", ".join(split.layout.names)}
        images = TorchImages(split, size, convert=storage.convert)
        subject = Subject(images=images, labels=labels, class_names=names, facts=facts)
        return cls(dataset=dataset, split=split, subject=subject, storage=storage)

    @property
    def subjects(self) -> Mapping[str, Subject]:
        """Take all samples."""
        return {SPLIT: self.subject}

    def keys(self, rows: Mapping[str, Mapping[int, str]]) -> Mapping[str, Mapping[Key, str]]:
        """Name samples by their numbers."""
        return {split: dict(reasons.items()) for split, reasons in rows.items()}

    def rows(self, treatment: Treatment) -> Mapping[str, list[int]]:
        """Give the numbers."""
        return {SPLIT: sorted(map(int, treatment.left_out.get(SPLIT, ())))}

    def copy(self, destination: Path, treatment: Treatment) -> TorchCopy:
        """Plan Parquet files that remember how the samples looked."""
        columns = self.split.image_columns
        return TorchCopy(tables={SPLIT: self.split}, columns=columns, treatment=treatment, storage=self.storage)

    def quarantine(self, destination: Path, treatment: Treatment) -> TorchCopy:
        """Plan Parquet files of the samples that are left out."""
        rows = self.select(self.rows(treatment))
        split = TorchSplit(rows, self.split.columns, convert=self.storage.convert)
        return TorchCopy(tables={SPLIT: split}, columns=split.image_columns, treatment=ALL_KEPT)

    def select(self, rows: Mapping[str, Collection[int]]) -> Subset[Any]:
        """Select samples, with their transforms."""
        return Subset(self.dataset, list(rows[SPLIT]))

    def open(self, destination: Path, treatment: Treatment) -> PurifiedDataset:
        """Open the copy with the transforms of its samples."""
        gone = treatment.left_out.get(SPLIT, {})
        kept = [row for row in range(len(self.dataset)) if row not in gone]
        return PurifiedDataset(destination, **transforms_of(Subset(self.dataset, kept)))
