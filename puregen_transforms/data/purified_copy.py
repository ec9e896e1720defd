"""Purify a whole data set from one place to another, or leave nothing behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from puregen_transforms.data.atomic import check_free, complete_or_absent
from puregen_transforms.data.folders import plan_folder, purify_folder
from puregen_transforms.data.images import Purify
from puregen_transforms.data.outcome import Outcome, Progress, write_skipped
from puregen_transforms.data.sources import is_image_folder, local_path, open_tables
from puregen_transforms.data.tables import choose_image_columns, purify_tables

ON_ERROR = ("stop", "skip")


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """What to purify, and how.

    Args:
        columns: image columns of a table to purify; empty for all.
        splits: splits to copy; empty for all.
        on_error: "stop" at the first image that cannot be repaired, or "skip" such images.
        chunk_images: images in memory, and given to the purifier, at once.
    """

    columns: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    on_error: str = "stop"
    chunk_images: int = 256

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise ValueError(f"Expected on-error to be one of {list(ON_ERROR)}, but got {self.on_error!r}.")
        if self.chunk_images < 1:
            raise ValueError(f"Expected at least 1 image in a chunk, but got {self.chunk_images}.")


def purified_copy(
    source: str,
    destination: Path,
    purify: Purify,
    options: CopyOptions,
    *,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Write a purified copy of a data set; the original is only read.

    Args:
        source: a folder of images, a Parquet file, a folder of Parquet files, a saved data set, or a name.
        destination: for images a folder of the same layout; for tables a folder of Parquet files, or a single file
            where it ends in .parquet. It appears when everything is written; after a failure it is not there.
        purify: see `Purify`.
        options: see `CopyOptions`.
        progress: told after every image.

    Raises:
        ValueError: options that do not fit the source, or an image that cannot be repaired.
        FileExistsError: there is something at the destination already.
        OSError: the source cannot be read, or the destination not written.
    """
    single_file = destination.suffix == ".parquet"
    _check_apart(local_path(source), destination)
    check_free(destination, folder=not single_file)
    if is_image_folder(source):
        return _copy_images(Path(source).expanduser(), destination, purify, options, progress)
    return _copy_tables(source, destination, purify, options, progress)


def skipped_path(destination: Path) -> Path:
    """Where the list of images left out goes: in a folder, or beside a file."""
    if destination.suffix == ".parquet":
        return destination.with_suffix(".skipped.json")
    return destination / "skipped.json"


def _copy_images(source: Path, destination: Path, purify: Purify, options: CopyOptions, progress: Progress) -> Outcome:
    if destination.suffix == ".parquet":
        raise ValueError(f"Expected a folder as the destination of a folder of images, but got {destination}.")
    unknown = [name for name in options.columns if name != "image"]
    if unknown:
        raise ValueError(f"Expected image columns out of ['image'], which is what a folder has, but got {unknown}.")
    with complete_or_absent(destination, folder=True) as temporary:
        plan = plan_folder(source, splits=options.splits)
        if options.on_error == "skip" and skipped_path(Path()).name in plan.others:
            raise ValueError(
                f"Expected no {skipped_path(source)}: the list of skipped images gets that name. Rename or remove it."
            )
        outcome = purify_folder(
            source,
            temporary,
            plan,
            purify,
            skip=options.on_error == "skip",
            chunk_images=options.chunk_images,
            progress=progress,
        )
        if outcome.skipped:
            write_skipped(outcome.skipped, skipped_path(temporary))
    return outcome


def _copy_tables(source: str, destination: Path, purify: Purify, options: CopyOptions, progress: Progress) -> Outcome:
    single_file = destination.suffix == ".parquet"
    skip = options.on_error == "skip"
    if single_file and skip:
        check_free(skipped_path(destination), folder=False)
    tables = open_tables(source, splits=options.splits)
    choose_image_columns(tables, options.columns)
    if single_file and len(tables) > 1:
        raise ValueError(
            f"Expected one split for a single file, but got {list(tables)}; choose a split, or name a "
            "folder as the destination."
        )
    with complete_or_absent(destination, folder=not single_file) as temporary:
        outcome = purify_tables(
            tables,
            temporary,
            purify,
            columns=options.columns,
            skip=skip,
            chunk_images=options.chunk_images,
            progress=progress,
            single_file=single_file,
        )
        if outcome.skipped and not single_file:
            write_skipped(outcome.skipped, skipped_path(temporary))
    if outcome.skipped and single_file:
        write_skipped(outcome.skipped, skipped_path(destination))
    return outcome


def _check_apart(source: Path | None, destination: Path) -> None:
    """Refuse a destination that is the source, or inside it."""
    if source is None:
        return
    inside, outside = destination.expanduser().resolve(), source.resolve()
    if inside == outside or outside in inside.parents:
        raise ValueError(f"Expected a destination outside the source, but {destination} is in {source}.")
