"""Look up on the disk what a user names, before anything slow is done."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

_FILE_SUFFIXES = (
    *(".arrow", ".csv", ".json", ".jsonl", ".npy", ".npz", ".parquet", ".pkl", ".pt", ".tsv", ".txt"),
    *(".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    *(".gz", ".tar", ".tgz", ".zip"),
)
"""Endings that no name on the Hub has."""

_SHOWN = 5


def local_path(source: str) -> Path | None:
    """Return the file or folder that a source is, or None for the name of a data set."""
    path = Path(source).expanduser()
    return path if path.exists() else None


def check_path(source: str) -> None:
    """Refuse a path with nothing at it; what is there, or can only be a name on the Hub, passes.

    Raises:
        FileNotFoundError: it is written like a path, or its beginning is a folder here; names what is alike.
    """
    path = Path(source)
    if local_path(source) is not None:
        return
    in_folder = source.count("/") == 1 and path.parent.is_dir()
    if _is_path(source) or in_folder:
        hub = " (A name on the Hub is asked for from another folder.)" if in_folder and not _is_path(source) else ""
        raise FileNotFoundError(
            f"Expected a file, a folder or a dataset name, but there is nothing at {source!r}."
            f"{what_is_there(source)}{hub}"
        )


def _is_path(source: str) -> bool:
    """Tell whether a text can be no name on the Hub, which is "name" or "owner/name"."""
    return (
        source.startswith((".", "/", "~"))
        or source.endswith("/")
        or source.count("/") > 1
        or "\\" in source
        or " " in source
        or Path(source).suffix.lower() in _FILE_SUFFIXES
    )


def what_is_there(source: str) -> str:
    """Describe the part of a path that is there, and similar names in it; empty if there are none."""
    path = Path(source).expanduser()
    home = next((folder for folder in path.parents if folder.is_dir()), Path())
    try:
        names = sorted(entry.name for entry in home.iterdir() if not entry.name.startswith("."))
    except OSError:
        return ""
    wanted = path.relative_to(home).parts[:1] if path.is_relative_to(home) else ()
    alike = get_close_matches(wanted[0], names, n=_SHOWN) if wanted else []
    if alike:
        return f" Is it {' or '.join(repr(str(home / name)) for name in alike)}?"
    if home == Path():
        return ""
    held = ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    return f" The folder {str(home)!r} is there, and holds {held or 'nothing'}."
