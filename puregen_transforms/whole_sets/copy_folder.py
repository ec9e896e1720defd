"""Write the files of a copy into a folder: each is whole and on disk before it gets its name."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from puregen_transforms._files import below


@dataclass(frozen=True)
class CopyFolder:
    """A folder that several processes fill.

    Args:
        folder: of files under their final names.
        scratch: of files being written, on the same disk.
    """

    folder: Path
    scratch: Path

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Lend a path to write a file to; it becomes `name` in the folder, or is removed if the body raises.

        Raises:
            ValueError: the name leads out of the folder.
        """
        with self.writing_to(below(self.folder, name)) as temporary:
            yield temporary

    @contextmanager
    def writing_to(self, path: Path) -> Iterator[Path]:
        """Lend a path to write a file to, which goes to any place on the same disk that the user has named."""
        temporary = self.scratch / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def put(self, name: str, data: bytes) -> str:
        """Write a file, and return its sha256."""
        return self.put_at(below(self.folder, name), data)

    def put_at(self, path: Path, data: bytes) -> str:
        """Write a file to any path on the same disk that the user has named, and return its sha256."""
        with self.writing_to(path) as temporary:
            temporary.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def settle(self, names: Iterable[str]) -> None:
        """Flush the names of files to disk."""
        for folder in {below(self.folder, name).parent for name in names}:
            _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
