"""Hash the content of rows, however they are cut into tables."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any

import pyarrow as pa

from puregen_transforms.data.cells import ANYWHERE, Places
from puregen_transforms.data.images import ImageProblemError


class RowDigest:
    """A running sha256 of the content of rows, however they are cut into tables.

    Args:
        places: where the rows may name files.
    """

    def __init__(self, places: Places = ANYWHERE) -> None:
        self._found = hashlib.sha256()
        self._places = places

    def add(self, table: pa.Table) -> None:
        """Hash more rows; images that are only named are read."""
        for row in table.to_pylist():
            for value in row.values():
                self._add(value)

    def _add(self, value: Any) -> None:
        if isinstance(value, dict) and set(value) == {"bytes", "path"} and value["bytes"] is None and value["path"]:
            with suppress(OSError, ImageProblemError):
                value = {**value, "bytes": self._places.read(value)}
        if isinstance(value, dict):
            self._found.update(b"{%d" % len(value))
            for key, item in value.items():
                self._add(key)
                self._add(item)
        elif isinstance(value, list):
            self._found.update(b"[%d" % len(value))
            for item in value:
                self._add(item)
        else:
            data = value if isinstance(value, bytes) else repr(value).encode(errors="surrogatepass")
            self._found.update(b"%s %d " % (type(value).__name__.encode(), len(data)))
            self._found.update(data)

    def hexdigest(self) -> str:
        """Return the hash of the rows so far."""
        return self._found.hexdigest()
