"""Purify a folder of image files into a folder of the same layout."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from puregen_transforms.data.images import IMAGE_SUFFIXES, ImageProblemError, Purify, looks_like_image, lossless_format
from puregen_transforms.data.metadata import METADATA_NAMES, rewrite_metadata
from puregen_transforms.data.outcome import Ledger, Outcome, Progress, Skipped
from puregen_transforms.data.repair import EncodedImage, repair


@dataclass(frozen=True, kw_only=True)
class FolderPlan:
    """What is in a folder of images, and under which names it will be written.

    Paths are relative to the folder, with "/".

    Args:
        targets: new path of each image.
        formats: format each image is written in.
        others: files to copy.
        folders: every folder below the top, parents first.
        problems: images whose header already cannot be read.
        clashes: images that got a longer name, because another file has the plain one.
    """

    targets: dict[str, str]
    formats: dict[str, str]
    others: tuple[str, ...]
    folders: tuple[str, ...]
    problems: tuple[Skipped, ...]
    clashes: tuple[str, ...]


def plan_folder(source: Path, *, splits: Collection[str] = ()) -> FolderPlan:
    """Look at every file of a folder, following links; only headers are read.

    Args:
        source: the folder. Hidden files and folders in it are left out, as `datasets` does.
        splits: take only the files of these splits, as `datasets` assigns them; none named takes all.

    Raises:
        FileNotFoundError: there is no image.
        ValueError: a split that is not there, or an archive with images inside.
    """
    wanted = _files_of_splits(source, splits) if splits else None
    formats: dict[str, str] = {}
    others, folders, problems = [], [], []
    for path, is_folder in _walk(source):
        if is_folder:
            folders.append(path)
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
    targets, clashes = _target_names(formats, taken=others)
    return FolderPlan(
        targets=targets,
        formats=formats,
        others=tuple(others),
        folders=tuple(folders),
        problems=tuple(problems),
        clashes=tuple(clashes),
    )


def purify_folder(
    source: Path, target: Path, plan: FolderPlan, purify: Purify, *, skip: bool, chunk_images: int, progress: Progress
) -> Outcome:
    """Carry out a plan.

    Args:
        source: the folder that was planned.
        target: an empty folder.
        plan: from `plan_folder`.
        purify: see `Purify`.
        skip: leave out images that cannot be repaired, rather than stopping.
        chunk_images: images given to `purify` at once.
        progress: told after every image.

    Raises:
        UnreadableImageError: an image cannot be repaired, and `skip` is false.
        OSError: the target cannot be written.
    """
    ledger = Ledger(len(plan.formats) + len(plan.problems), skip=skip, progress=progress)
    for problem in plan.problems:
        ledger.problem(problem)
    for folder in plan.folders:
        (target / folder).mkdir()
    for path in plan.others:
        if PurePosixPath(path).name not in METADATA_NAMES:
            _copy_new(source / path, target / path)
    images = (
        EncodedImage(key=path, read=partial(_read, source / path), image_format=image_format)
        for path, image_format in plan.formats.items()
    )
    for repaired in repair(images, purify, chunk_images=chunk_images):
        if repaired.data is None:
            ledger.problem(Skipped(place={"file": repaired.key}, reason=str(repaired.problem)))
        else:
            _write_new(target / plan.targets[repaired.key], repaired.data)
            ledger.repaired()
    dropped = {str(skipped.place["file"]) for skipped in ledger.skipped}
    for path in plan.others:
        if PurePosixPath(path).name in METADATA_NAMES:
            rewrite_metadata(
                source / path,
                target / path,
                folder=str(PurePosixPath(path).parent),
                targets=plan.targets,
                dropped=dropped,
            )
    return ledger.outcome(tuple(_notes(plan, dropped)))


def _walk(top: Path) -> Iterator[tuple[str, bool]]:
    """Paths below a folder, sorted, each with whether it is a folder; a link back to a parent is not followed."""

    def walk(folder: Path, prefix: str, parents: frozenset[str]) -> Iterator[tuple[str, bool]]:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            path = prefix + entry.name
            if not entry.is_dir():
                yield path, False
            elif (real := os.path.realpath(entry.path)) not in parents:
                yield path, True
                yield from walk(Path(entry.path), path + "/", parents | {real})

    yield from walk(top, "", frozenset({os.path.realpath(top)}))


def _image_format(path: Path) -> str | None:
    """Format to write a file in, or None for a file that is no image.

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
    if _archives_images(path, first_bytes):
        raise ValueError(
            f"Expected images as files, but {path} is an archive with images inside, which would stay "
            "as they are. Unpack it, or move it out of the folder."
        )
    return None


def _archives_images(path: Path, first_bytes: bytes) -> bool:
    if first_bytes.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(looks_like_image(name, b"") for name in archive.namelist())
    if ".tar" in path.suffixes or path.suffix in (".tgz", ".tbz2", ".txz"):
        with tarfile.open(path) as archive:
            return any(looks_like_image(member.name, b"") for member in archive)
    return False


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
    """New path of each image, and the images that needed a longer one.

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
    """The same path where the format fits its suffix, else with the suffix .png."""
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


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _write_new(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)


def _copy_new(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer)
