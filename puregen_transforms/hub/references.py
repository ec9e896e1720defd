"""From a reference (a name, a folder, a Hub repository) to the files of a checkpoint on this machine."""

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
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> FoundCheckpoint:
    """Find the files of a checkpoint of one of several kinds, downloading them if need be.

    Arguments and errors are those of `resolve_checkpoint`, but nothing inside the files is looked at.

    Args:
        reference: catalogue name, local folder or Hub repository id.
        kinds: that are accepted; where there are several, the first of them is taken.
        revision: branch, tag or commit of a Hub repository.
        cache_dir: the Hub cache.
        token: for private repositories.
        local_files_only: use only what is cached.
    """
    entry, repo_id = locate(reference, kinds)
    if repo_id is None:
        if revision is not None:
            raise ValueError(
                f"Expected no revision for {os.fspath(reference)!r}, which is not on the Hub, but got {revision!r}. "
                "Leave `revision` out."
            )
        return _find_here(str(reference), entry, kinds)
    from puregen_transforms.hub.remote import download

    pinned = entry if revision is None else None
    folder, files, commit = download(
        repo_id,
        kinds=kinds,
        revision=pinned.revision if pinned else revision,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        token=token,
        local_files_only=local_files_only,
    )
    return _hash(os.fspath(reference), folder, files, pinned, commit)


def locate(reference: str | os.PathLike[str], kinds: Sequence[Kind]) -> tuple[CatalogueEntry | None, str | None]:
    """Tell what form of reference this is, without a request.

    Returns:
        The catalogue entry, if it is a name there; and the Hub repository, unless it is on this machine.

    Raises:
        ValueError: none of the accepted forms, or the name of a checkpoint of another kind.
        FileNotFoundError: a path object that is not a folder.
    """
    entry = CATALOGUE.get(reference) if isinstance(reference, str) else None
    if entry is not None:
        if entry.kind not in kinds:
            raise wrong_kind_error(repr(reference), entry.kind, kinds)
        return entry, entry.repo_id
    return None, None if _is_folder(reference, kinds) else os.fspath(reference)


def hash_file(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _is_folder(reference: str | os.PathLike[str], kinds: Sequence[Kind]) -> bool:
    """Whether this is a local folder; if not, it has the form of a Hub repository id."""
    path = Path(reference)
    if reference != "" and path.is_dir():
        return True
    if not isinstance(reference, str):
        raise FileNotFoundError(f"Expected a checkpoint folder, but {path} is not one.{_hint(path)}")
    if path.exists() or not _REPO_ID.fullmatch(reference) or reference.startswith("."):
        raise ValueError(
            f"Expected a checkpoint, but got {reference!r}, which is none of: a catalogue name "
            f"({', '.join(name for name, entry in CATALOGUE.items() if entry.kind in kinds)}); an existing folder "
            f'with {" or ".join(DESCRIPTIONS[kind] for kind in kinds)}; a Hub repository id "owner/name".{_hint(path)}'
        )
    return False


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
