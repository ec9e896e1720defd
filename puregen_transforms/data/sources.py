"""Open the image data a user names: a folder, Parquet files, a saved dataset or a Hub name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Image, config, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetsError
from datasets.table import table_cast
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from PIL import ImageOps

from puregen_transforms._files import is_inside, is_regular
from puregen_transforms._text import shown
from puregen_transforms.data.cells import Places, StoredImages
from puregen_transforms.data.dataset_cards import check_card
from puregen_transforms.data.links import check_links
from puregen_transforms.data.local import check_path, what_is_there
from puregen_transforms.data.saved_sets import is_saved_set, load_saved_set
from puregen_transforms.data.split_names import check_split_names

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
            or of images; or the name of a dataset on the Hub.
        follow_links: read also what links in a folder lead to elsewhere.

    Raises:
        FileNotFoundError: a path that is not there, or a folder with nothing to read.
        ValueError: data that cannot be read, or that lead out of the folder.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix != ".parquet":
            raise FileNotFoundError(f"Expected a .parquet file or a folder, but got the file {source!r}.")
        loaded = _load_files("parquet", path, data_files={"train": str(path)})
    elif path.is_dir():
        if not follow_links:
            check_links(path)
        if is_saved_set(path):
            loaded = load_saved_set(path)
        elif _parquet_below(path):
            loaded = _load_files("parquet", path, data_dir=str(path))
        else:
            loaded = _load_files("imagefolder", path, data_dir=str(path))
    else:
        check_path(source)
        loaded = _load_named(source)
    splits = DatasetDict({"train": loaded}) if isinstance(loaded, Dataset) else loaded
    check_split_names(splits, source)
    return splits


def _load_files(kind: str, path: Path, **files: Any) -> Dataset | DatasetDict:
    """Have `datasets` read files of this machine, which nobody needs to hear of."""
    counts, config.HF_UPDATE_DOWNLOAD_COUNTS = config.HF_UPDATE_DOWNLOAD_COUNTS, False
    try:
        return load_dataset(kind, **files)
    except (ValueError, OSError, DatasetsError, pa.ArrowException):
        raise
    except Exception as error:  # on notes of the wrong kind in a file it raises what it likes
        raise ValueError(f"Expected data that can be read in {path}, but got: {error!r}.") from error
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = counts


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


BATCH_BYTES = 2**26
BATCH_ROWS = 1024
"""Rows read from Parquet at once, at most."""


@dataclass(frozen=True, kw_only=True)
class ParquetSplit:
    """Parquet files, read where they are: opening them with `datasets` would first copy them to its cache.

    Raises (in `open`):
        ValueError: a file that is not Parquet.
    """

    paths: tuple[Path, ...]
    features: Features
    rows: int

    @classmethod
    def open(cls, paths: Collection[Path]) -> ParquetSplit:
        """Read the schema and the number of rows of some files."""
        rows = sum(_open_parquet(path).metadata.num_rows for path in paths)
        features = features_of(_open_parquet(first := next(iter(paths))).schema_arrow, first)
        return cls(paths=tuple(paths), features=features, rows=rows)

    def batches(self, size: int, start: int, stop: int) -> Iterator[pa.Table]:
        """Read the rows from `start` to before `stop` in tables of `size` rows and a rest."""
        waiting: list[pa.Table] = []
        for table in self._tables(start, stop):
            waiting.append(table)
            while sum(map(len, waiting)) >= size:
                joined = pa.concat_tables(waiting)
                yield joined.slice(0, size)
                waiting = [joined.slice(size)]
        if sum(map(len, waiting)):
            yield pa.concat_tables(waiting)

    def _tables(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows from `start` to before `stop`, in tables as large as reading them is cheap."""
        first = 0
        for path in self.paths:
            with _open_parquet(path) as file:
                for group in range(file.metadata.num_row_groups):
                    found = file.metadata.row_group(group)
                    if first < stop and first + found.num_rows > start:
                        row_bytes = found.total_byte_size // max(1, found.num_rows)
                        rows = min(BATCH_ROWS, max(1, BATCH_BYTES // max(1, row_bytes)))
                        yield from self._within(file, group, rows, start - first, stop - first)
                    first += found.num_rows

    def _within(self, file: pq.ParquetFile, group: int, rows: int, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield rows of one row group, which can only be read from its beginning."""
        first = 0
        for batch in file.iter_batches(batch_size=rows, row_groups=[group]):
            if first >= stop:
                return
            if first + batch.num_rows > start:
                skip = max(0, start - first)
                wanted = pa.Table.from_batches([batch]).slice(skip, stop - first - skip)
                yield table_cast(wanted, self.features.arrow_schema)
            first += batch.num_rows


def features_of(schema: pa.Schema, path: Path) -> Features:
    """Tell the types of a Parquet file's columns, from the notes that `datasets` left in it.

    Raises:
        ValueError: the notes are of another kind.
    """
    try:
        return Features.from_arrow_schema(schema)
    except Exception as error:  # it takes the notes as they are, so anything may come up
        raise ValueError(f"Expected notes on the columns in {path}, but they are damaged: {error!r}.") from error


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
    path = Path(source).expanduser()
    opened: dict[str, TableSplit]
    if path.is_file() and path.suffix == ".parquet":
        opened = {"train": ParquetSplit.open([path])}
    elif path.is_dir() and not is_saved_set(path) and _parquet_below(path):
        if not follow_links:
            check_links(path)
        opened = {split: ParquetSplit.open(paths) for split, paths in _parquet_splits(path, follow_links).items()}
    else:
        found = open_source(source, follow_links=follow_links)
        opened = {str(split): DatasetSplit(dataset=dataset) for split, dataset in found.items()}
    missing = sorted(set(splits) - set(opened))
    if missing:
        raise ValueError(f"Expected splits out of {sorted(opened)}, but got {missing}.")
    return {split: table for split, table in opened.items() if not splits or split in splits}


def is_image_folder(source: str) -> bool:
    """Tell whether the source is a folder that `open_source` would read as loose image files."""
    path = Path(source).expanduser()
    return path.is_dir() and not is_saved_set(path) and not _parquet_below(path)


def _parquet_below(folder: Path) -> bool:
    """Tell whether there are Parquet files with data: `metadata.parquet` only describes loose images."""
    return any(path.name != "metadata.parquet" for path in folder.rglob("*.parquet"))


def _parquet_splits(folder: Path, follow_links: bool) -> dict[str, list[Path]]:
    """Find the Parquet files of each split, as `datasets` assigns them."""
    check_card(folder)
    try:
        builder = load_dataset_builder(str(folder))
    except Exception as error:  # it takes the card of the folder as it is, so anything may come up
        raise ValueError(
            f"Expected one data set of Parquet files in {folder}, but got: {error} "
            "If there are several, name the folder of one as the source."
        ) from error
    files = {
        str(split): [Path(path) for path in paths if str(path).endswith(".parquet")]
        for split, paths in (builder.config.data_files or {}).items()
    }
    found = {split: paths for split, paths in files.items() if paths}
    if not found:
        raise ValueError(
            f"Expected a folder of Parquet files, but {folder} holds more files of other kinds; "
            "name a Parquet file, or a folder with nothing else."
        )
    check_split_names(found, folder)
    for path in (path for paths in found.values() for path in paths):
        if not is_regular(path) or not (follow_links or is_inside(folder, path)):
            raise ValueError(f"Expected files in {folder}, but {shown(str(path))} is none of them.")
    return found


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        # A whole column of a large row group would be read ahead otherwise.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"Expected a Parquet file, but {path} cannot be read as one: {error}") from error


def image_columns(dataset: Dataset) -> list[str]:
    """Name the columns that hold images."""
    return [name for name, feature in dataset.features.items() if isinstance(feature, Image)]


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
        columns: the image columns wanted; none named takes all.
        skip_broken: leave out images that cannot be decoded, rather than raise.
        follow_links: see `open_source`.

    Raises:
        ValueError: a split or column that is not there, or an image that cannot be decoded.
    """
    tables = open_source(source, follow_links=follow_links)
    places = Places.of_source(source, follow_links=follow_links)
    for name, table in tables.items():
        if splits and name not in splits:
            continue
        wanted = [column for column in image_columns(table) if not columns or column in columns]
        stored = [StoredImages(table, column, places) for column in wanted]
        for index in range(len(table)):
            try:
                row = [images[index] for images in stored]
            except (OSError, ValueError) as error:
                if skip_broken:
                    continue
                raise ValueError(f"Expected an image in row {index} of split {name!r}, but got: {error}") from error
            yield from (image for image in row if image is not None)


def load_image_tensor(source: str, *, split: str = "train", image_size: int = 32) -> Tensor:
    """Load every image of a split into memory: (N, 3, image_size, image_size) uint8.

    Other sizes are box-filtered to cover the square and cropped at the center.
    """
    import torch

    splits = open_source(source)
    if split not in splits:
        raise ValueError(f"Expected one of the splits {sorted(splits)}, but got {split!r}.")
    dataset = splits[split]
    columns = image_columns(dataset)
    if len(columns) != 1:
        raise ValueError(f"Expected one image column in {source!r}, but found {columns}.")
    square = (image_size, image_size)
    images = torch.empty(len(dataset), 3, *square, dtype=torch.uint8)
    for index, image in enumerate(StoredImages(dataset, columns[0], Places.of_source(source))):
        if image is None:
            raise ValueError(f"Expected an image in row {index} of {source!r}, but it is empty. Leave it out.")
        rgb = image.convert("RGB")
        if rgb.size != square:
            rgb = ImageOps.fit(rgb, square, PIL.Image.Resampling.BOX)
        images[index] = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
    return images
