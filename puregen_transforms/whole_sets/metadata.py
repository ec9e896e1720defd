"""Keep the `metadata` file of an image folder in step with renamed and left-out images."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from puregen_transforms._files import parse_json

MISSING = object()
"""Stands for a row that names an image which was left out."""


def rewrite_metadata(
    source: Path, target: Path, *, folder: str, targets: Mapping[str, str], dropped: Collection[str]
) -> None:
    """Write a metadata file with the new names, without the rows of images left out.

    Columns that name images are those `datasets` knows: `file_name`, `file_names` and names ending in either
    after an underscore. Everything else stays, and a file without a change is copied as it is.

    Args:
        source: the file to read; its name says which of `METADATA_NAMES` it is.
        target: the file to write.
        folder: where it is, relative to the data set; names in it are relative to that.
        targets: new path of each image by old path, relative to the data set.
        dropped: old paths of the images left out.

    Raises:
        ValueError: the file is not what its suffix says.
    """
    names = _Names(folder, targets, dropped)
    rewrite = {".csv": _rewrite_csv, ".jsonl": _rewrite_jsonl, ".parquet": _rewrite_parquet}[source.suffix]
    if not names.change_anything:
        shutil.copyfile(source, target)
        return
    try:
        rewrite(source, target, names)
    except (ValueError, csv.Error) as error:
        raise _damaged(source, error) from error


def _damaged(source: Path, error: Exception) -> ValueError:
    return ValueError(f"Expected {source} to be a {source.suffix} file in UTF-8, but got: {error}")


def check_metadata(top: Path, paths: Collection[str], targets: Mapping[str, str]) -> None:
    """Rewrite metadata files for nothing: one that cannot be is found before the work.

    Args:
        top: the folder of images.
        paths: of metadata files in it.
        targets: see `rewrite_metadata`.

    Raises:
        ValueError: a file is not what its suffix says.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for number, path in enumerate(paths):
            folder = posixpath.dirname(path) or "."
            rewrite_metadata(top / path, Path(scratch) / str(number), folder=folder, targets=targets, dropped=[""])


class _Names:
    """The new names of the files that a metadata file refers to."""

    def __init__(self, folder: str, targets: Mapping[str, str], dropped: Collection[str]) -> None:
        self._folder = folder
        self._targets = targets
        self._dropped = dropped
        self.change_anything = bool(dropped) or any(old != new for old, new in targets.items())

    def new_value(self, field: str, value: Any) -> Any:
        """Replace the names in a value; `MISSING` for an image left out."""
        if isinstance(value, dict):
            fields = {name: self.new_value(name, item) for name, item in value.items()}
            return MISSING if any(item is MISSING for item in fields.values()) else fields
        if isinstance(value, list):
            items = [self.new_value(field.removesuffix("s"), item) for item in value]
            return MISSING if any(item is MISSING for item in items) else items
        if isinstance(value, str) and (field == "file_name" or field.endswith("_file_name")):
            return self._new_name(value)
        return value

    def _new_name(self, name: str) -> Any:
        path = posixpath.normpath(posixpath.join(self._folder, name))
        if path in self._dropped:
            return MISSING
        new = self._targets.get(path, path)
        return name if new == path else posixpath.relpath(new, self._folder)


def _rewrite_csv(source: Path, target: Path, names: _Names) -> None:
    csv.field_size_limit(2**31 - 1)  # as `datasets`, which has none: a cell may be a long polygon
    with (
        source.open(encoding="utf-8-sig", newline="") as reading,
        target.open("x", encoding="utf-8", newline="") as writing,
    ):
        rows = csv.reader(reading)
        writer = csv.writer(writing, lineterminator="\n")
        header = next(rows, [])
        writer.writerow(header)
        for row in rows:
            padded = header + [""] * (len(row) - len(header))
            values = [names.new_value(field, value) for field, value in zip(padded, row, strict=False)]
            if MISSING not in values:
                writer.writerow(values)


def _rewrite_jsonl(source: Path, target: Path, names: _Names) -> None:
    with source.open(encoding="utf-8-sig") as reading, target.open("x", encoding="utf-8", newline="\n") as writing:
        for line in reading:
            if not line.strip():
                continue
            old = parse_json(line, source)
            new = names.new_value("", old)
            if new is not MISSING:
                writing.write(line.rstrip("\n") if new == old else json.dumps(new, ensure_ascii=False))
                writing.write("\n")


def _rewrite_parquet(source: Path, target: Path, names: _Names) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(source)
    table.validate(full=True)
    rows = [names.new_value("", row) for row in table.to_pylist()]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row for row in rows if row is not MISSING], schema=table.schema), buffer)
    with target.open("xb") as file:
        file.write(buffer.getvalue())
