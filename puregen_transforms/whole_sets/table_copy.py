"""Purify the image columns of Parquet files and data sets into Parquet files, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from typing import Any, Self

import PIL.Image
import pyarrow as pa

from puregen_transforms._files import below
from puregen_transforms.data.cells import ANYWHERE, Places
from puregen_transforms.data.sources import TableSplit
from puregen_transforms.whole_sets.copy_folder import CopyFolder
from puregen_transforms.whole_sets.dataset_copy import (
    PART_ROWS,
    Finished,
    Part,
    PartRecord,
    PurifyOptions,
    check_part_rows,
)
from puregen_transforms.whole_sets.row_digest import RowDigest
from puregen_transforms.whole_sets.rows import (
    DATA_FOLDER,
    SLICE_ROWS,
    ImageModes,
    cut_by_bytes,
    decoded_images,
    image_modes,
    mean_pixels,
    row_bytes,
    write_part,
)
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage
from puregen_transforms.whole_sets.treatment import ALL_PURIFIED, Treatment

MOST_PARTS = 99_999
"""`datasets` knows the files of a split by numbers of five digits."""

_LOOKED_AT = 4
"""Rows whose images' sizes are looked at before the work, at a place."""


@dataclass(frozen=True, kw_only=True)
class TableCopy:
    """A copy of tables into Parquet files, with every other column, the order and the features as they were.

    Args:
        tables: splits by name.
        columns: image columns to purify.
        part_rows: rows of a part, which is a file.
        places: where the rows may name files.
        treatment: rows to leave out, or to keep as they are.
        storage: of the purified images.
    """

    tables: Mapping[str, TableSplit]
    columns: Sequence[str]
    part_rows: int = PART_ROWS
    places: Places = ANYWHERE
    treatment: Treatment = ALL_PURIFIED
    storage: Storage = LOSSLESS

    def __post_init__(self) -> None:
        check_part_rows(self.part_rows)

    @property
    def images(self) -> int:
        """Number of images, empty cells included."""
        return sum(table.rows for table in self.tables.values()) * len(self.columns)

    @property
    def to_purify(self) -> int:
        """Number of those that are purified."""
        chosen = self.treatment.purified
        if chosen is not None:
            return sum(map(len, chosen.values())) * len(self.columns)
        return self.images - sum(map(self.treatment.leaves_out, self.tables)) * len(self.columns)

    def row_pixels(self) -> list[int]:
        """Measure images from four places in the split with the largest ones."""
        samples = (self._sample(table) for table in self.tables.values())
        return max((mean_pixels(rows, self.columns, self.places, self.storage) for rows in samples), key=sum)

    def stored_bytes(self) -> float:
        """Store some images of every split."""
        total = 0.0
        for split, table in self.tables.items():
            with suppress(OSError, ValueError):  # what cannot be read is reported where it is purified
                sample = pa.concat_tables(self._sample(table))
                modes = self._modes(split)
                total += table.rows * row_bytes(sample, modes, self.places, split, self.treatment, self.storage)
        return total

    @staticmethod
    def _sample(table: TableSplit) -> Iterator[pa.Table]:
        """Read rows from four places."""
        for start in sorted({table.rows * quarter // 4 for quarter in range(4)}):
            yield from table.batches(_LOOKED_AT, start, min(start + _LOOKED_AT, table.rows))

    def cut(self, part_rows: int) -> Self:
        """Cut into parts of so many rows."""
        most = max(table.rows for table in self.tables.values())
        if most > MOST_PARTS * check_part_rows(part_rows):
            raise ValueError(
                f"Expected at most {MOST_PARTS} parts, but {most} rows are more; take at least "
                f"{ceil(most / MOST_PARTS)} rows for a part."
            )
        return replace(self, part_rows=part_rows)

    def describe(self) -> dict[str, Any]:
        """Describe the tables by their rows, features and columns."""
        features = next(iter(self.tables.values())).features
        return {
            "rows": {split: table.rows for split, table in self.tables.items()},
            "features": features.to_dict(),
            "columns": list(self.columns),
            "rows of a part": self.part_rows,
            **self.storage.described(),
            **self.treatment.described(),
        }

    def parts_of(self, rank: int, count: int, finished: Finished) -> Iterator[Part]:
        """Yield the parts that one process out of `count` is to purify."""
        return islice(self._parts(), rank, None, count)

    def _parts(self) -> Iterator[Part]:
        for split, table in self.tables.items():
            total = ceil(table.rows / self.part_rows)
            for number in range(total):
                start = number * self.part_rows
                name = f"{split}-{number:05d}-of-{total:05d}"
                yield Part(name=name, split=split, start=start, stop=min(start + self.part_rows, table.rows))

    def source_digest(self, part: Part) -> str:
        """Hash all that a part is made from."""
        content = RowDigest(self.places)
        for table in self._slices(part):
            content.add(table)
        return content.hexdigest()

    def prepare(self, into: CopyFolder, options: PurifyOptions) -> None:
        """Make the folders that the first part needs."""
        (into.folder / DATA_FOLDER).mkdir(exist_ok=True)

    def write(self, part: Part, into: CopyFolder, options: PurifyOptions) -> PartRecord:
        """Purify a part."""
        schema = self.tables[part.split].features.arrow_schema
        modes = self._modes(part.split)
        return write_part(
            part, self._slices(part), schema, modes, into, options, self.places, self.treatment, self.storage
        )

    def pictures(self, *, skip: bool) -> Iterator[PIL.Image.Image]:
        """Yield every image that is purified, decoded."""
        for split, table in self.tables.items():
            batches = table.batches(SLICE_ROWS, 0, table.rows)
            yield from decoded_images(
                batches,
                self._modes(split),
                split=split,
                start=0,
                skip=skip,
                places=self.places,
                storage=self.storage,
                treatment=self.treatment,
            )

    def _modes(self, split: str) -> ImageModes:
        return image_modes(self.tables[split].features, self.columns)

    def _slices(self, part: Part) -> Iterator[pa.Table]:
        for batch in self.tables[part.split].batches(SLICE_ROWS, part.start, part.stop):
            yield from cut_by_bytes(batch)

    def finish(self, into: CopyFolder, records: Sequence[PartRecord]) -> tuple[list[PartRecord], tuple[str, ...]]:
        """Take away splits of which no row is left: `datasets` could not open them."""
        rows = dict.fromkeys(self.tables, 0)
        for record in records:
            rows[record.split] += record.rows
        empty = [split for split, count in rows.items() if not count]
        kept = []
        for record in records:
            if record.split in empty:
                for name in record.files:
                    below(into.folder, name).unlink(missing_ok=True)
                record = replace(record, files={})
            kept.append(record)
        note = f"No row is left for {', '.join(empty)}: such a split is not written, as datasets could not open it."
        return kept, (note,) if empty else ()
