"""Files: found below a folder, read as JSON, written whole or not at all, and known by their hash."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from puregen_transforms._text import shown


def below(folder: Path, name: object, *, follow_links: bool = False) -> Path:
    """Join a name that comes out of data, a record or an archive to a folder.

    Every such name goes through here before anything is read, written or removed at its path.

    Args:
        folder: that the name must stay in.
        name: relative, with "/".
        follow_links: let links on the way lead out of the folder.

    Raises:
        ValueError: the name is none, or its path leaves the folder, be it by "..", from the root or through a link.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"Expected the name of a file below {folder}, but got {shown(repr(name))}.")
    pure = Path(name)
    is_plain = pure.parts and not pure.is_absolute() and not pure.drive and ".." not in pure.parts
    if not is_plain or not (follow_links or is_inside(folder, folder / pure)):
        raise ValueError(f"Expected a name below {folder}, but {shown(name)!r} leads out of it.")
    return folder / pure


def is_inside(folder: Path, path: Path) -> bool:
    """Tell whether a path is in a folder, wherever links lead."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def is_of_the_system(path: Path) -> bool:
    """Tell whether a path leads to what the system shows as files: environments of processes, memory, devices."""
    return any(Path(os.path.realpath(path)).is_relative_to(top) for top in ("/proc", "/sys", "/dev"))


def is_regular(path: Path) -> bool:
    """Tell whether a plain file is there, or a link to one: no folder, and no device or pipe, which may never end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # a name that no file can have
        return False


def parse_json(text: str | bytes, place: object) -> Any:
    """Parse JSON that somebody else may have written.

    Args:
        text: to parse.
        place: it comes from, for the error.

    Raises:
        ValueError: it is none, or is nested deeper than anything of ours.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {place}, but got: {shown(str(error))}.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; raises as `parse_json`, and `OSError`."""
    return parse_json(path.read_bytes(), path)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary neighbor, flush it to disk, then rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a folder that others may write to, nobody can have put a link where the file is made.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def hash_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file, read in pieces.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file, but a device or a pipe, which may have no end.
    """
    if path.exists() and not is_regular(path):
        raise ValueError(f"Expected a file, but {shown(str(path))} is none.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
