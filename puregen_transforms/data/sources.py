"""Open the image data a user names: a folder, Parquet files, a saved data set or a Hub name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, IterableDataset, config, load_dataset
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from PIL import ImageOps

from puregen_transforms.data.cells import Places
from puregen_transforms.data.columns import choose_image_columns
from puregen_transforms.data.image_folder import ImageFolder
from puregen_transforms.data.links import check_links
from puregen_transforms.data.local import check_path, what_is_there
from puregen_transforms.data.parquet_files import ParquetSplit, parquet_below, parquet_splits
from puregen_transforms.data.pictures import Pictures
from puregen_transforms.data.saved_sets import is_saved_set, load_saved_set
from puregen_transforms.data.split_names import check_split_names, choose_splits, split_name

if TYPE_CHECKING:
    from torch import Tensor

_PATIENCE = 30.0
"""Seconds for the Hub to say whether it has a name."""

# The base error of the HTTP library below, which differs between versions of huggingface_hub.
_TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


def open_source(source: str, *, follow_links: bool = False) -> DatasetDict:
    """Open `source` with its splits.

    Args:
        source: a Parquet file; a folder of Parquet files, of a dataset saved with `save_to_disk`,
            or of images (`ImageFolder` says how it is read); or the name of a dataset on the Hub.
        follow_links: read also what links in a folder lead to elsewhere.

    Raises:
        FileNotFoundError: a path that is not there, or a folder with nothing to read.
        ValueError: files that do not belong together, cannot be read, or lead out of the folder.
    """
    if is_image_folder(source):
        folder = ImageFolder.scan(Path(source).expanduser().resolve(), follow_links=follow_links)
        return DatasetDict({split: folder.dataset(split) for split in folder.splits})
    if (parquet := _parquet_files(source, follow_links)) is not None:
        return DatasetDict(_load_parquet(source, parquet))
    return _open_saved_or_named(source, follow_links)


def splits_of(dataset: Dataset | DatasetDict) -> dict[str, Dataset]:
    """Name the splits of a data set that `datasets` has opened; a single one without a name is "train"."""
    if isinstance(dataset, DatasetDict):
        return {str(split): rows for split, rows in dataset.items()}
    return {split_name(dataset.split): dataset}


def _open_saved_or_named(source: str, follow_links: bool) -> DatasetDict:
    path = Path(source).expanduser()
    if path.is_dir():
        check_links(path, follow_links=follow_links)
        loaded = load_saved_set(path)
    else:
        check_path(source)
        loaded = _load_named(source)
    splits = DatasetDict({"train": loaded}) if isinstance(loaded, Dataset) else loaded
    check_split_names(splits, source)
    return splits


def open_stream(source: str, split: str) -> IterableDataset:
    """Open a split of Parquet files as a stream.

    Raises:
        FileNotFoundError: a folder with nothing to read.
        ValueError: it holds something else.
    """
    parquet = _parquet_files(source)
    if not parquet or split not in parquet:
        raise ValueError(f"Expected Parquet files of a split {split!r} in {source!r}, but there are none.")
    return _load_parquet(source, parquet, split=split, streaming=True)


def is_image_folder(source: str) -> bool:
    """Tell whether the source is a folder that is read as loose image files."""
    path = Path(source).expanduser()
    return path.is_dir() and not is_saved_set(path) and not parquet_below(path)


def _parquet_files(source: str, follow_links: bool = False) -> dict[str, list[Path]] | None:
    """Find the Parquet files of each split; None for a source of another kind."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix != ".parquet":
            raise FileNotFoundError(f"Expected a .parquet file or a folder, but got the file {source!r}.")
        return {"train": [path]}
    if not path.is_dir() or is_saved_set(path):
        return None
    check_links(path, follow_links=follow_links)
    return parquet_splits(path)


def _load_parquet(source: str, files: dict[str, list[Path]], **options: Any) -> Any:
    """Have `datasets` read files of this machine, which nobody needs to hear of."""
    counts, config.HF_UPDATE_DOWNLOAD_COUNTS = config.HF_UPDATE_DOWNLOAD_COUNTS, False
    try:
        return load_dataset("parquet", data_files=_as_they_are(files), **options)
    except (ValueError, OSError, DatasetsError, pa.ArrowException):
        raise
    except Exception as error:  # on notes of the wrong kind in a file it raises what it likes
        raise ValueError(f"Expected data that can be read in {source}, but got: {error!r}.") from error
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = counts


def _as_they_are(files: dict[str, list[Path]]) -> DataFilesDict:
    """Name files to `datasets` so that it takes no bracket or star in a name for a pattern."""
    found = {}
    for split, paths in files.items():
        changed = [(str(path.stat().st_mtime_ns), str(path.stat().st_size)) for path in paths]
        found[split] = DataFilesList([str(path.resolve()) for path in paths], changed)
    return DataFilesDict(found)


def _load_named(source: str) -> Dataset | DatasetDict:
    try:
        _check_name(source)
        return load_dataset(source)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"Expected a file, a folder or a dataset name, but there is nothing at {source!r} "
            f"here, and as a name: {error}{what_is_there(source)}"
        ) from error


def _check_name(name: str) -> None:
    """Ask the Hub once for a name that is not cached: opening it would ask again and again.

    Raises:
        FileNotFoundError: there is no such data set, or none that this user may see.
        ConnectionError: the Hub cannot be reached.
    """
    cached = (
        Path(config.HF_DATASETS_CACHE) / name.replace("/", "___"),
        Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}",
    )
    if any(folder.exists() for folder in cached):
        return
    try:
        HfApi().dataset_info(name, timeout=_PATIENCE)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(f"the Hub has no data set {name!r} that you may see.") from error
    except HfHubHTTPError:  # a Hub in trouble may be well again when it is asked once more
        return
    except (OSError, _TRANSPORT_ERROR) as error:
        raise ConnectionError(f"the Hub cannot be reached ({error}).") from error


class TableSplit(Protocol):
    """One split of a data set, read in order and in bounded memory."""

    @property
    def features(self) -> Features:
        """Types of the columns."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    def batches(self, size: int, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows from `start` to before `stop`, typed as `features`, in tables of `size` rows and a rest."""


@dataclass(frozen=True, kw_only=True)
class DatasetSplit:
    """A split that `datasets` has opened."""

    dataset: Dataset

    @property
    def features(self) -> Features:
        """Types of the columns."""
        return self.dataset.features

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.dataset)

    def batches(self, size: int, start: int, stop: int) -> Iterator[pa.Table]:
        """Read the rows from `start` to before `stop` in tables of `size` rows and a rest."""
        rows = self.dataset.with_format("arrow")
        for first in range(start, stop, size):
            yield rows[first : min(first + size, stop)]


def open_tables(source: str, *, splits: Collection[str] = (), follow_links: bool = False) -> dict[str, TableSplit]:
    """Open anything but a folder of images as tables, by split.

    Args:
        source: see `open_source`.
        splits: the splits wanted; none named takes all.
        follow_links: see `open_source`.

    Raises:
        FileNotFoundError: see `open_source`.
        ValueError: a split that is not there, or a file that is not Parquet.
    """
    opened: dict[str, TableSplit]
    if (parquet := _parquet_files(source, follow_links)) is not None:
        opened = {split: ParquetSplit.open(paths) for split, paths in parquet.items()}
    else:
        found = _open_saved_or_named(source, follow_links)
        opened = {str(split): DatasetSplit(dataset=dataset) for split, dataset in found.items()}
    return choose_splits(opened, splits)


def iterate_images(
    source: str,
    *,
    splits: Collection[str] = (),
    columns: Collection[str] = (),
    skip_broken: bool = False,
    follow_links: bool = False,
) -> Iterator[PIL.Image.Image]:
    """Yield every image of a data set, one at a time.

    Args:
        source: see `open_source`.
        splits: the splits wanted; none named takes all.
        columns: the image columns wanted; none named takes the only one.
        skip_broken: leave out images that cannot be decoded, rather than raise.
        follow_links: see `open_source`.

    Raises:
        ValueError: a split or column that is not there, several columns, or an image that cannot be decoded.
    """
    opened, places = open_source(source, follow_links=follow_links), Places.of_source(source, follow_links=follow_links)
    for table in choose_splits(opened, splits).values():
        chosen = choose_image_columns(table.features, columns)
        read = [Pictures(table, column, places=places) for column in chosen]
        for row in range(len(table)):
            for pictures in read:
                try:
                    image = pictures[row]
                except ValueError:
                    if not skip_broken:
                        raise
                else:
                    if image is not None:
                        yield image


def load_image_tensor(source: str, *, split: str = "train", column: str | None = None, image_size: int = 32) -> Tensor:
    """Load every image of a split into memory: (N, 3, image_size, image_size) uint8.

    Other sizes are box-filtered to cover the square and cropped at the center.

    Args:
        source: see `open_source`.
        split: of the source.
        column: of images; None takes the only one.
        image_size: in pixels.

    Raises:
        ValueError: no such split, several columns of images, or an image that is missing or cannot be decoded.
    """
    import torch

    dataset = split_of(source, split)
    (column,) = choose_image_columns(dataset.features, column and [column])
    pictures = Pictures(dataset, column, places=Places.of_source(source))
    square = (image_size, image_size)
    images = torch.empty(len(dataset), 3, *square, dtype=torch.uint8)
    for row, image in enumerate(pictures):
        if image is None:
            raise ValueError(f"Expected an image in row {row}, but there is none. Leave such rows out.")
        rgb = image.convert("RGB")
        if rgb.size != square:
            rgb = ImageOps.fit(rgb, square, PIL.Image.Resampling.BOX)
        images[row] = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
    return images


def split_of(source: str, split: str) -> Dataset:
    """Open one split of a source.

    Raises:
        FileNotFoundError: see `open_source`.
        ValueError: there is no such split.
    """
    splits = open_source(source)
    if split not in splits:
        raise ValueError(f"Expected one of the splits {sorted(splits)} of {source!r}, but got {split!r}.")
    return splits[split]
