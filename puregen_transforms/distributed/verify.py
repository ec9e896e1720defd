"""Check that a purified copy is complete and unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from puregen_transforms._files import hash_file
from puregen_transforms.data.folders import OTHER_FILES, SKIPPED
from puregen_transforms.data.images import ImageProblemError, decode
from puregen_transforms.data.parts import Part
from puregen_transforms.distributed.manifest import differences, manifest_path, read_records, read_settings


def problems_of(copy: Path) -> Iterator[str]:
    """Compare a copy with its manifest, and say what is wrong.

    Looked at are: that all parts are there and each row is in one of them, every file's checksum, the rows of tables,
    whether every image can be decoded, and files that the copy did not have.

    Args:
        copy: a folder or a .parquet file that `puregen purify` has written.

    Raises:
        FileNotFoundError: there is no copy, or it has no manifest.
        ValueError: the manifest is damaged.
    """
    manifest = manifest_path(copy)
    if not copy.exists() or not manifest.exists():
        raise FileNotFoundError(
            f"Expected what puregen purify has written, but there is no {copy if not copy.exists() else manifest}."
        )
    settings = read_settings(manifest)
    source, engine = settings["source"], settings.get("engine")
    home = copy.parent if copy.suffix == ".parquet" else copy
    known = {manifest.name, SKIPPED}
    reached = dict.fromkeys(source.get("rows", [""]), 0)
    rows = 0
    for record in read_records(manifest):
        rows += record.rows
        if record.stop:
            if record.start != reached.get(record.split, 0):
                yield f"{_rows(reached.get(record.split, 0), record.start, record.split)} are in no part, or in two"
            reached[record.split] = record.stop
        known.update(record.files)
        for name, checksum in record.files.items():
            yield from _problems_of_file(home, name, checksum, is_image=record.name != OTHER_FILES)
    if engine == "ray":  # its files hold rows in no order
        if rows != sum(source["rows"].values()):
            yield f"{rows} rows are there, of {sum(source['rows'].values())}"
        reached = source["rows"]
    for split, end in source.get("rows", {"": source.get("images", reached.get(""))}).items():
        if end is not None and reached[split] != end:
            yield f"{_rows(reached[split], end, split)} are in no part"
    if home == copy:
        found = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
        yield from (f"{name} does not belong to the copy" for name in sorted(found - known))


def changes_since(copy: Path, source: str) -> Iterator[str]:
    """Compare a copy with the data it was made from, and say which rows are no longer the same.

    Args:
        copy: see `problems_of`.
        source: as it was given to `puregen purify`.

    Raises:
        ValueError, OSError: as in `problems_of`; or the source cannot be opened.
    """
    from puregen_transforms.data.copies import copy_of

    manifest = manifest_path(copy)
    settings = read_settings(manifest)
    if settings.get("engine") == "ray":
        raise ValueError(f"Expected a copy whose rows are in the source's order, but Ray has written {copy}.")
    before = settings["source"]
    splits = before.get("splits", list(before.get("rows", ())))
    now = copy_of(source, copy, columns=before.get("columns", ()), splits=splits).cut(before["rows of a part"])
    if changes := differences(before, json.loads(json.dumps(now.describe()))):
        yield from changes
        return
    for record in read_records(manifest):
        part = Part(name=record.name, split=record.split, start=record.start, stop=record.stop)
        if record.source and now.source_digest(part) != record.source:
            yield f"{_rows(part.start, part.stop, part.split)} of the source have changed"


def _problems_of_file(home: Path, name: str, checksum: str, *, is_image: bool) -> Iterator[str]:
    path = home / name
    if not path.exists():
        yield f"{name} is missing"
    elif hash_file(path) != checksum:
        yield f"{name} is not what was written"
    elif is_image:
        try:
            _decode_all(path)
        except (ImageProblemError, pa.ArrowException) as error:
            yield f"{name}: {error}"


def _decode_all(path: Path) -> None:
    if path.suffix != ".parquet":
        decode(path.read_bytes())
        return
    from datasets import Features, Image

    with pq.ParquetFile(path) as file:
        features = Features.from_arrow_schema(file.schema_arrow)
        columns = [name for name, feature in features.items() if isinstance(feature, Image)]
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                for cell in row.values():
                    if cell is not None and cell["bytes"] is not None:
                        decode(cell["bytes"])


def _rows(start: int, stop: int, split: str) -> str:
    return f"rows {min(start, stop)} to {max(start, stop) - 1}" + (f" of split {split!r}" if split else "")
