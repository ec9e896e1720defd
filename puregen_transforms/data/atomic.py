"""Write a file or folder that is either complete or not there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def complete_or_absent(destination: Path, *, folder: bool) -> Iterator[Path]:
    """Lend a temporary path on the disk of `destination`; what is written there moves to `destination` at the end.

    The path is in a folder of its own beside it, into which nobody else can put a link. If the body raises, whatever
    it is, that folder is removed and `destination` is not made.

    Args:
        destination: must not exist; an empty folder is replaced where `folder` is true.
        folder: whether the temporary path is an (existing, empty) folder or a file still to be written.

    Raises:
        FileExistsError: there is something at `destination`.
        OSError: nothing can be written beside it.
    """
    destination = destination.resolve()
    check_free(destination, folder=folder)
    made = make_parents(destination.parent)
    own = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.partial")
    try:
        try_writing(own)
        own.mkdir(mode=0o700)
        temporary = own / destination.name
        if folder:
            temporary.mkdir()
        yield temporary
        move_to_free(temporary, destination)
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        for parent in made:
            remove_if_empty(parent)
        raise
    shutil.rmtree(own, ignore_errors=True)


def move_to_free(temporary: Path, destination: Path) -> None:
    """Give a finished file or folder its name; whatever has come there meanwhile is left as it is.

    Args:
        temporary: on the same disk.
        destination: nothing, or for a folder an empty one.

    Raises:
        FileExistsError: there is something.
    """
    folder = temporary.is_dir()
    check_free(destination, folder=folder)
    if folder:
        # Onto a file, or a folder with something in it, the system renames no folder.
        with suppress(FileNotFoundError):
            destination.rmdir()
        temporary.rename(destination)
        return
    try:
        os.link(temporary, destination)
    except FileExistsError:
        check_free(destination, folder=False)
        raise
    except OSError:  # a disk without hard links
        check_free(destination, folder=False)
        temporary.rename(destination)
    else:
        temporary.unlink()


def check_free(destination: Path, *, folder: bool) -> None:
    """Refuse to write over anything but an empty folder.

    Raises:
        FileExistsError: see above.
    """
    if os.path.ismount(destination):
        raise FileExistsError(
            f"Expected a path that can be renamed to, but {destination} is a mount point; name a folder inside it."
        )
    if not os.path.lexists(destination):
        return
    if folder and destination.is_dir() and not any(destination.iterdir()):
        return
    raise FileExistsError(
        f"Expected a destination that does not exist yet, but {destination} does; "
        "nothing is overwritten: remove it or choose another name."
    )


def make_parents(parent: Path) -> list[Path]:
    """Create the missing folders up to `parent`; returns them, innermost first."""
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for folder in missing:
            remove_if_empty(folder)
        raise _unwritable(parent, error) from error
    return missing


def try_writing(temporary: Path) -> int:
    """Find out about a read-only or full destination before any work is done.

    Returns:
        The number of the user to whom a new file there belongs.
    """
    try:
        with temporary.open("xb") as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_uid
    except OSError as error:
        raise _unwritable(temporary.parent, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _unwritable(parent: Path, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    return OSError(
        f"Expected to be able to write in {parent}, but got: {reason}. "
        "Choose a destination on a disk that is writable and has free space."
    )


def remove_if_empty(folder: Path) -> None:
    """Take a folder away unless something is in it."""
    # Another program may have put something there meanwhile, or it was never made.
    with suppress(OSError):
        folder.rmdir()
