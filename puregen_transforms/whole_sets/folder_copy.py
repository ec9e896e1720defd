"""Purify a folder of image files into a folder of the same layout, part by part."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Any

import PIL.Image

from puregen_transforms._files import below, hash_file
from puregen_transforms.data.images import ImageProblemError, pixels_of
from puregen_transforms.data.reserved_names import METADATA_NAMES, SKIPPED
from puregen_transforms.whole_sets.copy_folder import CopyFolder
from puregen_transforms.whole_sets.dataset_copy import (
    PART_ROWS,
    Finished,
    Part,
    PartRecord,
    PurifyOptions,
    check_part_rows,
)
from puregen_transforms.whole_sets.disk_space import mean_bytes
from puregen_transforms.whole_sets.folder_plan import FolderPlan, notes_of
from puregen_transforms.whole_sets.metadata import rewrite_metadata
from puregen_transforms.whole_sets.repair import EncodedImage, decode_one, repair
from puregen_transforms.whole_sets.summary import Skipped, UnreadableImageError

OTHER_FILES = "other files"
"""Name of the record of files that are no images."""

_LOOKED_AT = 32
"""Images whose size is looked at before the work."""


@dataclass(frozen=True, kw_only=True)
class FolderCopy:
    """A copy of image files into folders of the same layout.

    Args:
        source: the folder that was planned.
        plan: from `plan_folder`.
        part_rows: images of a part.
    """

    source: Path
    plan: FolderPlan
    part_rows: int = PART_ROWS

    def __post_init__(self) -> None:
        check_part_rows(self.part_rows)

    @cached_property
    def _paths(self) -> list[str]:
        return sorted([*self.plan.targets, *self._left_out])

    @cached_property
    def _unreadable(self) -> dict[str, Skipped]:
        return {str(problem.place["file"]): problem for problem in self.plan.problems}

    @cached_property
    def _left_out(self) -> dict[str, Skipped]:
        """Images that are not written."""
        flagged = {path: Skipped(place={"file": path}, reason=why) for path, why in self.plan.left_out.items()}
        return flagged | self._unreadable

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self._paths)

    @property
    def to_purify(self) -> int:
        """Number of those that are purified."""
        return len(self.plan.formats) - len(self.plan.converted)

    def row_pixels(self) -> list[int]:
        """Read the sizes of some images from all over the folder; the pixels of one, on average."""
        found = []
        for path in _sample(sorted(self.plan.targets)):
            with suppress(OSError, ImageProblemError), (self.source / path).open("rb") as file:
                found.append(pixels_of(file, convert=self.plan.storage.convert))
        return [sum(found) // len(found)] if found else []

    def stored_bytes(self) -> float:
        """Store some images from all over the folder; other files are counted as they are."""
        sample = _sample(list(self.plan.formats))
        images = mean_bytes(self._image(path, (self.source / path).read_bytes) for path in sample)
        as_they_are = sum((self.source / path).stat().st_size for path in (*self.plan.others, *self.plan.kept))
        return images * len(self.plan.formats) + as_they_are

    def cut(self, part_rows: int) -> FolderCopy:
        """Cut into parts of so many rows."""
        return replace(self, part_rows=part_rows)

    def describe(self) -> dict[str, Any]:
        """Describe the folder by the names of its images and its other files."""
        names = hashlib.sha256()
        for path in self._paths:
            names.update(json.dumps([path, self.plan.targets.get(path), self.plan.formats.get(path)]).encode())
        others = hashlib.sha256()
        for path in self.plan.others:
            is_metadata = PurePosixPath(path).name in METADATA_NAMES
            content = hash_file(self.source / path) if is_metadata else (self.source / path).stat().st_size
            others.update(json.dumps([path, content]).encode())
        described = {"images": self.images, "splits": list(self.plan.splits), "rows of a part": self.part_rows}
        if self.plan.columns:
            described["columns"] = list(self.plan.columns)
        described |= self.plan.storage.described()
        described |= {"names of the images": names.hexdigest(), "other files": others.hexdigest()}
        return described | self.plan.treatment.described()

    def parts_of(self, rank: int, count: int, finished: Finished) -> Iterator[Part]:
        """Yield the parts that one process out of `count` is to purify."""
        for number in range(rank, ceil(self.images / self.part_rows), count):
            start = number * self.part_rows
            yield Part(name=f"{number:05d}", start=start, stop=min(start + self.part_rows, self.images))

    def pictures(self, *, skip: bool) -> Iterator[PIL.Image.Image]:
        """Yield every image that is purified, decoded."""
        for path in sorted({*self.plan.formats, *self._unreadable} - self.plan.converted):
            if path in self._unreadable:
                if not skip:
                    raise UnreadableImageError(self._unreadable[path])
                continue
            image = decode_one(self._image(path, (self.source / path).read_bytes))
            if isinstance(image, PIL.Image.Image):
                yield image
            elif not skip:
                raise UnreadableImageError(Skipped(place={"file": path}, reason=str(image)))

    def _image(self, path: str, read: Callable[[], bytes]) -> EncodedImage[str]:
        return EncodedImage(
            key=path,
            read=read,
            image_format=self.plan.formats[path],
            storage=self.plan.storage,
            is_purified=path not in self.plan.converted,
        )

    def source_digest(self, part: Part) -> str:
        """Hash all that a part is made from."""
        return self._joined({}, part)

    def _joined(self, digests: dict[str, bytes], part: Part) -> str:
        """Hash the sha256 of a part's files one after the other; those in `digests` are not read again.

        Nor are files that are no images, and links that are not to be followed: they may be devices without an end.
        """
        content = hashlib.sha256()
        for path in self._paths[part.start : part.stop]:
            if path not in digests and path not in self._unreadable:
                with suppress(OSError):
                    self._read(digests, path)
            content.update(digests.get(path, b"unreadable"))
        return content.hexdigest()

    def _read(self, digests: dict[str, bytes], path: str) -> bytes:
        """Read a file, and note its sha256."""
        data = (self.source / path).read_bytes()
        digests[path] = hashlib.sha256(data).digest()
        return data

    def prepare(self, into: CopyFolder, options: PurifyOptions) -> None:
        """Make the folders that the first part needs."""
        if self.plan.problems and not options.skip:
            raise UnreadableImageError(self.plan.problems[0])
        if (options.skip or self._left_out) and SKIPPED in (
            *self.plan.others,
            *self.plan.folders,
            *self.plan.targets.values(),
        ):
            raise ValueError(
                f"Expected no {self.source / SKIPPED}: the list of skipped images gets that name. Rename or remove it."
            )
        for folder in self.plan.folders:
            below(into.folder, folder).mkdir(exist_ok=True)

    def write(self, part: Part, into: CopyFolder, options: PurifyOptions) -> PartRecord:
        """Purify a part."""
        paths = self._paths[part.start : part.stop]
        digests: dict[str, bytes] = {}
        skipped = [self._left_out[path] for path in paths if path in self._left_out]
        images = (self._image(path, partial(self._read, digests, path)) for path in paths if path in self.plan.formats)
        options.done(len(skipped))
        written: dict[str, Future[str]] = {}
        with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 2)) as writers:
            for path in (path for path in paths if path in self.plan.kept):
                written[path] = writers.submit(self._copied, path, digests, into, options)
            for repaired in repair(
                images, options.purify, chunk_images=options.chunk_images, at_once=options.at_once, done=options.done
            ):
                if repaired.data is None:
                    problem = Skipped(place={"file": repaired.key}, reason=str(repaired.problem))
                    if not options.skip:
                        raise UnreadableImageError(problem)
                    skipped.append(problem)
                else:
                    target = self.plan.targets[repaired.key]
                    written[target] = writers.submit(into.put, target, repaired.data)
            files = {name: written[name].result() for name in sorted(written)}
        into.settle(files)
        return PartRecord(
            name=part.name,
            start=part.start,
            stop=part.stop,
            rows=len(files),
            images=len(files),
            source=self._joined(digests, part),
            files=files,
            skipped=tuple(sorted(skipped, key=lambda found: str(found.place["file"]))),
        )

    def _copied(self, path: str, digests: dict[str, bytes], into: CopyFolder, options: PurifyOptions) -> str:
        """Copy an image as it is, and return its sha256."""
        checksum = into.put(path, self._read(digests, path))
        options.done(1)
        return checksum

    def finish(self, into: CopyFolder, records: Sequence[PartRecord]) -> tuple[list[PartRecord], tuple[str, ...]]:
        """Copy the files that are no images; metadata of images follows their new names."""
        dropped = {str(skipped.place["file"]) for record in records for skipped in record.skipped}
        gone = dropped | self.plan.absent
        files = {}
        for path in self.plan.others:
            with into.writing(path) as temporary:
                if PurePosixPath(path).name in METADATA_NAMES:
                    rewrite_metadata(
                        self.source / path,
                        temporary,
                        folder=str(PurePosixPath(path).parent),
                        targets=self.plan.targets,
                        dropped=gone,
                    )
                else:
                    shutil.copyfile(self.source / path, temporary)
                files[path] = hash_file(temporary)
        into.settle(files)
        others = [PartRecord.from_files(OTHER_FILES, files)] if files else []
        return [*records, *others], tuple(notes_of(self.plan, dropped))


def _sample(paths: Sequence[str]) -> Sequence[str]:
    """Choose some of them, evenly."""
    return paths[:: max(1, ceil(len(paths) / _LOOKED_AT))]
