"""The folder in which a job's finished files gather: each is whole and on disk before it gets its name."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "purified.jsonl"
"""Tells of a purified copy what it consists of; the copy of a copy gets its own."""


@dataclass(frozen=True)
class ResultFolder:
    """A folder that several processes fill.

    Args:
        folder: of files under their final names.
        scratch: of files being written, on the same disk.
    """

    folder: Path
    scratch: Path

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Lend a path to write a file to; it becomes `name` at the end, and is removed if the body raises.

        Args:
            name: in the folder, or an absolute path on the same disk.
        """
        temporary = self.scratch / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(self.folder / name)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def put(self, name: str, data: bytes) -> str:
        """Write a file, and return its sha256."""
        with self.writing(name) as temporary:
            temporary.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def settle(self, names: Iterable[str]) -> None:
        """Flush the names of files to disk."""
        for folder in {(self.folder / name).parent for name in names}:
            _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
