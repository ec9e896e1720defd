"""Parquet files, read where they are, and the splits that a folder of them holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.table import table_cast

from puregen_transforms.data.split_names import named_split, ordered_splits

BATCH_BYTES = 2**26
BATCH_ROWS = 1024
"""Rows read from Parquet at once, at most."""

_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}(?:-\w+)?\.parquet")
"""A file as `datasets` writes it: `train-00000-of-00002.parquet`."""


@dataclass(frozen=True, kw_only=True)
class ParquetSplit:
    """Parquet files, read where they are: opening them with `datasets` would first copy them to its cache.

    Raises (in `open`):
        ValueError: a file that is not Parquet, or has other columns than the first.
    """

    paths: tuple[Path, ...]
    features: Features
    rows: int

    @classmethod
    def open(cls, paths: Collection[Path]) -> ParquetSplit:
        """Read the schema and the number of rows of some files."""
        first, *_ = paths
        features = features_of(_open_parquet(first).schema_arrow, first)
        rows = 0
        for path in paths:
            with _open_parquet(path) as file:
                rows += file.metadata.num_rows
                if set(file.schema_arrow.names) != set(features):
                    raise ValueError(
                        f"Expected files with the columns {list(features)} of {first.name}, but {path} has "
                        f"{file.schema_arrow.names}."
                    )
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


def parquet_below(folder: Path) -> list[Path]:
    """Find the Parquet files with data below a folder, sorted; `metadata.parquet` only describes loose images.

    Hidden ones are left out.
    """
    found = (path for path in folder.rglob("*.parquet") if path.name != "metadata.parquet" and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def parquet_splits(folder: Path) -> dict[str, list[Path]]:
    """Find the Parquet files of each split: by their names, or else by the folders they are in; or all are "train".

    Raises:
        ValueError: several data sets, or files of which only some belong to a split.
    """
    paths = parquet_below(folder)
    for names in (
        {path: found[1] if (found := _SHARD.fullmatch(path.name)) else None for path in paths},
        {path: named_split(path.stem) for path in paths},
        {path: _split_of_parents(path.relative_to(folder)) for path in paths},
    ):
        known = {path: name for path, name in names.items() if name is not None}
        if not known:
            continue
        _check_one_set(folder, paths, known)
        return ordered_splits({name: [path for path in paths if known[path] == name] for name in known.values()})
    return {"train": paths}


def _split_of_parents(path: Path) -> str | None:
    return next((split for part in reversed(path.parts[:-1]) if (split := named_split(part))), None)


def _check_one_set(folder: Path, paths: list[Path], splits: dict[Path, str]) -> None:
    rest = [path for path in paths if path not in splits]
    if rest:
        raise ValueError(
            f"Expected every Parquet file in {folder} to belong to a split, as {next(iter(splits)).name} does, but not "
            f"so {rest[0].relative_to(folder)}. Move it out of the folder, or name a single file."
        )
    for split in splits.values():
        homes = sorted({path.parent for path in paths if splits[path] == split})
        if len(homes) > 1 and any(_SHARD.fullmatch(path.name) for path in paths):
            raise ValueError(
                f"Expected one data set of Parquet files in {folder}, but {homes[0].relative_to(folder)} and "
                f"{homes[1].relative_to(folder)} both have a split {split!r}. If there are several, name the folder of "
                "one as the source."
            )


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        # A whole column of a large row group would be read ahead otherwise.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"Expected a Parquet file, but {path} cannot be read as one: {error}") from error
