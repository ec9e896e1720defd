"""What a benchmark has computed so far, on disk by all that it depends on; several processes may share it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file, save
from torch import Tensor

from puregen_transforms._files import write_atomically
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.data.mapped import bytes_of

FORMAT = 1
"""Raised when what is kept under the same settings would come out otherwise."""


def digest_of(settings: Any) -> str:
    """Hex name of JSON-ready settings."""
    return hashlib.sha256(json.dumps([FORMAT, settings], sort_keys=True).encode()).hexdigest()


def name_of(settings: Any) -> str:
    """Name a kept result by all that decides it, in 24 hex digits."""
    return digest_of(settings)[:24]


def fingerprint(*tensors: Tensor) -> str:
    """Hex name of tensors' content."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        for piece in bytes_of(tensor):
            found.update(piece)
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Store:
    """A folder of results. Each is written whole or not at all, and computed by one process while others wait for it.

    Args:
        folder: made if need be.
    """

    folder: Path

    def record(self, kind: str, settings: Any, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """JSON: the kept one, or what `compute` returns.

        Args:
            kind: of result; a folder.
            settings: JSON-ready, all that decides it.
            compute: makes it.
        """
        path = self.path_of(kind, settings, ".json")
        with self.locked(path):
            if not path.exists():
                write_atomically(path, _as_bytes(compute()))
        return json.loads(path.read_text(encoding="utf-8"))

    def tensors(self, kind: str, settings: Any, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors by name, on the CPU: the kept ones, or what `compute` returns; see `record`."""
        path = self.path_of(kind, settings, ".safetensors")
        with self.locked(path):
            if not path.exists():
                content = {name: value.detach().contiguous().cpu() for name, value in compute().items()}
                write_atomically(path, save(content))
        return load_file(path)

    def poison(self, settings: Any, compute: Callable[[], Poison]) -> Poison:
        """Read the kept poison, or keep what `compute` returns; see `record`."""
        path = self.path_of("poisons", settings, "")
        with self.locked(path):
            if not path.exists():
                compute().save(path)
        return Poison.load(path)

    def path_of(self, kind: str, settings: Any, suffix: str) -> Path:
        """Name the place where a result is, or will be."""
        return self.folder / kind / f"{name_of(settings)}{suffix}"

    def adopt(self, kind: str, name: str, record: Mapping[str, Any]) -> None:
        """Keep JSON that was computed elsewhere, unless a result of that name is here already; see `name_of`.

        Raises:
            ValueError: no such name.
        """
        if not re.fullmatch(r"[0-9a-f]{24}", name):
            raise ValueError(f"Expected a name of 24 hex digits for a result, but got {name!r}.")
        path = self.folder / kind / f"{name}.json"
        with self.locked(path):
            if not path.exists():
                write_atomically(path, _as_bytes(record))

    @contextmanager
    def workspace(self, kind: str, settings: Any) -> Iterator[Path]:
        """Lend a folder for work in progress, which a killed process goes on from; it is gone when the work is done."""
        path = self.path_of(kind, settings, "")
        with self._lock(path):
            path.mkdir(parents=True, exist_ok=True)
            yield path
            shutil.rmtree(path)

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Let one process compute a result that is not there yet, while others wait here for it."""
        if path.exists():
            yield
        else:
            with self._lock(path):
                yield

    @contextmanager
    def _lock(self, path: Path) -> Iterator[None]:
        lock = self.folder / "locks" / f"{path.parent.name}-{path.name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # the system lets go of it when its process dies
            yield


def _as_bytes(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
