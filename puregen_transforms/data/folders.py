"""Purify a folder of image files into a folder of the same layout, part by part."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Any

from puregen_transforms._files import below, hash_file, is_regular
from puregen_transforms.data.archives import archives_images
from puregen_transforms.data.images import (
    IMAGE_SUFFIXES,
    ImageProblemError,
    looks_like_image,
    lossless_format,
    pixels_of,
)
from puregen_transforms.data.links import problem_of_link
from puregen_transforms.data.metadata import METADATA_NAMES, check_metadata, rewrite_metadata
from puregen_transforms.data.outcome import Skipped, UnreadableImageError
from puregen_transforms.data.parts import PART_ROWS, Finished, Part, PartRecord, PurifyOptions, check_part_rows
from puregen_transforms.data.repair import EncodedImage, repair
from puregen_transforms.data.results import ResultFolder

OTHER_FILES = "other files"
"""Name of the record of files that are no images."""

SKIPPED = "skipped.json"
MANIFEST = "purified.jsonl"
"""Tells of a purified copy what it consists of; the copy of a copy gets its own."""


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
        splits: that were asked for; empty for all.
    """

    targets: dict[str, str]
    formats: dict[str, str]
    others: tuple[str, ...]
    folders: tuple[str, ...]
    problems: tuple[Skipped, ...]
    clashes: tuple[str, ...]
    splits: tuple[str, ...] = ()


def plan_folder(source: Path, *, splits: Collection[str] = (), follow_links: bool = False) -> FolderPlan:
    """Look at every file of a folder, following links within it; only headers are read.

    Args:
        source: the folder. Hidden files and folders in it are left out, as `datasets` does.
        splits: take only the files of these splits, as `datasets` assigns them; none named takes all.
        follow_links: take also what links lead to elsewhere.

    Raises:
        FileNotFoundError: there is no image.
        ValueError: a split that is not there, or an archive with images inside.
    """
    wanted = _files_of_splits(source, splits) if splits else None
    formats: dict[str, str] = {}
    others, folders, problems = [], [], []
    for path, is_folder, problem in _walk(source, follow_links):
        if problem:
            problems.append(Skipped(place={"file": path}, reason=problem))
            continue
        if is_folder:
            if path == MANIFEST:
                raise ValueError(f"Expected no folder {source / path}: the copy's manifest has that name. Rename it.")
            folders.append(path)
            continue
        if path == MANIFEST:
            _check_manifest(source / path)
            continue
        if wanted is not None and path not in wanted:
            continue
        try:
            image_format = _image_format(source / path)
        except ImageProblemError as problem:
            problems.append(Skipped(place={"file": path}, reason=str(problem)))
            continue
        if image_format is None:
            others.append(path)
        else:
            formats[path] = image_format
    if not formats and not problems:
        raise FileNotFoundError(f"Expected a folder with images or Parquet files, but {source} holds neither.")
    if wanted is not None:
        used = {parent for path in (*formats, *others) for parent in map(str, PurePosixPath(path).parents)}
        folders = [folder for folder in folders if folder in used]
    targets, clashes = _target_names(formats, taken=[*others, *folders])
    return FolderPlan(
        targets=targets,
        formats=formats,
        others=tuple(others),
        folders=tuple(folders),
        problems=tuple(problems),
        clashes=tuple(clashes),
        splits=tuple(splits),
    )


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
        return sorted([*self.plan.formats, *self._unreadable])

    @cached_property
    def _unreadable(self) -> dict[str, Skipped]:
        return {str(problem.place["file"]): problem for problem in self.plan.problems}

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self._paths)

    def row_pixels(self) -> list[int]:
        """Read the sizes of some images from all over the folder; the pixels of one, on average."""
        paths = list(self.plan.formats)
        found = []
        for path in paths[:: ceil(len(paths) / _LOOKED_AT)]:
            with suppress(OSError, ImageProblemError), (self.source / path).open("rb") as file:
                found.append(pixels_of(file))
        return [sum(found) // len(found)] if found else []

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
        return {**described, "names of the images": names.hexdigest(), "other files": others.hexdigest()}

    def parts_of(self, rank: int, count: int, finished: Finished) -> Iterator[Part]:
        """Yield the parts that one process out of `count` is to purify."""
        for number in range(rank, ceil(self.images / self.part_rows), count):
            start = number * self.part_rows
            yield Part(name=f"{number:05d}", start=start, stop=min(start + self.part_rows, self.images))

    def source_digest(self, part: Part) -> str:
        """Hash all that a part is made from."""
        return self._joined({}, part)

    def _joined(self, digests: dict[str, bytes], part: Part) -> str:
        """Hash the sha256 of the files, those known already included."""
        content = hashlib.sha256()
        for path in self._paths[part.start : part.stop]:
            if path not in digests:
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
        if options.skip and SKIPPED in (*self.plan.others, *self.plan.folders, *self.plan.targets.values()):
            raise ValueError(
                f"Expected no {self.source / SKIPPED}: the list of skipped images gets that name. Rename or remove it."
            )
        if options.skip or any(path != target for path, target in self.plan.targets.items()):
            for path in self.plan.others:
                if PurePosixPath(path).name in METADATA_NAMES:
                    check_metadata(self.source / path)
        for folder in self.plan.folders:
            below(results.folder, folder).mkdir(exist_ok=True)

    def write(self, part: Part, results: ResultFolder, options: PurifyOptions) -> PartRecord:
        """Purify a part."""
        paths = self._paths[part.start : part.stop]
        digests: dict[str, bytes] = {}
        skipped = [self._unreadable[path] for path in paths if path in self._unreadable]
        images = (
            EncodedImage(key=path, read=partial(self._read, digests, path), image_format=self.plan.formats[path])
            for path in paths
            if path in self.plan.formats
        )
        options.done(len(skipped))
        written: dict[str, Future[str]] = {}
        with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 2)) as writers:
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

    def finish(self, results: ResultFolder, records: Sequence[PartRecord]) -> tuple[list[PartRecord], tuple[str, ...]]:
        """Copy the files that are no images; metadata of images follows their new names."""
        dropped = {str(skipped.place["file"]) for record in records for skipped in record.skipped}
        files = {}
        for path in self.plan.others:
            with results.writing(path) as temporary:
                if PurePosixPath(path).name in METADATA_NAMES:
                    rewrite_metadata(
                        self.source / path,
                        temporary,
                        folder=str(PurePosixPath(path).parent),
                        targets=self.plan.targets,
                        dropped=dropped,
                    )
                else:
                    shutil.copyfile(self.source / path, temporary)
                files[path] = hash_file(temporary)
        results.settle(files)
        others = [PartRecord.from_files(OTHER_FILES, files)] if files else []
        return [*records, *others], tuple(_notes(self.plan, dropped))


def _walk(top: Path, follow_links: bool) -> Iterator[tuple[str, bool, str | None]]:
    """Yield the paths below a folder, sorted, each with whether it is a folder, and why it must be left out.

    Links to folders are followed where they do not lead back to a parent, but not links inside of those.
    """  # Folders that link to each other would be found on more paths than there are atoms.

    def walk(
        folder: Path, prefix: str, parents: frozenset[str], linked: bool
    ) -> Iterator[tuple[str, bool, str | None]]:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            path = prefix + entry.name
            problem = problem_of_link(Path(entry.path), top, follow_links=follow_links)
            if problem or not entry.is_dir():
                yield path, False, problem
            elif (real := os.path.realpath(entry.path)) not in parents:
                again = linked and entry.is_symlink()
                yield path, True, "it is a link to a folder, within a folder that a link leads to" if again else None
                if not again:
                    yield from walk(Path(entry.path), path + "/", parents | {real}, linked or entry.is_symlink())

    yield from walk(top, "", frozenset({os.path.realpath(top)}), False)


def _check_manifest(path: Path) -> None:
    """Refuse anything but the manifest of an earlier copy under its name: it would be left out."""
    with suppress(ImageProblemError):
        if is_regular(path) and _image_format(path) is None:
            return
    raise ValueError(f"Expected no image {path}: the copy's manifest has that name. Rename it.")


def _image_format(path: Path) -> str | None:
    """Choose the format to write a file in; None for a file that is no image.

    Raises:
        ImageProblemError: it should be an image, but its header cannot be read.
        ValueError: it is an archive with images inside, or a pipe or the like.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"Expected files and folders only, but {path} is neither; move it out of the folder.")
    try:
        with path.open("rb") as file:
            first_bytes = file.read(16)
            if looks_like_image(path.name, first_bytes):
                file.seek(0)
                return lossless_format(file)
    except OSError as error:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise ImageProblemError(f"it cannot be read ({error.strerror or error})") from error
        raise
    if archives_images(path, first_bytes):
        raise ValueError(
            f"Expected images as files, but {path} is an archive with images inside, which would stay "
            "as they are. Unpack it, or move it out of the folder."
        )
    return None


def _files_of_splits(source: Path, splits: Collection[str]) -> set[str]:
    from datasets import load_dataset_builder

    files = load_dataset_builder("imagefolder", data_dir=str(source)).config.data_files or {}
    known = {str(name): paths for name, paths in files.items()}
    missing = sorted(set(splits) - set(known))
    if missing:
        raise ValueError(f"Expected splits out of {sorted(known)}, but got {missing}.")
    top = source.resolve()
    return {Path(os.path.relpath(path, top)).as_posix() for name in splits for path in known[name]}


def _target_names(paths_to_formats: dict[str, str], *, taken: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Choose a new path for each image; also return the images that needed a longer one.

    Raises:
        ValueError: a longer name is in use too.
    """
    wished = {path: _wished_name(path, image_format) for path, image_format in paths_to_formats.items()}
    uses = Counter([*wished.values(), *taken])
    targets, clashes = {}, []
    for path, wish in wished.items():
        targets[path] = wish
        if wish != path and uses[wish] > 1:
            targets[path] = path + ".png"
            clashes.append(path)
    twice = [name for name, count in Counter([*targets.values(), *taken]).items() if count > 1]
    if twice:
        raise ValueError(
            f"Expected names that stay distinct when lossy images become .png, but several files would "
            f"become {twice[0]!r}; rename one of them."
        )
    return targets, clashes


def _wished_name(path: str, image_format: str) -> str:
    """Return the same path where the format fits its suffix, else with the suffix .png."""
    pure = PurePosixPath(path)
    suffix = pure.suffix.lower()
    if image_format != "PNG" or suffix in (".png", ".apng"):
        return path
    return str(pure.with_suffix(".png")) if suffix in IMAGE_SUFFIXES else path + ".png"


def _notes(plan: FolderPlan, dropped: set[str]) -> Iterator[str]:
    changed = sum(path != target for path, target in plan.targets.items())
    if changed:
        yield f"{changed} images were written as .png, under a new name: their format loses detail."
    if plan.clashes:
        yield (
            f"{len(plan.clashes)} of them kept the old suffix too, as in {plan.targets[plan.clashes[0]]}: "
            "another file has the short name."
        )
    if changed and any(PurePosixPath(path).name not in METADATA_NAMES for path in plan.others):
        yield "Other files than images, metadata.csv, .jsonl and .parquet were copied unchanged, old names included."
    left = {str(PurePosixPath(path).parent) for path in plan.targets if path not in dropped}
    emptied = sorted({str(PurePosixPath(path).parent) for path in dropped} - left)
    if emptied:
        yield f"No image is left in {', '.join(emptied)}: labels taken from folder names will be numbered anew."
