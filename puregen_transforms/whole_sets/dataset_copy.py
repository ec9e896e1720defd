"""A data set cut into parts, which are purified one by one, in any order and by any process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from PIL import Image

from puregen_transforms._text import shown
from puregen_transforms.data.images import Purify
from puregen_transforms.whole_sets.copy_folder import CopyFolder
from puregen_transforms.whole_sets.summary import Skipped

PART_ROWS = 1024
"""Rows of a part, at most, unless another number is asked for: a killed process has to do a part again."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A range of rows. What parts there are depends on the data set alone, never on who purifies it.

    Args:
        name: of its record, and of its file where it has one.
        start: its first row, of the split or of the whole folder.
        stop: the row after its last.
        split: of a table.
    """

    name: str
    start: int
    stop: int
    split: str = ""


def check_part_rows(rows: int) -> int:
    """Check a number of rows, and return it.

    Raises:
        ValueError: it is below 1.
    """
    if rows < 1:
        raise ValueError(f"Expected at least 1 row in a part, but got {rows}.")
    return rows


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """The record of a purified part.

    Args:
        name: of the part.
        split: of the part.
        start: of the part.
        stop: of the part.
        rows: written.
        images: written: repaired, or kept as they were.
        source: sha256 of the rows it was made from.
        files: sha256 of each file written, by path in the destination.
        skipped: images left out.
        resisting: images that are still suspicious after all that method "adaptive" does.
        state: where in a stream it ended.
    """

    name: str
    split: str = ""
    start: int = 0
    stop: int = 0
    rows: int = 0
    images: int = 0
    source: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    resisting: int = 0
    state: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_files(cls, name: str, files: Mapping[str, str]) -> PartRecord:
        """Record files that belong to no part alone."""
        return cls(name=name, files=files)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**values, "skipped": [skipped.to_dict() for skipped in self.skipped]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PartRecord:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: values of another kind.
        """
        if not isinstance(values, Mapping) or set(values) != {item.name for item in fields(cls)}:
            raise ValueError(f"expected the record of a part, but got {shown(repr(values))[:80]}")
        wrong = [name for name, is_right in _FORMS.items() if not is_right(values[name])]
        if wrong:
            raise ValueError("; ".join(f"{name} is {shown(repr(values[name]))[:80]}" for name in wrong))
        return cls(**{**values, "skipped": tuple(map(Skipped.from_dict, values["skipped"]))})


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list_of_files(value: object) -> bool:
    return isinstance(value, dict) and all(name and _is_text(checksum) for name, checksum in value.items())


def _is_list_of_skipped(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and "reason" in row and all(isinstance(item, (str, int)) for item in row.values())
        for row in value
    )


_FORMS: Mapping[str, Callable[[object], bool]] = {
    "name": _is_text,
    "split": _is_text,
    "start": _is_count,
    "stop": _is_count,
    "rows": _is_count,
    "images": _is_count,
    "source": _is_text,
    "files": _is_list_of_files,
    "skipped": _is_list_of_skipped,
    "resisting": _is_count,
    "state": lambda value: isinstance(value, dict),
}
"""Check of each value of a record."""


Finished = Callable[[str], PartRecord | None]
"""The record of a part, by name, if it is finished."""


@dataclass(frozen=True, kw_only=True)
class PurifyOptions:
    """How the images of a part are purified, and who is told of it.

    Args:
        purify: see `Purify`.
        chunk_images: images decoded at once; of no influence on the result.
        at_once: number of pixels of an image -> how many such `purify` is given at once; see `repair`.
        skip: leave out what cannot be repaired, rather than stopping.
        done: told of images as they are dealt with.
    """

    purify: Purify
    chunk_images: int = 256
    at_once: Callable[[int], int] = lambda pixels: 256
    skip: bool = False
    done: Callable[[int], None] = lambda count: None


class DatasetCopy(Protocol):
    """A data set to be purified into a copy, whose form each kind of data set decides."""

    @property
    def images(self) -> int | None:
        """Number of images; None if that is not known."""

    @property
    def to_purify(self) -> int | None:
        """Number of those that are neither left out nor kept as they are; None if that is not known."""

    def row_pixels(self) -> list[int]:
        """Measure the pixels of each image of a row, averaged over a few rows; none if none can be read."""

    def stored_bytes(self) -> float | None:
        """Estimate the bytes of the copy, by storing some images as they are; None if the rows are not counted."""

    def cut(self, part_rows: int) -> DatasetCopy:
        """Cut the data set into parts of so many rows.

        Raises:
            ValueError: fewer than one, or more parts than there are numbers for.
        """

    def describe(self) -> dict[str, Any]:
        """Describe the source in JSON-ready values that cost little to find; another source has others."""

    def parts_of(self, rank: int, count: int, finished: Finished) -> Iterator[Part]:
        """Yield the parts that one process out of `count` is to purify, finished ones included."""

    def pictures(self, *, skip: bool) -> Iterator[Image.Image]:
        """Yield every image that is purified, decoded: what a threshold is fitted to.

        Raises:
            UnreadableImageError: one cannot be decoded, and is not to be skipped.
        """

    def source_digest(self, part: Part) -> str | None:
        """Hash all that a part is made from (sha256); None where reading it again is not possible."""

    def prepare(self, into: CopyFolder, options: PurifyOptions) -> None:
        """Make the folders that the first part needs; doing it again changes nothing.

        Raises:
            UnreadableImageError: as in `write`, where it is known already.
        """

    def write(self, part: Part, into: CopyFolder, options: PurifyOptions) -> PartRecord:
        """Purify a part; none of its files gets its name before it is whole and on disk.

        Raises:
            UnreadableImageError: an image cannot be repaired, and is not to be skipped.
            OSError: the source cannot be read, or the folder not written.
        """

    def finish(self, into: CopyFolder, records: Sequence[PartRecord]) -> tuple[list[PartRecord], tuple[str, ...]]:
        """Write what depends on all parts; return the records of the result, and notes for the user."""
