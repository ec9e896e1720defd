"""Purify data sets that are streamed: read once from front to end, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import PIL.Image
import pyarrow as pa
from datasets import IterableDataset

from puregen_transforms.data.columns import choose_image_columns
from puregen_transforms.data.split_names import split_name
from puregen_transforms.whole_sets.copy_folder import CopyFolder
from puregen_transforms.whole_sets.dataset_copy import (
    PART_ROWS,
    Finished,
    Part,
    PartRecord,
    PurifyOptions,
    check_part_rows,
)
from puregen_transforms.whole_sets.rows import (
    DATA_FOLDER,
    SLICE_ROWS,
    cut_by_bytes,
    decoded_images,
    image_modes,
    mean_pixels,
    write_part,
)
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage

_LOOKED_AT = 8
"""Rows whose images' sizes are looked at before the work."""


class StreamCopy:
    """A copy of a stream's rows into Parquet files.

    Each shard is read by one process, and gone on with from where its last finished part ended.

    Args:
        dataset: its shards are files, of Parquet or WebDataset for example.
        columns: image columns to purify; None for the only one.
        storage: of the purified images.

    Raises:
        ValueError: columns, or features that are not known.
    """

    def __init__(
        self, dataset: IterableDataset, columns: Sequence[str] | None = None, *, storage: Storage = LOSSLESS
    ) -> None:
        known = dataset if dataset.features is not None else dataset._resolve_features()
        if known.features is None:
            raise ValueError(
                "Expected a stream whose features are known. Give them where it is made, as in "
                "`.map(..., features=...)`, or call `.cast(features)`."
            )
        self.features = known.features
        self.split = split_name(dataset.split)
        self.columns = choose_image_columns(self.features, columns)
        self.part_rows = PART_ROWS
        self.storage = storage
        # Encoded images as they are; without the types of columns a stream would lose the names of others.
        self._dataset = known.decode(False)
        self._shards = 1 if _is_cut(self._dataset._ex_iterable) else self._dataset.num_shards
        self._open: tuple[str, int, IterableDataset, Iterator[dict[str, Any]]] | None = None

    @property
    def images(self) -> None:
        """None: the number of images is not known before the end."""
        return None

    @property
    def to_purify(self) -> None:
        """None, as of `images`."""
        return None

    def row_pixels(self) -> list[int]:
        """Measure the images of the first rows, which are read again later."""
        first = list(islice(self._dataset, _LOOKED_AT))
        return mean_pixels([self._encoded(first)], self.columns, storage=self.storage) if first else []

    def stored_bytes(self) -> None:
        """None: the number of images is not known before the end."""
        return None

    def cut(self, part_rows: int) -> StreamCopy:
        """Cut into parts of so many rows."""
        twin = copy(self)
        twin.part_rows = check_part_rows(part_rows)
        return twin

    def describe(self) -> dict[str, Any]:
        """Describe the stream by its shards and columns; its content is not looked at."""
        return {
            "shards": self._shards,
            "split": self.split,
            "features": self.features.to_dict(),
            "columns": list(self.columns),
            "rows of a part": self.part_rows,
            **self.storage.described(),
        }

    def parts_of(self, rank: int, count: int, finished: Finished) -> Iterator[Part]:
        """Yield the parts that one process out of `count` is to purify."""
        self._finished = finished
        total = self._shards
        for shard in range(rank, total, count):
            start = number = 0
            while True:
                name = f"{self.split}-{shard:05d}-of-{total:05d}-{number:05d}"
                yield Part(name=name, split=f"{self.split}/{shard}", start=start, stop=start + self.part_rows)
                record = finished(name)
                if record is None or record.stop < start + self.part_rows:
                    break
                start, number = record.stop, number + 1

    def source_digest(self, part: Part) -> None:
        """Return None: a stream is not read again."""
        return None

    def prepare(self, into: CopyFolder, options: PurifyOptions) -> None:
        """Make the folders that the first part needs."""
        (into.folder / DATA_FOLDER).mkdir(exist_ok=True)

    def write(self, part: Part, into: CopyFolder, options: PurifyOptions) -> PartRecord:
        """Purify a part."""
        dataset, rows = self._rows_from(part)
        first = next(rows, None)
        if first is None:
            return PartRecord(name=part.name, split=part.split, start=part.start, stop=part.start)
        slices, modes = self._slices(chain([first], rows)), image_modes(self.features, self.columns)
        record = write_part(part, slices, self.features.arrow_schema, modes, into, options, storage=self.storage)
        return replace(record, state=dataset.state_dict())

    def pictures(self, *, skip: bool) -> Iterator[PIL.Image.Image]:
        """Yield every image that is purified, decoded."""
        rows, modes = iter(self._dataset), image_modes(self.features, self.columns)
        tables = (self._encoded(batch) for batch in iter(lambda: list(islice(rows, SLICE_ROWS)), []))
        return decoded_images(tables, modes, split=self.split, start=0, skip=skip, storage=self.storage)

    def _rows_from(self, part: Part) -> tuple[IterableDataset, Iterator[dict[str, Any]]]:
        """Read the shard as far as the part's beginning."""
        if self._open is None or self._open[:2] != (part.split, part.start):
            shard, number = int(part.name.split("-")[-4]), int(part.name.split("-")[-1])
            dataset = copy(self._dataset)
            if self._shards > 1:
                dataset = dataset.shard(num_shards=self._shards, index=shard)
            if number:
                before = self._finished(f"{part.name.rpartition('-')[0]}-{number - 1:05d}")
                assert before is not None
                dataset.load_state_dict(dict(before.state))
            self._open = (part.split, part.start, dataset, iter(dataset))
        _, _, dataset, rows = self._open
        self._open = (part.split, part.stop, dataset, rows)
        return dataset, rows

    def _slices(self, rows: Iterator[dict[str, Any]]) -> Iterator[pa.Table]:
        wanted = islice(rows, self.part_rows)
        while batch := list(islice(wanted, SLICE_ROWS)):
            yield from cut_by_bytes(self._encoded(batch))

    def _encoded(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        columns = {name: [row[name] for row in rows] for name in self.features}
        return pa.table(self.features.encode_batch(columns), schema=self.features.arrow_schema)

    def finish(self, into: CopyFolder, records: Sequence[PartRecord]) -> tuple[list[PartRecord], tuple[str, ...]]:
        """Return the records as they are."""
        return list(records), ()


def _is_cut(iterable: Any) -> bool:
    """Tell whether rows were taken or skipped: how many is counted over all shards, so that none can be read alone."""
    if type(iterable).__name__ in ("TakeExamplesIterable", "SkipExamplesIterable"):
        return True
    inner = [getattr(iterable, "ex_iterable", None), *(getattr(iterable, "ex_iterables", None) or ())]
    return any(_is_cut(found) for found in inner if found is not None)
