"""Check that a purified copy is complete and unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from puregen_transforms._files import below, hash_file, is_regular
from puregen_transforms.data.images import ImageProblemError, look_at, looks_like_image
from puregen_transforms.whole_sets.dataset_copy import Part, PartRecord
from puregen_transforms.whole_sets.folder_copy import OTHER_FILES
from puregen_transforms.whole_sets.manifest import (
    differences,
    manifest_path,
    read_hash,
    read_records,
    read_settings,
)
from puregen_transforms.whole_sets.storage import Storage
from puregen_transforms.whole_sets.summary import Skipped, skipped_as_json
from puregen_transforms.whole_sets.unfinished_copy import skipped_path


def problems_of(copy: Path, *, sha256: str | None = None) -> Iterator[str]:
    """Compare a copy with its manifest, and say what is wrong.

    Looked at are: the manifest's own hash, that all parts are there and each row is in one of them, every file's
    checksum, the rows of tables, whether every image can be decoded, the list of images left out, and files, links and
    others that the copy did not have, but for those that nothing here reads, see `hidden_in`.

    Args:
        copy: a folder or a .parquet file that `puregen purify` has written.
        sha256: of the manifest, as `puregen purify` printed it. A manifest beside its copy proves nothing against
            someone who can rewrite both; this does.

    Raises:
        FileNotFoundError: there is no copy, or it has no manifest.
        ValueError: the manifest is damaged.
    """
    manifest = manifest_path(copy)
    if not copy.exists() or not manifest.exists():
        raise FileNotFoundError(
            f"Expected what puregen purify has written, but there is no {copy if not copy.exists() else manifest}."
        )
    found = read_hash(manifest)
    if found is None:
        yield f"{manifest.name} does not end in the hash of its other lines: it was changed, or cut off"
    elif sha256 is not None and found != sha256.strip().lower():
        yield f"{manifest.name} has the hash {found}, not {sha256}"
    expected = _Expected.of_settings(read_settings(manifest), manifest)
    home = copy.parent if copy.suffix == ".parquet" else copy
    skipped: list[Skipped] = []
    known = {manifest.name, skipped_path(copy).name}
    for record in read_records(manifest):
        yield from expected.add(record)
        skipped += record.skipped
        known.update(record.files)
        for name, checksum in record.files.items():
            yield from _problems_of_file(home, name, checksum, is_image=record.name != OTHER_FILES)
    yield from expected.missing()
    yield from _problems_of_list(skipped_path(copy), tuple(skipped))
    if home == copy:
        strangers = sorted(_names_in(copy) - known - set(hidden_in(copy)))
        yield from (f"{name} does not belong to the copy" for name in strangers)


@dataclass
class _Expected:
    """The rows that the records of a copy have to add up to.

    Args:
        rows: of each split, where that is known; None of a stream.
        in_order: whether each part goes on where the one before has ended.
    """

    rows: Mapping[str, int | None]
    in_order: bool

    def __post_init__(self) -> None:
        self._reached = dict.fromkeys(self.rows, 0)
        self._written = 0

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], manifest: Path) -> _Expected:
        """Read what the source had.

        Raises:
            ValueError: it is damaged.
        """
        source = settings["source"]
        rows = source.get("rows", {"": source.get("images")})
        if not isinstance(rows, dict) or not all(_is_count(count) for count in rows.values()):
            raise ValueError(f"Expected the source's rows by split in {manifest}, but they are damaged.")
        return cls(rows=rows, in_order=settings.get("engine") != "ray")

    def add(self, record: PartRecord) -> Iterator[str]:
        """Take in a record; say what does not fit."""
        self._written += record.rows
        if record.stop and self.in_order:
            reached = self._reached.get(record.split, 0)
            if record.start != reached:
                yield f"{_rows(reached, record.start, record.split)} are in no part, or in two"
            self._reached[record.split] = record.stop
            lost = len({row for row in map(_row_of, record.skipped) if row is not None})
            if record.rows + lost != record.stop - record.start:
                yield (
                    f"part {record.name} holds {record.rows} rows and leaves out {lost}, of "
                    f"{record.stop - record.start}"
                )

    def missing(self) -> Iterator[str]:
        """Say which rows no record has had."""
        if not self.in_order:
            total = sum(count or 0 for count in self.rows.values())
            if self._written != total:
                yield f"{self._written} rows are there, of {total}"
            return
        for split, end in self.rows.items():
            if end is not None and self._reached[split] != end:
                yield f"{_rows(self._reached[split], end, split)} are in no part"


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _row_of(skipped: Skipped) -> object:
    """Name the row that was left out; a row may have several images."""
    return skipped.place.get("row", skipped.place.get("file"))


def changes_since(copy: Path, source: str, *, follow_links: bool = False) -> Iterator[str]:
    """Compare a copy with the data it was made from, and say which rows are no longer the same.

    Args:
        copy: see `problems_of`.
        source: as it was given to `puregen purify`.
        follow_links: read also what links in a folder lead to elsewhere, where the copy was made so.

    Raises:
        ValueError, OSError: as in `problems_of`; or the source cannot be opened.
    """
    from puregen_transforms.whole_sets.plan import copy_of
    from puregen_transforms.whole_sets.treatment import ALL_PURIFIED, TREATMENT, Treatment

    manifest = manifest_path(copy)
    settings = read_settings(manifest)
    if settings.get("engine") == "ray":
        raise ValueError(f"Expected a copy whose rows are in the source's order, but Ray has written {copy}.")
    before = settings["source"]
    splits = before.get("splits", list(before.get("rows", ())))
    treatment = Treatment.from_dict(before[TREATMENT]) if TREATMENT in before else ALL_PURIFIED
    storage = Storage.from_dict(before.get("storage", {}))
    columns = before.get("columns", ())
    planned = copy_of(
        source,
        copy,
        columns=columns,
        splits=splits,
        follow_links=follow_links,
        storage=storage,
        treatment=treatment,
    )
    now = planned.cut(before["rows of a part"])
    if changes := differences(before, json.loads(json.dumps(now.describe()))):
        yield from changes
        return
    for record in read_records(manifest):
        part = Part(name=record.name, split=record.split, start=record.start, stop=record.stop)
        if record.source and now.source_digest(part) != record.source:
            yield f"{_rows(part.start, part.stop, part.split)} of the source have changed"


def _problems_of_file(home: Path, name: str, checksum: str, *, is_image: bool) -> Iterator[str]:
    try:
        path = below(home, name)
    except ValueError as error:
        yield str(error)
        return
    if not os.path.lexists(path):
        yield f"{name} is missing"
    elif path.is_symlink() or not is_regular(path):
        yield f"{name} is no file any more"
    elif hash_file(path) != checksum:
        yield f"{name} is not what was written"
    elif is_image:
        try:
            _decode_all(path)
        except (ImageProblemError, pa.ArrowException) as error:
            yield f"{name}: {error}"


def _problems_of_list(path: Path, skipped: tuple[Skipped, ...]) -> Iterator[str]:
    """Compare the list of images left out with the records, which name them too."""
    if not os.path.lexists(path):
        if skipped:
            yield f"{path.name} is missing"
    elif not is_regular(path) or path.is_symlink() or path.read_bytes() != skipped_as_json(skipped):
        yield f"{path.name} is not what was written"


def hidden_in(copy: Path) -> list[str]:
    """Name what file managers, git and others have put into a copy: hidden files, and all in hidden folders.

    No command of this package reads them, and no copy is made with them. Links and images are not among them, whatever
    their names: torchvision's `ImageFolder` would take them for images of the copy.
    """
    if not copy.is_dir():
        return []
    return sorted(name for name in _names_in(copy) if _is_hidden(name) and not _may_be_learned(copy / name))


_OF_WINDOWS = ("thumbs.db", "ehthumbs.db", "desktop.ini")


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") for part in parts) or parts[-1].lower() in _OF_WINDOWS


def _may_be_learned(path: Path) -> bool:
    """Tell whether a file is a link, a pipe or an image, by its first bytes."""
    if path.is_symlink() or not is_regular(path):
        return True
    with path.open("rb") as file:
        return looks_like_image("", file.read(16))


def _names_in(copy: Path) -> set[str]:
    """Name all that is in a folder but folders: files, links to whatever, pipes."""
    return {
        Path(folder, name).relative_to(copy).as_posix()
        for folder, folders, files in os.walk(copy)
        for name in (*files, *(name for name in folders if Path(folder, name).is_symlink()))
    }


def _decode_all(path: Path) -> None:
    if path.suffix != ".parquet":
        look_at(path.read_bytes())
        return
    from datasets import Image

    from puregen_transforms.data.parquet_files import features_of

    with pq.ParquetFile(path) as file:
        features = features_of(file.schema_arrow, path)
        columns = [name for name, feature in features.items() if isinstance(feature, Image)]
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                for cell in row.values():
                    if cell is not None and cell["bytes"] is not None:
                        look_at(cell["bytes"])


def _rows(start: int, stop: int, split: str) -> str:
    return f"rows {min(start, stop)} to {max(start, stop) - 1}" + (f" of split {split!r}" if split else "")
