"""Links in a folder that was handed over: followed within it, and out of it only where the user asks for that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from puregen_transforms._files import is_inside, is_of_the_system
from puregen_transforms._text import shown


def problem_of_link(path: Path, top: Path, *, follow_links: bool = False) -> str | None:
    """Say why a path is not to be opened; None if it may be.

    Args:
        path: of a file or folder below `top`.
        top: the folder that the user named.
        follow_links: open what is elsewhere, too.
    """
    if not path.is_symlink():
        return None
    if not is_inside(top, path):
        if is_of_the_system(path):
            return "it is a link to a file of the system, which is never followed"
        if not follow_links:
            return (
                "it is a link out of the folder, to what may be private; put a copy in its place (cp -rL), or have "
                "such links followed (--follow-links)"
            )
    return None


def check_links(top: Path, *, follow_links: bool = False) -> None:
    """Refuse a folder with links out of it, or with pipes and devices, which may never end.

    Args:
        top: the folder that the user named.
        follow_links: let links lead elsewhere.

    Raises:
        ValueError: says which.
        OSError: it cannot be listed.
    """
    for path in _entries(top):
        if (problem := problem_of_link(path, top, follow_links=follow_links)) is not None:
            raise ValueError(f"Expected a folder with all of its files, but of {shown(str(path))}: {problem}.")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"Expected files and folders only, but {shown(str(path))} is neither; move it out.")


def _entries(top: Path) -> Iterator[Path]:
    """Yield what is below a folder, hidden entries left out as `datasets` does; links are not followed."""
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in (*folders, *files) if not name.startswith("."))
