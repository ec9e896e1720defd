"""A copy under way, in a folder beside its destination, from which it moves there when it is whole."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from puregen_transforms._files import below, hash_file, is_regular, read_json, write_atomically
from puregen_transforms._text import shown
from puregen_transforms.data.atomic import check_free, make_parents, move_to_free, remove_if_empty, try_writing
from puregen_transforms.data.reserved_names import SKIPPED
from puregen_transforms.whole_sets.copy_folder import CopyFolder
from puregen_transforms.whole_sets.dataset_copy import PartRecord
from puregen_transforms.whole_sets.manifest import (
    PART_ROWS_SETTING,
    SETTLED,
    differences,
    filled_in,
    manifest_of,
    manifest_path,
    read_settings,
)
from puregen_transforms.whole_sets.summary import Skipped, skipped_as_json

_PATIENCE = 2.0
"""Seconds to wait for the lock: a process that was just killed may hold it until its memory is freed."""


@dataclass(frozen=True)
class UnfinishedCopy:
    """A copy under way, and its folder.

    Args:
        destination: of the copy: a folder, or a .parquet file.
    """

    destination: Path

    @property
    def folder(self) -> Path:
        """The folder in which finished parts are kept until all are."""
        return self.destination.with_name(self.destination.name + ".unfinished")

    @property
    def files(self) -> CopyFolder:
        """The files of the copy."""
        return CopyFolder(self.folder / "result", self.folder / "scratch")

    @property
    def is_file(self) -> bool:
        """Whether the copy is to be a single file."""
        return self.destination.suffix == ".parquet"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other runs; the system unlocks it when this process dies.

        At the end the folder is removed if no part is finished.

        Raises:
            BlockingIOError: another run is at it.
            FileExistsError: there is something else in its place.
            OSError: nothing can be written beside the destination.
        """
        parents = [self.folder, *make_parents(self.destination.parent)]
        try:
            probe = self.destination.with_name(f".{self.destination.name}.{secrets.token_hex(4)}.try")
            self._check_own(owner=try_writing(probe))
            self.folder.mkdir(exist_ok=True)
            with self._acquire():
                try:
                    yield
                finally:
                    if not self.has_progress:
                        self.remove()
        finally:
            for folder in parents:
                remove_if_empty(folder)

    def _check_own(self, *, owner: int) -> None:
        """Take up only what a run of this user has left: others may put a folder there, or a link to one.

        Args:
            owner: number of the user to whom new files here belong.
        """
        if not os.path.lexists(self.folder):
            return
        found = self.folder.lstat()
        names = {path.name for path in self.folder.iterdir()} if stat.S_ISDIR(found.st_mode) else {"not a folder"}
        begun = {name for name in names if name == "lock" or name.startswith(".job.json.")}
        if found.st_uid != owner or (names != begun and "job.json" not in names):
            raise FileExistsError(
                f"Expected what an earlier run of yours has left in {self.folder}, but that is something else. "
                "Move it away, or choose another destination."
            )

    def _acquire(self) -> AbstractContextManager[object]:
        try:
            return FileLock(self.folder / "lock").acquire(timeout=_PATIENCE)
        except (Timeout, FileNotFoundError) as error:  # not found: the other run ends, and takes the folder away
            raise BlockingIOError(
                f"Expected to be alone in purifying to {self.destination}, but another run is at it. Wait for that "
                "one, stop it, or choose another destination."
            ) from error

    def found_complete(self, settings: Mapping[str, Any]) -> bool:
        """Tell whether an earlier run with the same settings has written all.

        Raises:
            FileExistsError: one with other settings has.
        """
        path = manifest_path(self.destination)
        if not path.exists() or not self.destination.exists():
            return False
        before = read_settings(path)
        if changes := differences(before, filled_in(settings, before)):
            raise FileExistsError(
                f"Expected a destination that does not exist yet, or holds a copy by the same settings, but of that in "
                f"{self.destination}, {'; '.join(changes)}. Choose another destination."
            )
        self.remove()
        return True

    @property
    def part_rows(self) -> int | None:
        """Rows of the parts that an earlier run has cut the source into, finished or not."""
        before = self.recorded()
        found = None if before is None else before["source"].get(PART_ROWS_SETTING)
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def recorded(self) -> dict[str, Any] | None:
        """Read the settings of an earlier run, finished or not; None if there was none.

        Raises:
            ValueError: they are damaged.
        """
        manifest = manifest_path(self.destination)
        whole = manifest.exists() and self.destination.exists()
        return read_settings(manifest) if whole else self.earlier()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Set up the folder, or take it up again as a run before has left it.

        Raises:
            FileExistsError, ValueError: see `check`.
        """
        self.check(settings)
        shutil.rmtree(self.files.scratch, ignore_errors=True)
        write_atomically(self.folder / "job.json", json.dumps(dict(settings)).encode())
        for folder in (self.files.folder, self.files.scratch, self.folder / "parts"):
            folder.mkdir(exist_ok=True)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check that the place is free, and a run before was about the same.

        Raises:
            FileExistsError: there is something at the destination.
            ValueError: the run before was about something else; says what differs.
        """
        check_free(self.destination, folder=not self.is_file)
        if self.is_file:
            self._check_neighbors()
        earlier = self.earlier()
        if earlier is not None and (changes := differences(earlier, settings)):
            raise ValueError(
                f"Expected to go on with what an earlier run has begun in {self.folder}, but {'; '.join(changes)}. "
                "Repeat that run's settings on the same data, or remove that folder to begin anew."
            )

    def _check_neighbors(self) -> None:
        """Refuse files that are none of an earlier run's where the manifest and the list go, beside the copy."""
        manifest, skipped = manifest_path(self.destination), skipped_path(self.destination)
        for path in (path for path in (manifest, skipped) if os.path.lexists(path)):
            with suppress(ValueError, OSError):
                read_settings(manifest)
                continue
            raise FileExistsError(f"Expected no {path}: it is written beside the copy. Move it away, or rename.")

    def earlier(self) -> dict[str, Any] | None:
        """Read the settings of the run that has begun this copy.

        Raises:
            ValueError: they are damaged.
        """
        path = self.folder / "job.json"
        if not path.exists():
            return None
        with self._explained_damage(path):
            settings = read_json(path)
            if not isinstance(settings, dict) or not all(
                isinstance(settings.get(name), dict) for name in ("source", "purifier")
            ):
                raise ValueError("it is not the settings of a run")
            settled = settings["purifier"]
            if settled and (missing := [name for name in SETTLED if name not in settled]):
                raise ValueError(f"it has no {missing[0]}")
            return settings

    def record(self, name: str) -> PartRecord | None:
        """Read the record of a part; None if it is not finished."""
        path = below(self.folder / "parts", f"{name}.json")
        return self._read_record(path) if path.exists() else None

    def add(self, record: PartRecord) -> None:
        """Record a finished part, all of whose files are on disk."""
        path = below(self.folder / "parts", f"{record.name}.json")
        write_atomically(path, json.dumps(record.to_dict()).encode())

    def records(self) -> Iterator[PartRecord]:
        """Yield the records of all finished parts, in no order."""
        yield from map(self._read_record, self._finished())

    def _finished(self) -> Iterator[Path]:
        return (self.folder / "parts").glob("*.json")

    def _read_record(self, path: Path) -> PartRecord:
        with self._explained_damage(path):
            record = PartRecord.from_dict(read_json(path))
            if record.name != path.stem:
                raise ValueError(f"it is the record of {shown(record.name)!r}")
            for name in record.files:
                below(self.files.folder, name)
            return record

    @contextmanager
    def _explained_damage(self, path: Path) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(
                f"Expected what an earlier run has left in {path}, but it is damaged: {error}. "
                f"Remove {self.folder} to begin anew."
            ) from error

    @property
    def checkpoints(self) -> Path:
        """The folder in which Ray notes what it has written."""
        return self.folder / "checkpoints"

    @property
    def has_progress(self) -> bool:
        """Whether there is anything to go on from."""
        return any(self._finished()) or (self.checkpoints.exists() and any(self.checkpoints.iterdir()))

    def is_whole(self, record: PartRecord) -> bool:
        """Tell whether the files of a finished part are still what they were."""
        return all(holds(self.files.folder, name, checksum) for name, checksum in record.files.items())

    def complete(self, settings: Mapping[str, Any], records: list[PartRecord], skipped: tuple[Skipped, ...]) -> None:
        """Move the copy to its destination; killed at any moment, the next run does it again."""
        result = self.files.folder
        if self.is_file:
            records = self._joined(records)
        # Of a single file, these two come first: where it is, they are.
        home = self.destination if self.is_file else result
        self.files.put_at(manifest_path(home), manifest_of(settings, records))
        if skipped:
            self.files.put_at(skipped_path(home), skipped_as_json(skipped))
        move_to_free(result / self.destination.name if self.is_file else result, self.destination)
        self.remove()

    def _joined(self, records: list[PartRecord]) -> list[PartRecord]:
        """Join all parts into one file."""
        paths = [below(self.files.folder, name) for record in records for name in record.files]
        name = self.destination.name
        with self.files.writing(name) as temporary:
            with pq.ParquetWriter(temporary, pq.read_schema(paths[0])) as writer:
                for path in paths:
                    with pq.ParquetFile(path) as file:
                        for group in range(file.metadata.num_row_groups):
                            writer.write_table(file.read_row_group(group))
            files = {name: hash_file(temporary)}
        self.files.settle(files)
        return [*(replace(record, files={}) for record in records), PartRecord.from_files("all rows", files)]

    def remove(self) -> None:
        """Take away the folder of the copy under way."""
        shutil.rmtree(self.folder, ignore_errors=True)


def holds(folder: Path, name: str, checksum: str) -> bool:
    """Tell whether a file is in a folder, and what it was."""
    path = below(folder, name)
    return is_regular(path) and hash_file(path) == checksum


def skipped_path(destination: Path) -> Path:
    """Return the path of the list of images left out: in a folder, or beside a file."""
    if destination.suffix == ".parquet":
        return destination.with_suffix("." + SKIPPED)
    return destination / SKIPPED
