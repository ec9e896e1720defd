"""A copy under way, in a folder beside its destination, from which it moves there when it is whole."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from puregen_transforms._files import hash_file, write_atomically
from puregen_transforms.data.atomic import check_free, make_parents, remove_if_empty, try_writing
from puregen_transforms.data.folders import SKIPPED
from puregen_transforms.data.outcome import Skipped, skipped_as_json
from puregen_transforms.data.parts import PartRecord
from puregen_transforms.data.results import ResultFolder
from puregen_transforms.distributed.manifest import (
    PART_ROWS_SETTING,
    differences,
    filled_in,
    manifest_of,
    manifest_path,
    read_settings,
)


@dataclass(frozen=True)
class Job:
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
    def results(self) -> ResultFolder:
        """The files of the copy."""
        return ResultFolder(self.folder / "result", self.folder / "scratch")

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
            OSError: nothing can be written beside the destination.
        """
        parents = [self.folder, *make_parents(self.destination.parent)]
        try:
            try_writing(self.destination.with_name(f".{self.destination.name}.{secrets.token_hex(4)}.try"))
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

    def _acquire(self) -> AbstractContextManager[object]:
        try:
            return FileLock(self.folder / "lock").acquire(timeout=0)
        except Timeout as error:
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
        manifest = manifest_path(self.destination)
        whole = manifest.exists() and self.destination.exists()
        before = read_settings(manifest) if whole else self.earlier() or {}
        found = before.get("source", {}).get(PART_ROWS_SETTING)
        return found if isinstance(found, int) else None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Set up the folder, or take it up again as a run before has left it.

        Raises:
            FileExistsError: there is something at the destination.
            ValueError: the run before was about something else; says what differs.
        """
        check_free(self.destination, folder=not self.is_file)
        earlier = self.earlier()
        if earlier is not None and (changes := differences(earlier, settings)):
            raise ValueError(
                f"Expected to go on with what an earlier run has begun in {self.folder}, but {'; '.join(changes)}. "
                "Repeat that run's settings on the same data, or remove that folder to begin anew."
            )
        shutil.rmtree(self.results.scratch, ignore_errors=True)
        for folder in (self.results.folder, self.results.scratch, self.folder / "parts"):
            folder.mkdir(exist_ok=True)
        write_atomically(self.folder / "job.json", json.dumps(dict(settings)).encode())

    def earlier(self) -> dict[str, Any] | None:
        """Read the settings of the run that has begun this copy."""
        path = self.folder / "job.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def record(self, name: str) -> PartRecord | None:
        """Read the record of a part; None if it is not finished."""
        path = self.folder / "parts" / f"{name}.json"
        return PartRecord.from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def add(self, record: PartRecord) -> None:
        """Record a finished part, all of whose files are on disk."""
        write_atomically(self.folder / "parts" / f"{record.name}.json", json.dumps(record.to_dict()).encode())

    def records(self) -> Iterator[PartRecord]:
        """Yield the records of all finished parts, in no order."""
        for path in (self.folder / "parts").glob("*.json"):
            yield PartRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))

    @property
    def checkpoints(self) -> Path:
        """The folder in which Ray notes what it has written."""
        return self.folder / "checkpoints"

    @property
    def has_progress(self) -> bool:
        """Whether there is anything to go on from."""
        return any(self.records()) or (self.checkpoints.exists() and any(self.checkpoints.iterdir()))

    def is_whole(self, record: PartRecord) -> bool:
        """Tell whether the files of a finished part are still what they were."""
        paths = {self.results.folder / name: checksum for name, checksum in record.files.items()}
        return all(path.exists() and hash_file(path) == checksum for path, checksum in paths.items())

    def complete(self, settings: Mapping[str, Any], records: list[PartRecord], skipped: tuple[Skipped, ...]) -> None:
        """Move the copy to its destination; killed at any moment, the next run does it again."""
        result = self.results.folder
        if self.is_file:
            records = self._joined(records)
        # Of a single file, these two come first: where it is, they are.
        home = self.destination if self.is_file else result
        self.results.put(str(manifest_path(home)), manifest_of(settings, records))
        if skipped:
            self.results.put(str(skipped_path(home)), skipped_as_json(skipped))
        check_free(self.destination, folder=not self.is_file)
        if self.is_file:
            (result / self.destination.name).rename(self.destination)
        else:
            with suppress(FileNotFoundError):
                self.destination.rmdir()
            result.rename(self.destination)
        self.remove()

    def _joined(self, records: list[PartRecord]) -> list[PartRecord]:
        """Join all parts into one file."""
        paths = [self.results.folder / name for record in records for name in record.files]
        name = self.destination.name
        with self.results.writing(name) as temporary:
            with pq.ParquetWriter(temporary, pq.read_schema(paths[0])) as writer:
                for path in paths:
                    with pq.ParquetFile(path) as file:
                        for group in range(file.metadata.num_row_groups):
                            writer.write_table(file.read_row_group(group))
            files = {name: hash_file(temporary)}
        self.results.settle(files)
        return [*(replace(record, files={}) for record in records), PartRecord.from_files("all rows", files)]

    def remove(self) -> None:
        """Take away the folder of the copy under way."""
        shutil.rmtree(self.folder, ignore_errors=True)


def skipped_path(destination: Path) -> Path:
    """Return the path of the list of images left out: in a folder, or beside a file."""
    if destination.suffix == ".parquet":
        return destination.with_suffix("." + SKIPPED)
    return destination / SKIPPED
