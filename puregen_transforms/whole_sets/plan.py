"""Plan the copy of a data set, whatever kind it is of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from puregen_transforms.data.cells import ANYWHERE, Places
from puregen_transforms.data.columns import check_same_features, choose_image_columns
from puregen_transforms.data.image_folder import ImageFolder
from puregen_transforms.data.local import local_path
from puregen_transforms.data.sources import TableSplit, is_image_folder, open_tables
from puregen_transforms.data.split_names import check_split_names
from puregen_transforms.whole_sets.dataset_copy import DatasetCopy
from puregen_transforms.whole_sets.folder_copy import FolderCopy
from puregen_transforms.whole_sets.folder_plan import plan_folder
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage
from puregen_transforms.whole_sets.table_copy import TableCopy
from puregen_transforms.whole_sets.treatment import ALL_PURIFIED, Treatment


def copy_of(
    source: str,
    destination: Path,
    *,
    columns: Collection[str] = (),
    splits: Collection[str] = (),
    follow_links: bool = False,
    storage: Storage = LOSSLESS,
    treatment: Treatment = ALL_PURIFIED,
) -> DatasetCopy:
    """Look at a data set, and plan its copy.

    Args:
        source: a folder of images, a Parquet file, a folder of Parquet files, a saved data set, or a name.
        destination: for images a folder of the same layout; for tables a folder of Parquet files, or a single file
            where it ends in .parquet.
        columns: image columns to purify; empty for the only one.
        splits: splits to copy; empty for all.
        follow_links: copy also what links in a folder lead to elsewhere.
        storage: of the purified images.
        treatment: images or rows to leave out, or to keep as they are.

    Raises:
        ValueError: a destination, columns or splits that do not fit the source.
        OSError: the source cannot be read.
    """
    check_apart(local_path(source), destination)
    if is_image_folder(source):
        check_destination_of_images(destination)
        folder = ImageFolder.scan(Path(source).expanduser(), follow_links=follow_links)
        plan = plan_folder(folder, splits=splits, columns=columns, treatment=treatment, storage=storage)
        return FolderCopy(source=folder.top, plan=plan)
    tables = open_tables(source, splits=splits, follow_links=follow_links)
    check_destination_of_tables(destination, tables)
    places = Places.of_source(source, follow_links=follow_links)
    return table_copy(tables, columns, places, treatment=treatment, storage=storage)


def table_copy(
    tables: Mapping[str, TableSplit],
    columns: Collection[str],
    places: Places = ANYWHERE,
    *,
    treatment: Treatment = ALL_PURIFIED,
    storage: Storage = LOSSLESS,
) -> TableCopy:
    """Plan the copy of opened tables.

    Args:
        tables: by split; all have the same columns.
        columns: image columns to purify; empty for the only one.
        places: where the rows may name files.
        storage: of the purified images.
        treatment: rows to leave out, or to keep as they are.

    Raises:
        ValueError: names of splits that cannot be those of files, splits of different columns, columns that do not
            fit, or no rows.
    """
    check_split_names(tables, "the data set")
    check_same_features({split: table.features for split, table in tables.items()})
    chosen = choose_image_columns(next(iter(tables.values())).features, columns)
    if not any(table.rows for table in tables.values()):
        raise ValueError("Expected at least one row, but the data set is empty.")
    return TableCopy(tables=tables, columns=chosen, places=places, treatment=treatment, storage=storage)


def check_destination_of_images(destination: Path) -> None:
    """Refuse a single file for a folder of images.

    Raises:
        ValueError: it is one.
    """
    if destination.suffix == ".parquet":
        raise ValueError(f"Expected a folder as the destination of a folder of images, but got {destination}.")


def check_destination_of_tables(destination: Path, splits: Collection[str]) -> None:
    """Refuse a single file for several splits.

    Raises:
        ValueError: it is one.
    """
    if destination.suffix == ".parquet" and len(splits) > 1:
        raise ValueError(
            f"Expected one split for a single file, but got {list(splits)}; choose a split, or name a folder as the "
            "destination."
        )


def check_apart(source: Path | None, destination: Path) -> None:
    """Refuse a destination that is the source, or inside it.

    Raises:
        ValueError: it is.
    """
    if source is None:
        return
    inside, outside = destination.expanduser().resolve(), source.resolve()
    if inside == outside or outside in inside.parents:
        raise ValueError(f"Expected a destination outside the source, but {destination} is in {source}.")
