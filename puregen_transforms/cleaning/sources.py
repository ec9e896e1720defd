"""Data sets to clean: what is searched in each split, and how the images that are kept are copied."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset, DatasetDict, IterableDataset

from puregen_transforms.cleaning.subjects import Subject, images_by_row
from puregen_transforms.cleaning.torch_source import TorchSource
from puregen_transforms.data.cells import ANYWHERE, Places
from puregen_transforms.data.image_folder import ImageFolder
from puregen_transforms.data.labelled_source import ChosenSource, choose_columns
from puregen_transforms.data.local import local_path
from puregen_transforms.data.reserved_names import SKIPPED
from puregen_transforms.data.sources import (
    DatasetSplit,
    TableSplit,
    is_image_folder,
    open_source,
    open_tables,
    split_of,
    splits_of,
)
from puregen_transforms.data.split_names import choose_splits
from puregen_transforms.whole_sets.dataset_copy import DatasetCopy
from puregen_transforms.whole_sets.folder_copy import FolderCopy
from puregen_transforms.whole_sets.folder_plan import plan_folder
from puregen_transforms.whole_sets.plan import (
    check_apart,
    check_destination_of_images,
    check_destination_of_tables,
    table_copy,
)
from puregen_transforms.whole_sets.selection import select_images
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage
from puregen_transforms.whole_sets.summary import UnreadableImageError
from puregen_transforms.whole_sets.treatment import ALL_KEPT, FOLDER, Key, Treatment

Reasons = Mapping[str, Mapping[int, str]]
"""Flagged rows by split, each with the reason."""


class CleaningSource(Protocol):
    """A data set, opened to be cleaned."""

    @property
    def subjects(self) -> Mapping[str, Subject]:
        """The images that are searched, by split; splits without a row are left out."""

    def keys(self, rows: Reasons) -> Mapping[str, Mapping[Key, str]]:
        """Name rows as a `Treatment` does."""

    def rows(self, treatment: Treatment) -> Mapping[str, list[int]]:
        """List the numbers of the rows that a treatment leaves out, by split."""

    def copy(self, destination: Path, treatment: Treatment) -> DatasetCopy:
        """Plan the clean copy.

        Raises:
            ValueError: a destination that does not fit.
        """

    def quarantine(self, destination: Path, treatment: Treatment) -> DatasetCopy:
        """Plan a copy of what a treatment leaves out, as it is."""

    def select(self, rows: Mapping[str, Collection[int]]) -> Any:
        """Choose rows of the data set itself, by split; the result is of its kind."""

    def open(self, destination: Path, treatment: Treatment) -> Any:
        """Open the clean copy as a data set of the same kind."""


def open_to_clean(
    dataset: Any,
    *,
    column: str | int | None = None,
    label_column: str | int | None = None,
    splits: Collection[str] = (),
    size: int | None = None,
    follow_links: bool = False,
    storage: Storage = LOSSLESS,
) -> CleaningSource:
    """Open a data set to be cleaned; see `clean_dataset` for what it may be.

    Args:
        dataset: as it was given.
        column: see `clean_dataset`.
        label_column: see `clean_dataset`.
        splits: see `clean_dataset`.
        size: see `clean_dataset`.
        follow_links: see `open_source`.
        storage: of the images that are purified or converted; says, too, which are read for the search.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: columns or splits that are not there, or data of another kind.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            "Expected a data set whose rows can be read in any order, as its images are compared with each other, but "
            "got a stream. Write it to Parquet, and give that."
        )
    if isinstance(dataset, (str, os.PathLike, Dataset, DatasetDict)):
        words = [None if name is None else str(name) for name in (column, label_column)]
        return _opened(dataset, *words, splits=splits, size=size, follow_links=follow_links, storage=storage)
    if isinstance(dataset, Mapping) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(
            "Expected a torch map-style data set, a data set of `datasets`, or a path or name, but got "
            f"{type(dataset).__name__}."
        )
    if splits:
        raise ValueError(f"Expected no splits of a torch data set, but got {sorted(splits)}.")
    return TorchSource.of(dataset, column=column, label_column=label_column, size=size, storage=storage)


def _opened(
    dataset: str | os.PathLike[str] | Dataset | DatasetDict,
    column: str | None,
    label_column: str | None,
    *,
    splits: Collection[str],
    size: int | None,
    follow_links: bool,
    storage: Storage,
) -> CleaningSource:
    path, folder, images, places = None, None, None, ANYWHERE
    if isinstance(dataset, (Dataset, DatasetDict)):
        found = splits_of(dataset)
    else:
        path = os.fspath(dataset)
        here = local_path(path)
        folder = here.resolve() if here is not None and here.is_dir() else None
        places = Places.of_source(path, follow_links=follow_links)
        if is_image_folder(path):
            images = ImageFolder.scan(Path(path).expanduser().resolve(), follow_links=follow_links)
            found = {split: images.dataset(split) for split in images.splits}
        else:
            found = {str(split): rows for split, rows in open_source(path, follow_links=follow_links).items()}
    chosen = {
        split: choose_columns(
            found,
            split,
            column,
            label_column,
            source=path,
            folder=folder,
            places=places,
            size=size,
            convert=storage.convert,
        )
        for split in choose_splits(found, splits)
    }
    if images is not None:
        return FolderSource(folder=images, chosen=chosen, splits=tuple(splits), storage=storage)
    return TableSource(dataset=dataset, chosen=chosen, places=places, follow_links=follow_links, storage=storage)


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Tables: Parquet, a saved or named data set, or one that `datasets` has opened.

    Args:
        dataset: as it was given.
        chosen: its splits.
        places: where the rows may name files.
        follow_links: see `open_source`.
        storage: of the images that are purified or converted.
    """

    dataset: str | os.PathLike[str] | Dataset | DatasetDict
    chosen: Mapping[str, ChosenSource]
    places: Places
    follow_links: bool = False
    storage: Storage = LOSSLESS

    @property
    def subjects(self) -> Mapping[str, Subject]:
        """Take the rows of every split."""
        return {split: Subject.of_chosen(one) for split, one in self.chosen.items() if len(one.dataset)}

    @property
    def _column(self) -> str:
        return next(iter(self.chosen.values())).column

    def keys(self, rows: Reasons) -> Mapping[str, Mapping[Key, str]]:
        """Name rows by their numbers."""
        return {split: dict(reasons.items()) for split, reasons in rows.items()}

    def rows(self, treatment: Treatment) -> Mapping[str, list[int]]:
        """Give the numbers."""
        return {split: sorted(map(int, treatment.left_out.get(split, ()))) for split in self.chosen}

    def copy(self, destination: Path, treatment: Treatment) -> DatasetCopy:
        """Plan Parquet files."""
        check_destination_of_tables(destination, self._tables)
        return table_copy(self._tables, [self._column], self.places, treatment=treatment, storage=self.storage)

    @cached_property
    def _tables(self) -> Mapping[str, TableSplit]:
        """The splits to copy: Parquet is read where it is, and not from the cache that `datasets` searches it in."""
        if isinstance(self.dataset, (Dataset, DatasetDict)):
            return {split: DatasetSplit(dataset=one.dataset) for split, one in self.chosen.items()}
        return open_tables(os.fspath(self.dataset), splits=list(self.chosen), follow_links=self.follow_links)

    def quarantine(self, destination: Path, treatment: Treatment) -> DatasetCopy:
        """Plan Parquet files of the rows that are left out."""
        chosen = {split: rows for split, rows in self.rows(treatment).items() if rows}
        tables = {
            split: DatasetSplit(dataset=self.chosen[split].dataset.select(rows)) for split, rows in chosen.items()
        }
        return table_copy(tables, [self._column], self.places, treatment=ALL_KEPT)

    def select(self, rows: Mapping[str, Collection[int]]) -> Any:
        """Select rows."""
        found = DatasetDict({split: one.dataset.select(list(rows[split])) for split, one in self.chosen.items()})
        return next(iter(found.values())) if isinstance(self.dataset, Dataset) else found

    def open(self, destination: Path, treatment: Treatment) -> Any:
        """Open the Parquet files."""
        if isinstance(self.dataset, Dataset):
            return split_of(str(destination), next(iter(self.chosen)))
        return open_source(str(destination))


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder of image files.

    Args:
        folder: as it was when it was opened: what comes later is not in the copy.
        chosen: its splits.
        splits: that were asked for; empty for all.
        storage: of the images that are purified or converted.
    """

    folder: ImageFolder
    chosen: Mapping[str, ChosenSource]
    splits: tuple[str, ...]
    storage: Storage = LOSSLESS

    @property
    def subjects(self) -> Mapping[str, Subject]:
        """Take the images of every split."""
        return {split: Subject.of_chosen(one) for split, one in self.chosen.items() if len(one.dataset)}

    @cached_property
    def _images(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Name the images of each row, by split: first the one that was searched, then those beside it."""
        return {split: images_by_row(one.dataset, one.column, self.folder.top) for split, one in self.chosen.items()}

    def keys(self, rows: Reasons) -> Mapping[str, Mapping[Key, str]]:
        """Name the images of rows by their paths, without those beside them that a row needs which is kept."""
        reasons: dict[Key, str] = {}
        for split, flagged in rows.items():
            reasons |= {self._images[split][row][0]: reason for row, reason in flagged.items()}
        every = [(split, row, images) for split in self.chosen for row, images in enumerate(self._images[split])]
        needed = {path for _, _, images in every if images[0] not in reasons for path in images}
        beside: dict[Key, str] = {}
        for split, row, images in every:
            if row in rows.get(split, {}):
                beside |= {path: rows[split][row] for path in images[1:] if path not in needed}
        return {FOLDER: beside | reasons} if reasons else {}

    def rows(self, treatment: Treatment) -> Mapping[str, list[int]]:
        """Find the rows of the images."""
        gone = treatment.left_out.get(FOLDER, {})
        return {
            split: [row for row, images in enumerate(self._images[split]) if images[0] in gone] for split in self.chosen
        }

    def copy(self, destination: Path, treatment: Treatment) -> FolderCopy:
        """Plan a folder of the same layout."""
        return self._planned(destination, treatment, self.storage)

    def _planned(self, destination: Path, treatment: Treatment, storage: Storage) -> FolderCopy:
        check_apart(self.folder.top, destination)
        check_destination_of_images(destination)
        columns = [next(iter(self.chosen.values())).column]
        plan = plan_folder(self.folder, splits=self.splits, columns=columns, treatment=treatment, storage=storage)
        if plan.problems:
            raise UnreadableImageError(plan.problems[0])
        if SKIPPED in (*plan.others, *plan.folders):
            raise ValueError(
                f"Expected no {self.folder.top / SKIPPED}: the list of what is left out gets that name. Rename it, or "
                "remove it if it is of an earlier copy."
            )
        return FolderCopy(source=self.folder.top, plan=plan)

    def quarantine(self, destination: Path, treatment: Treatment) -> FolderCopy:
        """Plan a folder of the images that are left out, where they were, with those beside them."""
        rows = self.rows(treatment)
        paths = {path for split, numbers in rows.items() for row in numbers for path in self._images[split][row]}
        return select_images(self._planned(destination, ALL_KEPT, LOSSLESS), paths)

    def select(self, rows: Mapping[str, Collection[int]]) -> DatasetDict:
        """Select rows."""
        return DatasetDict({split: one.dataset.select(list(rows[split])) for split, one in self.chosen.items()})

    def open(self, destination: Path, treatment: Treatment) -> DatasetDict:
        """Open the folder."""
        return open_source(str(destination))
