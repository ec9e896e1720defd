"""From a reference (a name, a folder, a Hub repository and revision) to the files of a checkpoint on this machine."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from puregen_transforms.hub.catalogue import CATALOGUE, CatalogueEntry, Kind
from puregen_transforms.hub.layout import DESCRIPTIONS, CheckpointFiles, choose_files, list_folder, wrong_kind_error

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[^\s~^:?*\[\\]+")
"""What git allows in the name of a branch or tag, more or less; a commit hash is of this form, too."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a reference leads, as far as that can be told without a request.

    Args:
        entry: of the catalogue, if the reference is a name there.
        repo_id: Hub repository "owner/name"; None if the checkpoint is on this machine.
        revision: branch, tag or commit of it that the reference asks for.
    """

    entry: CatalogueEntry | None = None
    repo_id: str | None = None
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class FoundCheckpoint:
    """The files of a checkpoint of any kind on this machine, not yet read.

    Args:
        reference: the catalogue name, folder or Hub repository it was found by.
        folder: where the files are.
        files: their names.
        sha256: of the weights file.
        revision: commit hash, if it came from the Hub.
    """

    reference: str
    folder: Path
    files: CheckpointFiles
    sha256: str
    revision: str | None = None

    @property
    def config(self) -> Path:
        """Path of the network's configuration."""
        return self.folder / self.files.config

    @property
    def weights(self) -> Path:
        """Path of the weights."""
        return self.folder / self.files.weights


def find(
    reference: str | os.PathLike[str],
    *,
    kinds: Sequence[Kind],
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> FoundCheckpoint:
    """Find the files of a checkpoint of one of several kinds, downloading them if need be.

    Arguments and errors are those of `resolve_checkpoint`, but nothing inside the files is looked at.

    Args:
        reference: catalogue name, local folder, or Hub repository "owner/name" or "owner/name@revision".
        kinds: that are accepted; where there are several, the first of them is taken.
        cache_dir: the Hub cache.
        token: for private repositories.
        local_files_only: use only what is cached.
    """
    place = locate(reference, kinds)
    if place.repo_id is None:
        return _find_here(str(reference), place.entry, kinds)
    from puregen_transforms.hub.remote import download

    pinned = place.entry if place.revision is None else None
    folder, files, commit = download(
        place.repo_id,
        kinds=kinds,
        revision=pinned.revision if pinned else place.revision,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        token=token,
        local_files_only=local_files_only,
    )
    return _hash(os.fspath(reference), folder, files, pinned, commit)


def locate(reference: str | os.PathLike[str], kinds: Sequence[Kind]) -> Place:
    """Tell what form of reference this is, without a request.

    A catalogue name comes first, then an existing folder (also one with an @ in its name), then the Hub.

    Raises:
        ValueError: none of the accepted forms, the name of a checkpoint of another kind, an impossible revision, or
            one of a checkpoint that is not on the Hub.
        FileNotFoundError: a path object that is not a folder.
    """
    path = Path(reference)
    if not isinstance(reference, str):
        if not path.is_dir():
            raise FileNotFoundError(f"Expected a checkpoint folder, but {path} is not one.{_hint(path)}")
        return Place()
    if reference not in CATALOGUE and reference != "" and path.is_dir():
        return Place()
    name, revision = split_revision(reference)
    entry = CATALOGUE.get(name)
    if entry is not None and entry.kind not in kinds:
        raise wrong_kind_error(repr(name), entry.kind, kinds)
    if revision is not None and (Path(name).is_dir() if entry is None else entry.packaged):
        raise ValueError(
            f"Expected no revision for {name!r}, which is not on the Hub, but got {revision!r}. "
            f"Leave out {'@' + revision!r}."
        )
    if entry is not None:
        return Place(entry=entry, repo_id=entry.repo_id, revision=revision)
    if path.exists() or not _REPO_ID.fullmatch(name) or name.startswith("."):
        raise _unknown_form(reference, kinds)
    if revision is None and path.parent.is_dir():
        raise ValueError(
            f"Expected a checkpoint, but folder {str(path.parent)!r} is here and has no folder {path.name!r}. "
            f'If you mean the Hub repository, write "{name}@main".'
        )
    return Place(repo_id=name, revision=revision)


def split_revision(reference: str) -> tuple[str, str | None]:
    """Split "owner/name@revision"; without an @ there is no revision.

    Raises:
        ValueError: what follows the @ is empty, or cannot be a branch, tag or commit.
    """
    name, at, revision = reference.partition("@")
    if not at:
        return name, None
    if not _REVISION.fullmatch(revision):
        raise ValueError(
            f"Expected a branch, tag or commit after the @ of {reference!r}, but got {revision!r}. "
            'Write "owner/name@revision", or "owner/name" for the newest.'
        )
    return name, revision


def hash_file(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _unknown_form(reference: str, kinds: Sequence[Kind]) -> ValueError:
    names = ", ".join(name for name, entry in CATALOGUE.items() if entry.kind in kinds)
    return ValueError(
        f"Expected a checkpoint, but got {reference!r}, which is none of: a catalogue name ({names}); an existing "
        f'folder with {" or ".join(DESCRIPTIONS[kind] for kind in kinds)}; a Hub repository "owner/name" or '
        f'"owner/name@revision".{_hint(Path(reference))}'
    )


def _hint(path: Path) -> str:
    if path.is_file():
        return f" Give the folder of a file, here {str(path.parent)!r}."
    if str(path).startswith("~"):
        return f" Write ~ out, here {str(path.expanduser())!r}."
    return ""


def _find_here(reference: str, entry: CatalogueEntry | None, kinds: Sequence[Kind]) -> FoundCheckpoint:
    """The files of a checkpoint that is a packaged one or a local folder."""
    folder = entry.folder if entry else Path(reference)
    if entry is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"Expected the packaged checkpoint {reference!r} in {folder}, but it is not there: this installation of "
            "puregen-transforms is incomplete. Install it again, or give another checkpoint."
        )
    return _hash(reference, folder, choose_files(kinds, f"folder {folder}", list_folder(folder)), entry)


def _hash(
    reference: str, folder: Path, files: CheckpointFiles, entry: CatalogueEntry | None, commit: str | None = None
) -> FoundCheckpoint:
    """Hash the weights, and hold that against the catalogue."""
    weights = folder / files.weights
    sha256 = hash_file(weights)
    if entry is not None and entry.sha256 not in (None, sha256):
        remedy = (
            "Install puregen-transforms again (a git clone may lack the real file: git lfs pull)."
            if entry.packaged
            else f"Delete {weights.resolve()} and load again."
        )
        raise ValueError(
            f"Expected sha256 {entry.sha256} for {weights} of {reference!r}, but got {sha256}: the file is damaged or "
            f"was changed. {remedy}"
        )
    return FoundCheckpoint(reference=reference, folder=folder, files=files, sha256=sha256, revision=commit)
