"""Look into archives for images, which would stay as they are in a copy."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path

from puregen_transforms.data.images import looks_like_image

_TAR_SUFFIXES = (".tgz", ".tbz2", ".txz")

_LARGEST = 2**32
"""Bytes of an unpacked archive that are looked at: a small file can be packed from any number."""


def archives_images(path: Path, first_bytes: bytes) -> bool:
    """Tell whether a file is an archive with images inside; what only has the name of one, or is damaged, is none.

    Args:
        path: of the file.
        first_bytes: of its content, four or more.

    Raises:
        ValueError: it is too large to be looked through.
    """
    if first_bytes.startswith(b"PK\x03\x04"):
        return _in_zip(path)
    if ".tar" in path.suffixes or path.suffix in _TAR_SUFFIXES:
        return _in_tar(path, first_bytes)
    return False


def _in_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(looks_like_image(name, b"") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError):
        return False


def _in_tar(path: Path, first_bytes: bytes) -> bool:
    try:
        with _unpacked(path, first_bytes) as file:
            bounded = _Bounded(file, path)
            with tarfile.open(fileobj=bounded, mode="r|") as archive:  # type: ignore[call-overload]
                return any(looks_like_image(member.name, b"") for member in archive)
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error):
        return False


def _unpacked(path: Path, first_bytes: bytes) -> io.BufferedIOBase:
    if first_bytes.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if first_bytes.startswith(b"BZh"):
        return bz2.open(path)
    if first_bytes.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        return lzma.open(path)
    return path.open("rb")


class _Bounded:
    """A file that is only read so far."""

    def __init__(self, file: io.BufferedIOBase, path: Path) -> None:
        self._file = file
        self._path = path
        self._read = 0

    def read(self, size: int) -> bytes:
        """Read so many bytes."""
        self._read += size
        if self._read > _LARGEST:
            raise ValueError(
                f"Expected archives of at most {_LARGEST} bytes when unpacked, to see whether images are inside, but "
                f"{self._path} is larger. Unpack it, or move it out of the folder."
            )
        return self._file.read(size)
