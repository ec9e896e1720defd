"""The rows of a folder of images as its metadata files have them, with every image that they do not name."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, Image, List, NamedSplit
from datasets.table import table_cast

from puregen_transforms._files import parse_json
from puregen_transforms._text import shown

_NAME, _NAMES = "file_name", "file_names"
"""Columns of names of images, alone or after an underscore: the image takes the name before it."""


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """Rows that name image files.

    Args:
        table: in columns of images there are paths, relative to the folder.
        features: types of the columns.
    """

    table: pa.Table
    features: Features

    def paths_in(self, columns: Iterable[str]) -> Iterator[str]:
        """Yield the paths in some columns."""
        for name in columns:
            for value in self.table.column(name).to_pylist():
                yield from (path for path in (value if isinstance(value, list) else [value]) if path is not None)

    def dataset(self, top: Path, split: str) -> Dataset:
        """Give the rows as a data set of image files below a folder."""
        table = self.table
        for place, (name, feature) in enumerate(self.features.items()):
            if _is_images(feature):
                cells = [_placed(value, top) for value in table.column(name).to_pylist()]
                kind = Image.pa_type if isinstance(feature, Image) else pa.list_(Image.pa_type)
                table = table.set_column(place, name, pa.array(cells, kind))
        table = table_cast(table, self.features.arrow_schema)
        return Dataset(table, info=DatasetInfo(features=self.features), split=NamedSplit(split))


def read_image_table(top: Path, metadata: Sequence[str], images: Collection[str]) -> ImageTable | None:
    """Read the rows of metadata files, and add a row for each image that none of them names.

    Args:
        top: the folder of images.
        metadata: files of metadata in it; those without a column of file names are left aside.
        images: those that the files may name.

    Returns:
        None without a metadata file.

    Raises:
        ValueError: a file that cannot be read, names no image of the folder, or leaves images out where no row can
            be added for them; or files of different columns.
    """
    known = set(images)
    tables = {path: table for path in metadata if (table := _read_one(top, path, known)) is not None}
    if not tables:
        return None
    first, *_ = tables
    for path, table in tables.items():
        if table.schema != tables[first].schema:
            raise ValueError(f"Expected metadata files of the same columns, but {top / path} and {top / first} differ.")
    joined = pa.concat_tables(tables.values())
    features = Features(
        {
            field.name: _image_feature(field) or Features.from_arrow_schema(pa.schema([field]))[field.name]
            for field in joined.schema
        }
    )
    found = ImageTable(table=joined.replace_schema_metadata(None), features=features)
    rest = sorted(known - set(found.paths_in([name for name in features if _is_images(features[name])])))
    if not rest:
        return found
    if not isinstance(features.get("image"), Image):
        raise ValueError(
            f"Expected metadata with every image of the folder, but {top / first} does not name {rest[0]} "
            f"({len(rest)} in all are not named). Add a row for each, or move them out of the folder."
        )
    added = {name: rest if name == "image" else [None] * len(rest) for name in features}
    return ImageTable(
        table=pa.concat_tables([found.table, pa.table(added, schema=found.table.schema)]), features=features
    )


def _read_one(top: Path, path: str, images: Collection[str]) -> pa.Table | None:
    """Read a metadata file, with its columns of file names as columns of paths in the folder; None without any.

    A column of paths is marked by its metadata.
    """
    try:
        table = _read(top / path)
    except (ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        suffix = Path(path).suffix
        raise ValueError(f"Expected {top / path} to be a {suffix} file in UTF-8, but got: {error}") from error
    fields, columns = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        name = _image_name(field)
        if name is not None:
            values = [_in_folder(value, top, path, images) for value in column.to_pylist()]
            is_list = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
            kind = pa.list_(pa.string()) if is_list else pa.string()
            field, column = pa.field(name, kind, metadata=_IS_IMAGE), pa.chunked_array([pa.array(values, kind)])
        fields.append(field)
        columns.append(column)
    if not any(field.metadata == _IS_IMAGE for field in fields):
        return None
    names = [field.name for field in fields]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"Expected columns of different names in {top / path}, but several are {twice[0]!r}.")
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=table.schema.metadata))


_IS_IMAGE = {b"holds": b"paths of images"}


def _read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        table.validate(full=True)
        return table
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8-sig") as lines:
            rows = [parse_json(line, path) for line in lines if line.strip()]
        names = dict.fromkeys(name for row in rows for name in row)  # a row may lack what others have
        return pa.table({name: [row.get(name) for row in rows] for name in names})
    import pandas

    header = pandas.read_csv(path, encoding="utf-8-sig", nrows=0).columns
    words = {name: str for name in header if name == _NAME or name.endswith("_" + _NAME)}
    return pa.Table.from_pandas(pandas.read_csv(path, encoding="utf-8-sig", dtype=words), preserve_index=False)


def _image_name(field: pa.Field) -> str | None:
    """Name the column of images for a column of file names, as `datasets` does; None for another column."""
    kind, plural = field.type, False
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind, plural = kind.value_type, True
    ending = _NAMES if plural else _NAME
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    if field.name == ending:
        return "images" if plural else "image"
    return field.name.removesuffix("_" + ending) if field.name.endswith("_" + ending) else None


def _image_feature(field: pa.Field) -> Any:
    if field.metadata != _IS_IMAGE:
        return None
    return List(Image()) if pa.types.is_list(field.type) else Image()


def _is_images(feature: Any) -> bool:
    return isinstance(feature, Image) or isinstance(getattr(feature, "feature", None), Image)


def _in_folder(value: Any, top: Path, metadata: str, images: Collection[str]) -> Any:
    """Turn a name, or several, into paths in the folder.

    Raises:
        ValueError: there is no such image.
    """
    if value is None or isinstance(value, list):
        return None if value is None else [_in_folder(name, top, metadata, images) for name in value]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(metadata), value))
    if path not in images:
        raise ValueError(
            f"Expected names of images below its folder in {top / metadata}, but there is no {shown(repr(value))}."
        )
    return path


def _placed(value: Any, top: Path) -> Any:
    if isinstance(value, list):
        return [_placed(path, top) for path in value]
    return None if value is None else {"bytes": None, "path": str(top / value)}
