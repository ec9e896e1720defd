"""Describe a folder of image files: its images, splits, classes and metadata, the same for all who read it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image

from puregen_transforms._files import is_regular
from puregen_transforms._text import shown
from puregen_transforms.data.archives import archives_images
from puregen_transforms.data.columns import choose_image_columns
from puregen_transforms.data.image_table import ImageTable, read_image_table
from puregen_transforms.data.images import IMAGE_SUFFIXES, looks_like_image
from puregen_transforms.data.links import problem_of_link
from puregen_transforms.data.reserved_names import MANIFEST, METADATA_NAMES
from puregen_transforms.data.split_names import choose_splits, named_split, ordered_splits


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
        problems: links that are not to be followed, each with the reason; those named as images are among these, too.
    """

    top: Path
    images: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple[str, ...]
    hidden: tuple[str, ...]
    problems: Mapping[str, str]

    @classmethod
    def scan(cls, top: Path, *, follow_links: bool = False) -> ImageFolder:
        """Look at the names of all files, and at the first bytes of those without a known ending.

        Args:
            top: the folder; links are followed within it.
            follow_links: follow also those that lead elsewhere.

        Raises:
            FileNotFoundError: there is no image.
            ValueError: an archive with images inside, a pipe or the like, or something else than the manifest of a copy
                under its name.
        """
        images: list[str] = []
        others: list[str] = []
        folders, hidden = [], []
        problems: dict[str, str] = {}
        for path, is_folder, problem in _walk(top, follow_links):
            name = PurePosixPath(path).name
            if name.startswith("."):
                if is_folder and _holds_image_files(top / path):
                    hidden.append(path)
            elif problem:
                problems[path] = problem
                if looks_like_image(name, b""):
                    images.append(path)
            elif path == MANIFEST:
                _check_manifest(top / path)
            elif is_folder:
                folders.append(path)
            else:
                (images if _is_image(top / path) else others).append(path)
        if not images and not problems:
            raise FileNotFoundError(f"Expected a folder with images or Parquet files, but {top} holds neither.")
        return cls(
            top=top,
            images=tuple(sorted(images)),
            others=tuple(others),
            folders=tuple(folders),
            hidden=tuple(hidden),
            problems=problems,
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
        """Find the innermost folder around all images, down to one that is named as a split; "" is the top."""
        while images:
            tops = {_first_folder(path, start) for path in images}
            (top, *more) = tops
            if more or not top or named_split(top[len(start) : -1]):
                return start
            start = top
        return start

    def check_splits(self, splits: Collection[str]) -> None:
        """Raise ValueError for a split that is not there."""
        choose_splits(self.splits, splits)

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
            ValueError: a link that is not to be followed, metadata that do not fit the folder, or names that are no
                valid Unicode.
        """
        for path, problem in self.problems.items():
            raise ValueError(
                f"Expected a folder with all of its files, but of {shown(str(self.top / path))}: {problem}."
            )
        try:
            return self._table(split).dataset(self.top, split)
        except UnicodeEncodeError as error:
            raise ValueError(f"Expected names of files in Unicode, but got {error.object!r}. Rename it.") from error

    @cached_property
    def _tables(self) -> dict[str, ImageTable | None]:
        """The rows that metadata files have of each split; None without any."""
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


def _walk(top: Path, follow_links: bool) -> Iterator[tuple[str, bool, str | None]]:
    """Yield the paths below a folder, sorted, each with whether it is a folder, and why it must be left out.

    Links to folders are followed where they do not lead back to a parent, but not links inside of those: folders that
    link to each other would be found on more paths than there are atoms. Nothing is looked at in hidden folders.
    """

    def walk(
        folder: Path, prefix: str, parents: frozenset[str], linked: bool
    ) -> Iterator[tuple[str, bool, str | None]]:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = prefix + entry.name
            problem = problem_of_link(Path(entry.path), top, follow_links=follow_links)
            if problem or not entry.is_dir():
                yield path, False, problem
            elif (real := os.path.realpath(entry.path)) not in parents:
                again = linked and entry.is_symlink()
                yield path, True, "it is a link to a folder, within a folder that a link leads to" if again else None
                if not again and not entry.name.startswith("."):
                    yield from walk(Path(entry.path), path + "/", parents | {real}, linked or entry.is_symlink())

    yield from walk(top, "", frozenset({os.path.realpath(top)}), False)


def _holds_image_files(folder: Path) -> bool:
    """Tell whether there are files directly in a folder that are images by their names."""
    try:
        return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
    except OSError:
        return False


def _check_manifest(path: Path) -> None:
    """Refuse anything but the manifest of an earlier copy under its name: it would be left out."""
    if not is_regular(path) or _is_image(path):
        raise ValueError(f"Expected no image or folder {path}: the copy's manifest has that name. Rename it.")


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
    if archives_images(path, first_bytes):
        raise ValueError(
            f"Expected images as files, but {path} is an archive with images inside, which would stay "
            "as they are. Unpack it, or move it out of the folder."
        )
    return False
