"""Purify rows of a table, and write them to the Parquet file of a part."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Image
from datasets.table import table_cast

from puregen_transforms._files import hash_file
from puregen_transforms.data.cells import ANYWHERE, Cell, Places, is_empty
from puregen_transforms.data.images import ImageProblemError, Purify, pixels_of
from puregen_transforms.whole_sets.copy_folder import CopyFolder
from puregen_transforms.whole_sets.dataset_copy import Part, PartRecord, PurifyOptions
from puregen_transforms.whole_sets.disk_space import mean_bytes
from puregen_transforms.whole_sets.repair import EncodedImage, Repaired, decode_one, repair
from puregen_transforms.whole_sets.row_digest import RowDigest
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage
from puregen_transforms.whole_sets.summary import Skipped, UnreadableImageError
from puregen_transforms.whole_sets.treatment import ALL_PURIFIED, Treatment

SLICE_ROWS = 256
"""Rows in memory at once, and in a row group: a reader at random places decodes a whole one."""

SLICE_BYTES = 2**25
"""Encoded images in memory at once; decoding and PNG may take ten times as much."""

ImageModes = Mapping[str, str | None]
"""Columns of images by name, each with the mode that its type asks for."""

DATA_FOLDER = "data"
"""Folder in which `datasets` looks for the files of splits."""


def write_part(
    part: Part,
    slices: Iterable[pa.Table],
    schema: pa.Schema,
    columns: ImageModes,
    into: CopyFolder,
    options: PurifyOptions,
    places: Places = ANYWHERE,
    treatment: Treatment = ALL_PURIFIED,
    storage: Storage = LOSSLESS,
) -> PartRecord:
    """Purify some rows into a Parquet file.

    Args:
        part: names the file.
        slices: the rows.
        schema: of the file.
        columns: of images to purify.
        into: where the file goes.
        options: see `PurifyOptions`.
        places: where the rows may name files.
        treatment: rows to leave out, or to keep as they are.
        storage: of the purified images.

    Raises:
        UnreadableImageError: an image cannot be repaired, and is not to be skipped.
        OSError: the file cannot be written.
    """
    content = RowDigest(places)
    waiting: deque[_Rows] = deque()

    read_rows = 0
    skipped: list[Skipped] = []

    def images() -> Iterator[EncodedImage[tuple[_Rows, int, str]]]:
        nonlocal read_rows
        for table in slices:
            content.add(table)
            rows = _Rows(table, part.start + read_rows, columns, places, part.split, treatment, storage)
            waiting.append(rows)
            skipped.extend(rows.left_out())
            read_rows += table.num_rows
            yield from rows.sources()

    name = f"{DATA_FOLDER}/{part.name}.parquet"
    repaired_images, kept_rows = 0, 0
    with into.writing(name) as temporary:
        with pq.ParquetWriter(temporary, schema) as writer:

            def write_what_is_complete() -> int:
                nonlocal repaired_images
                written = 0
                while waiting and waiting[0].complete:
                    rows = waiting.popleft()
                    table = table_cast(rows.table(), schema)
                    writer.write_table(table)
                    written += table.num_rows
                    repaired_images += rows.kept_images
                    options.done(rows.not_purified)
                return written

            for repaired in repair(
                images(), options.purify, chunk_images=options.chunk_images, at_once=options.at_once, done=options.done
            ):
                rows, row, column = repaired.key
                rows.put(row, column, repaired)
                if repaired.data is None:
                    place: dict[str, str | int] = {"split": part.split, "row": rows.first_row + row, "column": column}
                    problem = Skipped(place=place, reason=str(repaired.problem))
                    if not options.skip:
                        raise UnreadableImageError(problem)
                    skipped.append(problem)
                repaired_images += repaired.data is not None
                kept_rows += write_what_is_complete()
            kept_rows += write_what_is_complete()
        checksum = hash_file(temporary)
    into.settle([name])
    return PartRecord(
        name=part.name,
        split=part.split,
        start=part.start,
        stop=part.start + read_rows,
        rows=kept_rows,
        images=repaired_images,
        source=content.hexdigest(),
        files={name: checksum},
        skipped=tuple(sorted(skipped, key=lambda problem: (problem.place["row"], problem.place.get("column", "")))),
    )


def image_modes(features: Mapping[str, Any], columns: Iterable[str]) -> ImageModes:
    """Look up the modes that the types of some columns of images ask for."""
    return {name: features[name].mode for name in columns}


def decoded_images(
    tables: Iterable[pa.Table],
    columns: ImageModes,
    *,
    split: str,
    start: int,
    skip: bool,
    places: Places = ANYWHERE,
    treatment: Treatment = ALL_PURIFIED,
    storage: Storage = LOSSLESS,
) -> Iterator[PIL.Image.Image]:
    """Yield the images that are purified, decoded.

    Args:
        tables: of rows.
        columns: of images.
        split: that the rows are of.
        start: the number of the first row.
        skip: leave out what cannot be decoded, rather than stopping.
        places: where the rows may name files.
        treatment: rows that are not purified.
        storage: of the purified images.

    Raises:
        UnreadableImageError: an image cannot be decoded, and is not to be skipped.
    """
    for table in tables:
        rows = _Rows(table, start, columns, places, split, treatment, storage)
        for source in rows.sources():
            if not source.is_purified:
                continue
            image = decode_one(source)
            if isinstance(image, PIL.Image.Image):
                yield image
            elif not skip:
                _, row, column = source.key
                place: dict[str, str | int] = {"split": split, "row": start + row, "column": column}
                raise UnreadableImageError(Skipped(place=place, reason=str(image)))
        start += table.num_rows


def row_bytes(
    table: pa.Table,
    columns: ImageModes,
    places: Places = ANYWHERE,
    split: str = "",
    treatment: Treatment = ALL_PURIFIED,
    storage: Storage = LOSSLESS,
) -> float:
    """Estimate the bytes of a row of images in a copy; other columns, which may be stored in less, are not counted.

    Args:
        table: some rows.
        columns: of images to purify.
        places: where the rows may name files.
        split: that they are of.
        treatment: of the split's first rows, which stand for these.
        storage: of the purified images.
    """
    rows = _Rows(table, 0, columns, places, split, treatment, storage)
    images = table.num_rows * len(columns) - rows.not_purified
    return (images * mean_bytes(rows.sources()) + rows.kept_bytes) / max(1, table.num_rows)


def purify_rows(table: pa.Table, columns: ImageModes, purify: Purify, places: Places = ANYWHERE) -> pa.Table:
    """Purify the images of some rows, which may name files in `places`.

    Raises:
        UnreadableImageError: an image cannot be repaired.
    """
    rows = _Rows(table, 0, columns, places)
    images = max(1, table.num_rows)
    for repaired in repair(rows.sources(), purify, chunk_images=images, at_once=lambda pixels: images):
        _, row, column = repaired.key
        if repaired.data is None:
            raise UnreadableImageError(Skipped(place=_shown(table, row, column), reason=str(repaired.problem)))
        rows.put(row, column, repaired)
    return rows.table()


def _shown(table: pa.Table, row: int, column: str) -> dict[str, str | int]:
    """Describe a row whose number is not known by its numbers and texts."""
    values = {name: table.column(name)[row].as_py() for name in table.column_names}
    return {"column": column} | {name: value for name, value in values.items() if isinstance(value, (str, int))}


def mean_pixels(
    tables: Iterable[pa.Table], columns: Iterable[str], places: Places = ANYWHERE, storage: Storage = LOSSLESS
) -> list[int]:
    """Measure the pixels of the images of each column, on average over those that can be read."""
    found: dict[str, list[int]] = {name: [] for name in columns}
    # What cannot be read is reported where it is purified.
    with suppress(OSError, ValueError):
        for table in tables:
            for name in columns:
                for cell in table.column(name).to_pylist():
                    with suppress(ImageProblemError):
                        if not is_empty(cell):
                            found[name].append(pixels_of(BytesIO(places.read(cell)), convert=storage.convert))
    return [sum(pixels) // len(pixels) for pixels in found.values() if pixels]


def cut_by_bytes(batch: pa.Table) -> Iterator[pa.Table]:
    """Cut a batch of large images into slices."""
    rows = max(1, int(batch.num_rows * min(1.0, SLICE_BYTES / max(1, batch.nbytes))))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


class _Rows:
    """Rows that wait for their purified images, which are put in one by one."""

    def __init__(
        self,
        table: pa.Table,
        first_row: int,
        columns: ImageModes,
        places: Places = ANYWHERE,
        split: str = "",
        treatment: Treatment = ALL_PURIFIED,
        storage: Storage = LOSSLESS,
    ) -> None:
        self.first_row = first_row
        self._split = split
        self._storage = storage
        self._modes = columns
        self._places = places
        self._table = table
        self._cells = {name: table.column(name).to_pylist() for name in columns}
        numbers = range(table.num_rows)
        reasons = ((row, treatment.reason(split, first_row + row)) for row in numbers)
        self._reasons = {row: reason for row, reason in reasons if reason is not None}
        self._failed = set(self._reasons)
        rest = [row for row in numbers if row not in self._failed]
        filled = [(row, name) for row in rest for name, cells in self._cells.items() if not is_empty(cells[row])]
        self._purified = {place for place in filled if treatment.purifies(split, first_row + place[0])}
        others = [place for place in filled if place not in self._purified]
        converted = {place for place in others if self._is_converted(*place)}
        self._anew = [place for place in filled if place in self._purified or place in converted]
        self._kept = [place for place in others if place not in converted]
        self._missing = len(self._anew)
        self.not_purified = table.num_rows * len(columns) - self._missing
        self.kept_images = len(self._kept)

    def _is_converted(self, row: int, column: str) -> bool:
        """Tell whether an image that is not purified is to be converted; what cannot be read is not."""
        if not self._storage.convert:
            return False
        try:
            return self._storage.stores_anew(BytesIO(self._places.read(self._cells[column][row])))
        except (OSError, ImageProblemError):
            return False

    @property
    def kept_bytes(self) -> int:
        """Count the bytes of the images that are kept as they are, and stored in the table."""
        return sum(len(self._cells[name][row]["bytes"] or b"") for row, name in self._kept)

    def left_out(self) -> Iterator[Skipped]:
        """Name the rows that are left out."""
        for row, reason in self._reasons.items():
            yield Skipped(place={"split": self._split, "row": self.first_row + row}, reason=reason)

    @property
    def complete(self) -> bool:
        """Whether every image has been put in."""
        return not self._missing

    def sources(self) -> Iterator[EncodedImage[tuple[_Rows, int, str]]]:
        """Yield the images that are purified or converted, row by row."""
        for row, name in self._anew:
            cell = self._cells[name][row]
            yield EncodedImage(
                key=(self, row, name),
                read=partial(self._places.read, cell),
                image_format=self._storage.format_for(cell["path"]),
                mode=self._modes[name],
                storage=self._storage,
                is_purified=(row, name) in self._purified,
            )

    def put(self, row: int, name: str, repaired: Repaired[Any]) -> None:
        """Take in one image; a row with one that could not be repaired is left out."""
        self._missing -= 1
        if repaired.data is None:
            self._failed.add(row)
        else:
            self._cells[name][row] = _new_cell(self._cells[name][row], repaired, self._storage)

    def table(self) -> pa.Table:
        """Return the rows with their new images.

        Raises:
            UnreadableImageError: an image that is kept, and only named in the table, cannot be read.
        """
        table = self._table
        for row, name in self._kept:
            self._cells[name][row] = self._as_it_is(row, name)
        for name, cells in self._cells.items():
            column = pa.array(cells, type=Image.pa_type, size=table.num_rows)
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
        kept = [row for row in range(table.num_rows) if row not in self._failed]
        return table.take(pa.array(kept, pa.int64())) if self._failed else table

    def _as_it_is(self, row: int, column: str) -> Cell:
        """Keep a cell; what it only names is stored in it, as the copy may go elsewhere."""
        cell: Cell = self._cells[column][row]
        if cell["bytes"] is not None:
            return cell
        try:
            return {"bytes": self._places.read(cell), "path": PurePosixPath(cell["path"]).name}
        except (OSError, ImageProblemError) as error:
            place: dict[str, str | int] = {"split": self._split, "row": self.first_row + row, "column": column}
            raise UnreadableImageError(Skipped(place=place, reason=str(error))) from error


def _new_cell(cell: Cell, repaired: Repaired[tuple[int, str]], storage: Storage) -> dict[str, Any]:
    """Store a purified image; its name gets the suffix to match, and loses the folder if that was on this machine."""
    path = cell["path"]
    if path is not None:
        pure = PurePosixPath(path)
        path = storage.name_in_table(path, storage.format_for(path)) if pure.name else None
        if path is not None and (cell["bytes"] is None or pure.is_absolute()):
            path = PurePosixPath(path).name
    return {"bytes": repaired.data, "path": path}
