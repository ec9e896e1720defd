"""Purified images kept on disk, so that a pipeline pays for each of them once.

The store is SQLite, from Python's standard library: reads take microseconds, several processes may share it, and a
transaction that a dying process leaves behind never took place. (LMDB would be a package more, and packages that keep
Python objects pickle them.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from puregen_transforms.functional.images import rounded

CACHE_BYTES = 10 * 2**30
"""Bytes that a cache grows to, unless another size is asked for."""

_PATIENCE = 60.0
"""Seconds to wait while another process writes."""

_TABLES = """
CREATE TABLE IF NOT EXISTS purifiers (number INTEGER PRIMARY KEY, digest TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    purifier INTEGER NOT NULL, content BLOB NOT NULL, pixels BLOB NOT NULL, checksum BLOB NOT NULL,
    UNIQUE (purifier, content)
);
"""

_DROP_OTHERS = """
DELETE FROM images WHERE rowid IN (SELECT rowid FROM images WHERE purifier < ?1 OR purifier > ?1 LIMIT 1000)
"""

_LOOK_UP = "SELECT pixels, checksum FROM images WHERE purifier = ? AND content = ?"

_SCHEMA = "SELECT type, sql FROM sqlite_master WHERE name IN ('purifiers', 'images') ORDER BY name"

_DAMAGED = (sqlite3.Error, ValueError, TypeError, OverflowError)
"""What reading a file of anything else can raise; its own texts may be no UTF-8."""

_INHERITED: list[object] = []
"""Connections from before a fork: closing them here would confuse the parent's locks."""


@dataclass(frozen=True)
class ImageCache:
    """Keep purified images in a folder, by what they were and what purified them: `PureGen(cache=ImageCache(...))`.

    When it is full, images of other purifiers make room; after that new ones are not kept, since a training that reads
    a larger set round and round would otherwise find none of them. Safe for several processes and threads on one
    machine; a folder on a network drive is not.

    Args:
        folder: made if need be.
        max_bytes: of the file.

    Raises:
        ValueError: `max_bytes` is below 1 MiB.
    """

    folder: str | os.PathLike[str]
    max_bytes: int = CACHE_BYTES

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        if isinstance(self.max_bytes, bool) or not isinstance(self.max_bytes, int) or self.max_bytes < 2**20:
            raise ValueError(f"Expected `max_bytes` to be an integer of at least {2**20}, but got {self.max_bytes!r}.")


@dataclass
class CachedImages:
    """One purifier's images in a cache; connects to the file when first used.

    What is damaged there, however that came about, is as if it were not there.

    Args:
        cache: where they are kept.
        digest: of the purifier.
    """

    cache: ImageCache
    digest: str
    _local: threading.local = field(default_factory=threading.local, repr=False)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Read the pixels that are kept, by key."""
        found: dict[bytes, bytes] = {}
        database, number = self._opened()
        try:
            for key in keys:
                row = database.execute(_LOOK_UP, (number, key)).fetchone()
                if row is not None and row[1] == self._checksum(key, row[0]):
                    found[key] = row[0]
        except _DAMAGED:
            pass
        return found

    def _checksum(self, key: bytes, pixels: object) -> bytes | None:
        """Hash what was purified, by what, and what came of it."""
        if not isinstance(pixels, bytes):
            return None
        return hashlib.blake2b(key + pixels, digest_size=16, key=self.digest.encode()[:64]).digest()

    def put(self, pixels: Mapping[bytes, bytes]) -> None:
        """Keep pixels, as far as there is room and nobody else writes for a minute on end."""
        if getattr(self._local, "full", False):
            return
        database, number = self._opened()
        rows = [(number, key, value, self._checksum(key, value)) for key, value in pixels.items()]
        try:
            self._insert(database, rows)
        except _DAMAGED as error:
            if "full" not in str(error):  # locked by others, or damaged: the images are there all the same
                return
            if self._make_room(database, number):
                self.put(pixels)
            else:
                self._local.full = True

    def _insert(self, database: sqlite3.Connection, rows: list[tuple[int, bytes, bytes, bytes | None]]) -> None:
        with database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", rows)

    def _make_room(self, database: sqlite3.Connection, number: int) -> bool:
        """Drop images of other purifiers; tell whether there were any."""
        with database:
            database.execute("BEGIN IMMEDIATE")
            return database.execute(_DROP_OTHERS, (number,)).rowcount > 0

    def _opened(self) -> tuple[sqlite3.Connection, int]:
        """Return the connection of this thread; one made before a fork must not be used after it."""
        known = getattr(self._local, "opened", None)
        if known is None or known[0] != os.getpid():
            _INHERITED.append(known)
            known = self._local.opened = (os.getpid(), *self._open())
        return known[1], known[2]

    def _open(self) -> tuple[sqlite3.Connection, int]:
        folder = Path(self.cache.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "purified.sqlite"
        with FileLock(folder / "opening.lock", timeout=_PATIENCE):  # SQLite does not wait where the mode changes
            return self._connect(path)

    def _connect(self, path: Path) -> tuple[sqlite3.Connection, int]:
        try:
            database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_TABLES)
            page = database.execute("PRAGMA page_size").fetchone()[0]
            database.execute(f"PRAGMA max_page_count = {max(16, self.cache.max_bytes // page)}")
            _check_tables(database)
            database.execute("INSERT OR IGNORE INTO purifiers (digest) VALUES (?)", (self.digest,))
            (number,) = database.execute("SELECT number FROM purifiers WHERE digest = ?", (self.digest,)).fetchone()
            if not isinstance(number, int):
                raise sqlite3.DatabaseError("a purifier without a number")
        except _DAMAGED as error:
            raise OSError(
                f"Expected a cache of purified images that can be read and written at {path}, but got: {error}. "
                "Choose a folder on a local disk with free space, or remove that file."
            ) from error
        return database, number


def _check_tables(database: sqlite3.Connection) -> None:
    """Refuse a file whose tables are none of ours: a view in their place may have no end."""
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(_TABLES)
        wanted = _plain(fresh.execute(_SCHEMA).fetchall())
    if _plain(database.execute(_SCHEMA).fetchall()) != wanted:
        raise sqlite3.DatabaseError("its tables are not those of a cache")
    triggers = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone()
    if triggers != (0,):
        raise sqlite3.DatabaseError("it has triggers")


def _plain(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(kind, " ".join(sql.split())) for kind, sql in rows]


def content_keys(images: Tensor) -> list[bytes]:
    """Hash each image's size and 8-bit pixels: (N, C, H, W) -> N keys."""
    pixels = rounded(images).cpu().contiguous().numpy()
    size = repr(pixels.shape[1:]).encode()
    return [hashlib.blake2b(image.tobytes(), digest_size=16, key=size).digest() for image in pixels]


def purify_through(cache: CachedImages, images: Tensor, purify: Callable[[Tensor], Tensor]) -> Tensor:
    """Purify only what the cache does not hold.

    Args:
        cache: of the purifier; see `ImageCache`.
        images: (N, 3, H, W), uint8 or float in [0, 1].
        purify: some of them -> as many (N, 3, H, W) uint8.

    Returns:
        (N, 3, H, W) uint8 on the device of the images.
    """
    keys = content_keys(images)
    size = images[:1].numel()
    kept = {key: pixels for key, pixels in cache.get(keys).items() if len(pixels) == size}
    missing = [index for index, key in enumerate(keys) if key not in kept]
    result = torch.empty(images.shape, dtype=torch.uint8)
    for index, key in enumerate(keys):
        if key in kept:
            result[index] = torch.frombuffer(bytearray(kept[key]), dtype=torch.uint8).view(images.shape[1:])
    if missing:
        fresh = purify(images[missing]).cpu()
        result[missing] = fresh
        cache.put({keys[index]: image.numpy().tobytes() for index, image in zip(missing, fresh, strict=True)})
    return result.to(images.device)
