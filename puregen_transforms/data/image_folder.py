"""Describe a folder of image files: its images, splits, classes and metadata, the same for all who read it."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image

from puregen_transforms.data.columns import choose_image_columns
from puregen_transforms.data.image_table import ImageTable, read_image_table
from puregen_transforms.data.images import IMAGE_SUFFIXES, looks_like_image
from puregen_transforms.data.metadata import METADATA_NAMES
from puregen_transforms.data.results import MANIFEST
from puregen_transforms.data.split_names import named_split, ordered_splits


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The files of a folder of images.

    Hidden files and folders are left out. Folders at the top that are all named as splits are splits; names of files
    say nothing. Below them, or where there are none, the folders at the top are classes, as for torchvision's
    `ImageFolder`; a metadata file takes their place. A single folder around all the others is passed through.

    Args:
        top: the folder.
        images: files that are treated as images, sorted; paths are relative to the folder, with "/".
        others: all other files.
        folders: every folder below the top, parents first.
        hidden: hidden folders with images in them.
    """

    top: Path
    images: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple[str, ...]
    hidden: tuple[str, ...]

    @classmethod
    def scan(cls, top: Path) -> ImageFolder:
        """Look at the names of all files, following links, and at the first bytes of those without a known ending.

        Raises:
            FileNotFoundError: there is no image.
            ValueError: an archive with images inside, or a pipe or the like.
        """
        images: list[str] = []
        others: list[str] = []
        folders, hidden = [], []
        for path, is_folder in _walk(top):
            name = PurePosixPath(path).name
            if name.startswith("."):
                if is_folder and _holds_image_files(top / path):
                    hidden.append(path)
            elif is_folder:
                folders.append(path)
            elif path != MANIFEST:
                (images if _is_image(top / path) else others).append(path)
        if not images:
            raise FileNotFoundError(f"Expected a folder with images or Parquet files, but {top} holds neither.")
        return cls(
            top=top, images=tuple(sorted(images)), others=tuple(others), folders=tuple(folders), hidden=tuple(hidden)
        )

    @cached_property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """The folders of each split, each ending in "/"; "" is the top."""
        start = self._around(self.images)
        tops = {_first_folder(path, start) for path in self.images}
        names = {top: named_split(top[len(start) : -1]) if top else None for top in sorted(tops)}
        if None in names.values():
            return {"train": ("",)}
        folders: dict[str, tuple[str, ...]] = {}
        for top, split in names.items():
            folders[str(split)] = (*folders.get(str(split), ()), top)
        return ordered_splits(folders)

    def _around(self, images: Collection[str], start: str = "") -> str:
        """Pass through folders around all the others that are no splits."""
        while True:
            tops = {_first_folder(path, start) for path in images}
            (top, *more) = tops
            if more or not top or named_split(top[len(start) : -1]):
                return start
            start = top

    def check_splits(self, splits: Collection[str]) -> None:
        """Raise ValueError for a split that is not there."""
        if missing := sorted(set(splits) - set(self.splits)):
            raise ValueError(f"Expected splits out of {sorted(self.splits)}, but got {missing}.")

    def in_split(self, path: str, splits: Collection[str]) -> bool:
        """Tell whether a file is of one of these splits; none named takes all."""
        return not splits or any(path.startswith(folder) for split in splits for folder in self.splits[split])

    def inputs(self, splits: Collection[str] = (), columns: Collection[str] = ()) -> list[str]:
        """List the images to purify: those of the columns that were named, or of the only one there is.

        Raises:
            ValueError: several columns of which none was named, or metadata that do not fit the folder.
        """
        tables = [self._tables[split] for split in splits or self.splits]
        if all(table is None for table in tables):
            choose_image_columns({"image": Image()}, columns)
            return [path for path in self.images if self.in_split(path, splits)]
        found: set[str] = set()
        for split in splits or self.splits:
            table = self._table(split)
            found.update(table.paths_in(choose_image_columns(table.features, columns, lists=True)))
        return sorted(found)

    def dataset(self, split: str) -> Dataset:
        """Give the images of a split, with their classes or metadata, as a data set of files.

        Raises:
            ValueError: metadata that do not fit the folder, or names that are no valid Unicode.
        """
        try:
            return self._table(split).dataset(self.top, split)
        except UnicodeEncodeError as error:
            raise ValueError(f"Expected names of files in Unicode, but got {error.object!r}. Rename it.") from error

    @cached_property
    def _tables(self) -> dict[str, ImageTable | None]:
        """What metadata files say of each split; None without any."""
        return {split: self._metadata(split) for split in self.splits}

    def _metadata(self, split: str) -> ImageTable | None:
        files = [path for path in self.others if PurePosixPath(path).name in METADATA_NAMES]
        files = [path for path in files if self.in_split(path, [split])]
        images = [path for path in self.images if self.in_split(path, [split])]
        return read_image_table(self.top, sorted(files), images)

    def _table(self, split: str) -> ImageTable:
        return self._tables[split] or self._by_class(split)

    def _by_class(self, split: str) -> ImageTable:
        images = [path for path in self.images if self.in_split(path, [split])]
        cells: dict[str, Any] = {"image": pa.array(images)}
        features: dict[str, Any] = {"image": Image()}
        classes = self._classes[split]
        if classes is not None:
            label = ClassLabel(names=self._class_names)
            cells["label"] = pa.array([label.str2int(classes[path]) for path in images], pa.int64())
            features["label"] = label
        return ImageTable(table=pa.table(cells), features=Features(features))

    @cached_property
    def _class_names(self) -> list[str]:
        return sorted({name for classes in self._classes.values() if classes for name in classes.values()})

    @cached_property
    def _classes(self) -> dict[str, Mapping[str, str] | None]:
        """The class of each image by split; None where images lie beside folders, or there is but one folder."""
        found: dict[str, Mapping[str, str] | None] = {}
        for split, folders in self.splits.items():
            images = [path for path in self.images if self.in_split(path, [split])]
            classes: dict[str, str] = {}
            for folder in folders:
                inside = [path for path in images if path.startswith(folder)]
                start = self._around(inside, folder) if folders != ("",) else self._around(inside)
                classes |= {path: _first_folder(path, start)[len(start) : -1] for path in inside}
            found[split] = classes if self._are_classes(set(classes.values()), images) else None
        return found

    def _are_classes(self, names: Collection[str], images: Collection[str]) -> bool:
        """Tell whether folders are classes: two or more, and not both splits with folders of classes and others."""
        if "" in names or len(names) < 2:
            return False
        splits = [name for name in names if named_split(name)]
        return not any(f"/{split}/" in f"/{path}".rpartition("/")[0] for split in splits for path in images)


def _first_folder(path: str, start: str) -> str:
    """Return the path down to the first folder below another one, with "/" at its end; "" for a file in that one."""
    name, separator, _ = path[len(start) :].partition("/")
    return start + name + "/" if separator else ""


def _walk(top: Path) -> Iterator[tuple[str, bool]]:
    """Yield the paths below a folder, sorted, each with whether it is a folder; follow no link back to a parent.

    Nothing is looked at in hidden folders.
    """

    def walk(folder: Path, prefix: str, parents: frozenset[str]) -> Iterator[tuple[str, bool]]:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = prefix + entry.name
            if not entry.is_dir():
                yield path, False
            elif (real := os.path.realpath(entry.path)) not in parents:
                yield path, True
                if not entry.name.startswith("."):
                    yield from walk(Path(entry.path), path + "/", parents | {real})

    yield from walk(top, "", frozenset({os.path.realpath(top)}))


def _holds_image_files(folder: Path) -> bool:
    """Tell whether there are files directly in a folder that are images by their names."""
    try:
        return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
    except OSError:
        return False


def _is_image(path: Path) -> bool:
    """Tell whether a file is treated as an image.

    Raises:
        ValueError: it is an archive with images inside, or a pipe or the like.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"Expected files and folders only, but {path} is neither; move it out of the folder.")
    if looks_like_image(path.name, b""):
        return True
    with path.open("rb") as file:
        first_bytes = file.read(16)
    if looks_like_image(path.name, first_bytes):
        return True
    if _archives_images(path, first_bytes):
        raise ValueError(
            f"Expected images as files, but {path} is an archive with images inside, which would stay "
            "as they are. Unpack it, or move it out of the folder."
        )
    return False


def _archives_images(path: Path, first_bytes: bytes) -> bool:
    if first_bytes.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            return any(looks_like_image(name, b"") for name in archive.namelist())
    if ".tar" in path.suffixes or path.suffix in (".tgz", ".tbz2", ".txz"):
        with suppress(tarfile.TarError, EOFError), tarfile.open(path) as archive:
            return any(looks_like_image(member.name, b"") for member in archive)
    return False
