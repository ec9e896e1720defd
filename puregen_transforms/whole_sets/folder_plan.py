"""Plan the copy of a folder of images: what becomes of each file, and under which name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from puregen_transforms.data.images import LARGEST_LOOKED_AT, ImageProblemError
from puregen_transforms.data.reserved_names import METADATA_NAMES
from puregen_transforms.whole_sets.metadata import check_metadata
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage
from puregen_transforms.whole_sets.summary import Skipped
from puregen_transforms.whole_sets.target_names import choose_target_names
from puregen_transforms.whole_sets.treatment import ALL_PURIFIED, FOLDER, Treatment

if TYPE_CHECKING:
    from puregen_transforms.data.image_folder import ImageFolder


@dataclass(frozen=True, kw_only=True)
class FolderPlan:
    """The files of a folder of images, and the names under which they will be written.

    Paths are relative to the folder, with "/".

    Args:
        targets: new path of each image.
        formats: format of each image that is purified or converted.
        converted: images that are converted alone.
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
    converted: frozenset[str] = frozenset()
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
    folder: ImageFolder,
    *,
    splits: Collection[str] = (),
    columns: Collection[str] = (),
    treatment: Treatment = ALL_PURIFIED,
    storage: Storage = LOSSLESS,
) -> FolderPlan:
    """Look at every file of a folder; of images, only headers are read.

    Args:
        folder: from `ImageFolder.scan`.
        splits: take only the files of these splits; none named takes all.
        columns: of images to purify, where metadata name several; other images are copied as they are.
        treatment: of images by path: those to leave out, or to keep as they are; of other columns, those to leave out.
        storage: of the purified images; others that it converts are stored so, too.

    Raises:
        ValueError: a split or a column that is not there, metadata that do not fit, or names that would meet or become
            too long.
    """
    folder.check_splits(splits)
    inputs = folder.inputs(splits, columns)
    problems = [
        Skipped(place={"file": path}, reason=reason)
        for path, reason in folder.problems.items()
        if folder.in_split(path, splits)
    ]
    left_out = {path: reason for path in inputs if (reason := treatment.reason(FOLDER, path)) is not None}
    gone = [path for path in folder.images if treatment.reason(FOLDER, path) is not None]
    there = [path for path in inputs if path not in folder.problems and path not in left_out]
    purified = {path for path in there if treatment.purifies(FOLDER, path)}
    formats, unreadable = _formats(folder.top, there if storage.convert else sorted(purified), purified, storage)
    problems += unreadable
    known = {*inputs, *folder.problems}
    others = [path for path in sorted((*folder.others, *folder.images)) if path not in known]
    others = [path for path in others if folder.in_split(path, splits) and treatment.reason(FOLDER, path) is None]
    broken = {problem.place["file"] for problem in problems}
    kept = [path for path in there if path not in purified and path not in formats and path not in broken]
    folders, used = folder.folders, folders_of([*formats, *kept, *others])
    if splits:
        folders = tuple(path for path in folders if path in used)
    # torchvision's ImageFolder opens no folder with a class of which no image is left.
    emptied = folders_of(gone) - used
    folders = tuple(path for path in folders if path not in emptied)
    wished = {path: storage.name_of(path, image_format) for path, image_format in formats.items()}
    targets, clashes = choose_target_names(wished, taken=[*others, *folders, *kept])
    targets |= {path: path for path in kept}
    check_metadata(folder.top, [path for path in others if PurePosixPath(path).name in METADATA_NAMES], targets)
    return FolderPlan(
        targets=targets,
        formats=formats,
        others=tuple(others),
        folders=folders,
        problems=tuple(problems),
        clashes=tuple(clashes),
        converted=frozenset(formats) - purified,
        hidden=folder.hidden,
        splits=tuple(splits),
        columns=tuple(columns),
        storage=storage,
        treatment=treatment,
        left_out=left_out,
    )


def _formats(
    top: Path, paths: Iterable[str], purified: Collection[str], storage: Storage
) -> tuple[dict[str, str], list[Skipped]]:
    """Choose the formats of the images that are purified or converted, by their headers.

    Args:
        top: the folder.
        paths: of images.
        purified: those of them that are purified.
        storage: see `plan_folder`.

    Returns:
        The formats by path, and the images that cannot be read.
    """
    formats: dict[str, str] = {}
    problems = []
    for path in paths:
        try:
            with (top / path).open("rb") as file:
                if path in purified:
                    formats[path] = storage.format_of(path, file)
                elif storage.stores_anew(file):
                    formats[path] = storage.format_of(path, file, largest=LARGEST_LOOKED_AT)
        except OSError as error:
            problems.append(Skipped(place={"file": path}, reason=f"it cannot be read ({error.strerror or error})"))
        except ImageProblemError as problem:
            problems.append(Skipped(place={"file": path}, reason=str(problem)))
    return formats, problems


def folders_of(paths: Collection[str]) -> set[str]:
    """List the folders that files are in, at any depth."""
    return {parent for path in paths for parent in map(str, PurePosixPath(path).parents)}


def notes_of(plan: FolderPlan, dropped: set[str]) -> Iterator[str]:
    """Say what a user should know of a copy: changed names, lost detail, classes without images, order.

    Args:
        plan: of the copy.
        dropped: images that were left out.
    """
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
