"""Purify the image columns of Parquet files and data sets into Parquet files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image
from datasets.table import table_cast
from datasets.utils.file_utils import xopen

from puregen_transforms.data.images import Purify
from puregen_transforms.data.outcome import Ledger, Outcome, Progress, Skipped
from puregen_transforms.data.repair import EncodedImage, Repaired, repair
from puregen_transforms.data.sources import TableSplit

SLICE_BYTES = 2**25
"""Encoded images in memory at once; decoding and PNG may take ten times as much."""

ROW_GROUP_BYTES = 2**26
SHARD_BYTES = 500 * 10**6


def choose_image_columns(tables: Mapping[str, TableSplit], columns: Collection[str] | None) -> list[str]:
    """The image columns to purify: those named, else all.

    Raises:
        ValueError: a name that is no image column, no image column at all, or images inside lists.
    """
    features = next(iter(tables.values())).features
    found = [name for name, feature in features.items() if isinstance(feature, Image)]
    if columns:
        wrong = [name for name in columns if name not in found]
        if wrong:
            raise ValueError(f"Expected image columns out of {found}, but got {wrong}.")
        return [name for name in found if name in columns]
    nested = [name for name, feature in features.items() if name not in found and _holds_images(feature)]
    if nested:
        raise ValueError(
            f"Expected each image in a column of its own, but {nested} hold images inside lists or "
            "structures, which would stay as they are. Unpack these columns, or name those to purify."
        )
    if not found:
        raise ValueError(
            f"Expected a column of images, but found only {_column_types(features)}. "
            "Cast the column with images to datasets.Image() first."
        )
    return found


def purify_tables(
    tables: Mapping[str, TableSplit],
    target: Path,
    purify: Purify,
    *,
    columns: Collection[str] | None,
    skip: bool,
    chunk_images: int,
    progress: Progress,
    single_file: bool,
) -> Outcome:
    """Rewrite splits as Parquet with every other column, the order and the features as they were.

    Args:
        tables: splits by name.
        target: an empty folder, or the file to write where `single_file` is true.
        purify: see `Purify`.
        columns: image columns to purify; None for all.
        skip: leave out the rows with an image that cannot be repaired, rather than stopping.
        chunk_images: images given to `purify` at once.
        progress: told after every image.
        single_file: write one split as one file.

    Raises:
        ValueError: columns (see `choose_image_columns`), or no row at all.
        UnreadableImageError: an image cannot be repaired, and `skip` is false.
        OSError: the target cannot be written.
    """
    chosen = choose_image_columns(tables, columns)
    total = sum(table.rows for table in tables.values()) * len(chosen)
    if not total:
        raise ValueError("Expected at least one row, but the data set is empty.")
    ledger = Ledger(total, skip=skip, progress=progress)
    empty = []
    for split, table in tables.items():
        schema = table.features.arrow_schema
        writer = _FileWriter(target, schema) if single_file else _ShardWriter(target / "data", split, schema)
        with writer:
            first_row = 0
            for batch in table.batches(chunk_images):
                for part in _slices(batch):
                    writer.write(_purify_rows(part, split, first_row, chosen, purify, ledger, chunk_images))
                    first_row += part.num_rows
        if not writer.rows:
            empty.append(split)
    note = f"No row is left for {', '.join(empty)}: such a split is not written, as datasets could not open it."
    return ledger.outcome((note,) if empty else ())


def _slices(batch: pa.Table) -> Iterator[pa.Table]:
    """Cut a batch of large images into parts."""
    rows = max(1, int(batch.num_rows * min(1.0, SLICE_BYTES / max(1, batch.nbytes))))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _purify_rows(
    part: pa.Table, split: str, first_row: int, columns: list[str], purify: Purify, ledger: Ledger, chunk_images: int
) -> pa.Table:
    """One part of a table, with its images repaired and without the rows that cannot be."""
    cells = {name: part.column(name).to_pylist() for name in columns}
    sources = [
        EncodedImage(key=(row, name), read=partial(_read_cell, cell))
        for row in range(part.num_rows)
        for name in columns
        if not _is_null(cell := cells[name][row])
    ]
    ledger.passed(part.num_rows * len(columns) - len(sources))
    failed = set()
    for repaired in repair(sources, purify, chunk_images=chunk_images):
        row, name = repaired.key
        if repaired.data is None:
            failed.add(row)
            place: dict[str, str | int] = {"split": split, "row": first_row + row, "column": name}
            ledger.problem(Skipped(place=place, reason=str(repaired.problem)))
        else:
            cells[name][row] = _new_cell(cells[name][row], repaired)
            ledger.repaired()
    for name in columns:
        column = pa.array(cells[name], type=Image.pa_type, size=part.num_rows)
        part = part.set_column(part.schema.get_field_index(name), part.schema.field(name), column)
    return part.take([row for row in range(part.num_rows) if row not in failed]) if failed else part


def _is_null(cell: dict[str, Any] | None) -> bool:
    return cell is None or (cell["bytes"] is None and cell["path"] is None)


def _read_cell(cell: dict[str, Any]) -> bytes:
    """Bytes of an image that is stored in the table, or only named there."""
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    with xopen(cell["path"], "rb") as file:
        return bytes(file.read())


def _new_cell(cell: dict[str, Any], repaired: Repaired[tuple[int, str]]) -> dict[str, Any]:
    """The image as PNG; its name gets the suffix to match, and loses the folder if that was on this machine."""
    path = cell["path"]
    if path is not None:
        pure = PurePosixPath(path)
        path = str(pure.with_suffix(".png")) if pure.name else None
        if path is not None and (cell["bytes"] is None or pure.is_absolute()):
            path = PurePosixPath(path).name
    return {"bytes": repaired.data, "path": path}


def _holds_images(feature: Any) -> bool:
    if isinstance(feature, Image):
        return True
    if isinstance(feature, dict):
        return any(map(_holds_images, feature.values()))
    if isinstance(feature, (list, tuple)):
        return any(map(_holds_images, feature))
    return hasattr(feature, "feature") and _holds_images(feature.feature)


def _column_types(features: Features) -> str:
    return ", ".join(
        f"{name} ({getattr(feature, 'dtype', type(feature).__name__)})" for name, feature in features.items()
    )


class _FileWriter:
    """One Parquet file, in row groups of a useful size."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._writer = pq.ParquetWriter(path, schema)
        self.written_bytes = 0
        self.rows = 0

    def __enter__(self) -> _FileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        table = table_cast(table, self._schema)
        self._waiting.append(table)
        self._waiting_bytes += table.nbytes
        self.rows += table.num_rows
        if self._waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self.written_bytes += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0


class _ShardWriter:
    """The files of one split, named as `datasets` finds them."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._split = split
        self._schema = schema
        self._paths: list[Path] = []
        self.rows = 0
        self._current = self._next()

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._current.__exit__(kind, *details)
        if kind is not None:
            return
        if not self.rows:
            self._paths[0].unlink()
        else:
            for number, path in enumerate(self._paths):
                path.rename(self._folder / f"{self._split}-{number:05d}-of-{len(self._paths):05d}.parquet")

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        if self._current.written_bytes >= SHARD_BYTES:
            self._current.__exit__(None)
            self._current = self._next()
        self._current.write(table)
        self.rows += table.num_rows

    def _next(self) -> _FileWriter:
        self._paths.append(self._folder / f"{self._split}-{len(self._paths):05d}.unfinished")
        return _FileWriter(self._paths[-1], self._schema)
