"""Purify a folder of image files into a folder of the same layout, part by part."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Any

import PIL.Image

from puregen_transforms._files import below, hash_file
from puregen_transforms.data.images import ImageProblemError, pixels_of
from puregen_transforms.data.metadata import METADATA_NAMES, check_metadata, rewrite_metadata
from puregen_transforms.data.outcome import Skipped, UnreadableImageError
from puregen_transforms.data.parts import PART_ROWS, Finished, Part, PartRecord, PurifyOptions, check_part_rows
from puregen_transforms.data.repair import EncodedImage, decode_one, repair
from puregen_transforms.data.results import MANIFEST as MANIFEST
from puregen_transforms.data.results import ResultFolder
from puregen_transforms.data.room import mean_bytes
from puregen_transforms.data.storage import LOSSLESS, Storage
from puregen_transforms.data.target_names import choose_target_names
from puregen_transforms.data.treatment import ALL_PURIFIED, FOLDER, Treatment

OTHER_FILES = "other files"
"""Name of the record of files that are no images."""

SKIPPED = "skipped.json"
_LOOKED_AT = 32
"""Images whose size is looked at before the work."""


@dataclass(frozen=True, kw_only=True)
class FolderPlan:
    """The files of a folder of images, and the names under which they will be written.

    Paths are relative to the folder, with "/".

    Args:
        targets: new path of each image.
        formats: format each image is written in.
        others: files to copy.
        folders: every folder below the top, parents first.
        problems: images whose header already cannot be read.
        clashes: images that got a longer name, because another file has the plain one.
        hidden: hidden folders with images, which are left out.
        splits: that were asked for; empty for all.
        columns: of images that were asked for; empty for the only one.
        treatment: of images by path, as it was asked for.
        left_out: images that are left out, each with the reason.
        absent: other images of the folder, which no row of the metadata names any more.
        storage: of the purified images.
    """

    targets: dict[str, str]
    formats: dict[str, str]
    others: tuple[str, ...]
    folders: tuple[str, ...]
    problems: tuple[Skipped, ...]
    clashes: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    storage: Storage = LOSSLESS
    treatment: Treatment = ALL_PURIFIED
    left_out: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()

    @cached_property
    def kept(self) -> frozenset[str]:
        """Images that are copied as they are."""
        return frozenset(self.targets) - frozenset(self.formats)


def plan_folder(
    source: Path,
    *,
    splits: Collection[str] = (),
    columns: Collection[str] = (),
    follow_links: bool = False,
    treatment: Treatment = ALL_PURIFIED,
    storage: Storage = LOSSLESS,
) -> FolderPlan:
    """Look at every file of a folder; of images, only headers are read.

    Args:
        source: the folder; `ImageFolder` says how it is read.
        splits: take only the files of these splits; none named takes all.
        columns: of images to purify, where metadata name several; other images are copied as they are.
        follow_links: take also what links lead to elsewhere.
        treatment: of images by path: those to leave out, or to keep as they are; of other columns, those to leave out.
        storage: of the purified images.

    Raises:
        FileNotFoundError: there is no image.
        ValueError: a split or a column that is not there, metadata that do not fit, an archive with images inside, or
            names that would meet or become too long.
    """
    from puregen_transforms.data.image_folder import ImageFolder  # with `datasets`, which not all who come here need

    folder = ImageFolder.scan(source, follow_links=follow_links)
    folder.check_splits(splits)
    inputs = folder.inputs(splits, columns)
    formats: dict[str, str] = {}
    problems = [
        Skipped(place={"file": path}, reason=reason)
        for path, reason in folder.problems.items()
        if folder.in_split(path, splits)
    ]
    left_out = {path: reason for path in inputs if (reason := treatment.reason(FOLDER, path)) is not None}
    gone = [path for path in folder.images if treatment.reason(FOLDER, path) is not None]
    there = [path for path in inputs if path not in folder.problems and path not in left_out]
    for path in (path for path in there if treatment.purifies(FOLDER, path)):
        try:
            with (source / path).open("rb") as file:
                formats[path] = storage.format_of(path, file)
        except OSError as error:
            problem = ImageProblemError(f"it cannot be read ({error.strerror or error})")
            problems.append(Skipped(place={"file": path}, reason=str(problem)))
        except ImageProblemError as problem:
            problems.append(Skipped(place={"file": path}, reason=str(problem)))
    known = {*inputs, *folder.problems}
    others = [path for path in sorted((*folder.others, *folder.images)) if path not in known]
    others = [path for path in others if folder.in_split(path, splits) and treatment.reason(FOLDER, path) is None]
    kept = [path for path in there if not treatment.purifies(FOLDER, path)]
    folders, used = folder.folders, folders_of([*formats, *kept, *others])
    if splits:
        folders = tuple(path for path in folders if path in used)
    # torchvision's ImageFolder opens no folder with a class of which no image is left.
    emptied = folders_of(gone) - used
    folders = tuple(path for path in folders if path not in emptied)
    wished = {path: storage.name_of(path, image_format) for path, image_format in formats.items()}
    targets, clashes = choose_target_names(wished, taken=[*others, *folders, *kept])
    targets |= {path: path for path in kept}
    check_metadata(source, [path for path in others if PurePosixPath(path).name in METADATA_NAMES], targets)
    return FolderPlan(
        targets=targets,
        formats=formats,
        others=tuple(others),
        folders=folders,
        problems=tuple(problems),
        clashes=tuple(clashes),
        hidden=folder.hidden,
        splits=tuple(splits),
        columns=tuple(columns),
        storage=storage,
        treatment=treatment,
        left_out=left_out,
    )


def folders_of(paths: Collection[str]) -> set[str]:
    """List the folders that files are in, at any depth."""
    return {parent for path in paths for parent in map(str, PurePosixPath(path).parents)}


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
        return len(self.plan.formats)

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
        for path in sorted([*self.plan.formats, *self._unreadable]):
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
        return EncodedImage(key=path, read=read, image_format=self.plan.formats[path], storage=self.plan.storage)

    def source_digest(self, part: Part) -> str:
        """Hash all that a part is made from."""
        return self._joined({}, part)

    def _joined(self, digests: dict[str, bytes], part: Part) -> str:
        """Hash the sha256 of the files, those known already included.

        What is no image, or a link that is not to be followed, is not read: it may be a device without an end.
        """
        content = hashlib.sha256()
        for path in self._paths[part.start : part.stop]:
            if path not in digests and path not in self._unreadable:
                with suppress(OSError):
                    self._read(digests, path)
            content.update(digests.get(path, b"unreadable"))
        return content.hexdigest()

    def _read(self, digests: dict[str, bytes], path: str) -> bytes:
        data = (self.source / path).read_bytes()
        digests[path] = hashlib.sha256(data).digest()
        return data

    def prepare(self, results: ResultFolder, options: PurifyOptions) -> None:
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
            below(results.folder, folder).mkdir(exist_ok=True)

    def write(self, part: Part, results: ResultFolder, options: PurifyOptions) -> PartRecord:
        """Purify a part."""
        paths = self._paths[part.start : part.stop]
        digests: dict[str, bytes] = {}
        skipped = [self._left_out[path] for path in paths if path in self._left_out]
        images = (self._image(path, partial(self._read, digests, path)) for path in paths if path in self.plan.formats)
        options.done(len(skipped))
        written: dict[str, Future[str]] = {}
        with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 2)) as writers:
            for path in (path for path in paths if path in self.plan.kept):
                written[path] = writers.submit(self._copied, path, digests, results, options)
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
                    written[target] = writers.submit(results.put, target, repaired.data)
            files = {name: written[name].result() for name in sorted(written)}
        results.settle(files)
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

    def _copied(self, path: str, digests: dict[str, bytes], results: ResultFolder, options: PurifyOptions) -> str:
        """Copy an image as it is, and return its sha256."""
        checksum = results.put(path, self._read(digests, path))
        options.done(1)
        return checksum

    def finish(self, results: ResultFolder, records: Sequence[PartRecord]) -> tuple[list[PartRecord], tuple[str, ...]]:
        """Copy the files that are no images; metadata of images follows their new names."""
        dropped = {str(skipped.place["file"]) for record in records for skipped in record.skipped}
        gone = dropped | self.plan.absent
        files = {}
        for path in self.plan.others:
            with results.writing(path) as temporary:
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
        results.settle(files)
        others = [PartRecord.from_files(OTHER_FILES, files)] if files else []
        return [*records, *others], tuple(_notes(self.plan, dropped))


def _sample(paths: Sequence[str]) -> Sequence[str]:
    """Choose some of them, evenly."""
    return paths[:: max(1, ceil(len(paths) / _LOOKED_AT))]


def _notes(plan: FolderPlan, dropped: set[str]) -> Iterator[str]:
    changed = sum(path != target for path, target in plan.targets.items())
    if changed:
        yield plan.storage.note_of_names(changed)
    if plan.storage.writes_jpeg and (count := sum(kind == "JPEG" for kind in plan.formats.values())):
        yield f"{count} images were written as JPEG, which loses some detail of the purified pixels."
    if plan.clashes:
        yield (
            f"{len(plan.clashes)} of them kept the old suffix too, as in {plan.targets[plan.clashes[0]]}: "
            "another file has the short name."
        )
    if changed and any(PurePosixPath(path).name not in METADATA_NAMES for path in plan.others):
        yield "Other files than images, metadata.csv, .jsonl and .parquet were copied unchanged, old names included."
    left = {str(PurePosixPath(path).parent) for path in plan.targets if path not in dropped}
    emptied = sorted({str(PurePosixPath(path).parent) for path in dropped} - left - {"."})  # the top is no class
    if emptied:
        yield f"No image is left in {', '.join(emptied)}: labels taken from folder names will be numbered anew."
    if plan.hidden:
        yield (
            f"Hidden folders with images were left out: {', '.join(plan.hidden)}. torchvision's ImageFolder takes such "
            "a folder for a class, and numbers the classes of the copy without it."
        )
    order = [path for path in sorted(plan.targets) if path not in dropped]
    if sorted(order, key=plan.targets.__getitem__) != order:
        yield "Some images come in another order than in the source, which their new names decide."
