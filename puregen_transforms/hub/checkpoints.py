"""From a reference to the files of a checkpoint on this machine, whatever its kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from puregen_transforms._files import hash_file
from puregen_transforms.hub.catalogue import CatalogueEntry, Kind
from puregen_transforms.hub.layout import CheckpointFiles, choose_files, list_folder
from puregen_transforms.hub.references import Reference, locate


class HubOptions(TypedDict, total=False):
    """Options of everything that may download from the Hub.

    Args:
        cache_dir: the Hub cache; default as huggingface_hub has it.
        token: for private repositories; default the saved login or HF_TOKEN, False sends none.
        local_files_only: use only what is cached. HF_HUB_OFFLINE does the same.
    """

    cache_dir: str | os.PathLike[str] | None
    token: str | bool | None
    local_files_only: bool


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files are on this machine.

    Args:
        reference: the catalogue name, folder or Hub repository it was found by.
        folder: where the files are.
        files: their names.
        weights_sha256: of the weights file.
        revision: commit hash, if it came from the Hub.
    """

    reference: str
    folder: Path
    files: CheckpointFiles
    weights_sha256: str
    revision: str | None = None

    @property
    def config_path(self) -> Path:
        """Path of the network's configuration."""
        return self.folder / self.files.config

    @property
    def weights(self) -> Path:
        """Path of the weights."""
        return self.folder / self.files.weights

    @property
    def sha256(self) -> str:
        """One digest of everything that decides what the network computes."""
        return self.weights_sha256


def find_checkpoint(reference: Reference, *, kinds: Sequence[Kind], **options: Unpack[HubOptions]) -> Checkpoint:
    """Find the files of a checkpoint, downloading them if need be; nothing inside them is looked at.

    A string is tried as a catalogue name, then as a local folder, then as a Hub repository; a path
    object is always a folder. From the Hub, all files come from one commit. Without a revision a
    cached copy is used with no request; to follow a branch, name it ("owner/name@main"), which costs
    one look-up (if the Hub is down, the cached copy is used, with a warning); a full commit hash
    costs none once cached.

    Args:
        reference: catalogue name, local folder, or Hub repository "owner/name" or "owner/name@revision" (a branch,
            tag or commit).
        kinds: that are accepted; where there are several, the first of them is taken.
        **options: see `HubOptions`.

    Raises:
        ValueError: no such form of reference, a checkpoint of another kind, pickle files only, a
            hash other than the pinned one, or a revision where there is none.
        FileNotFoundError: no such folder, repository, revision or file; or offline and not cached.
        PermissionError: gated, or the token is not good for it.
        ConnectionError: the Hub cannot be reached, or broke off.
    """
    place = locate(reference, kinds)
    if place.repo_id is None:
        return _find_here(str(reference), place.entry, kinds)
    from puregen_transforms.hub.remote import download

    pinned = place.entry if place.revision is None else None
    cache_dir = options.get("cache_dir")
    folder, files, commit = download(
        place.repo_id,
        kinds=kinds,
        revision=pinned.revision if pinned else place.revision,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        token=options.get("token"),
        local_files_only=options.get("local_files_only", False),
    )
    return _hash(os.fspath(reference), folder, files, pinned, commit)


def _find_here(reference: str, entry: CatalogueEntry | None, kinds: Sequence[Kind]) -> Checkpoint:
    """Find the files of a packaged checkpoint or a local folder."""
    folder = entry.folder if entry else Path(reference)
    if entry is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"Expected the packaged checkpoint {reference!r} in {folder}, but it is not there: this installation of "
            "puregen-transforms is incomplete. Install it again, or give another checkpoint."
        )
    return _hash(reference, folder, choose_files(kinds, f"folder {folder}", list_folder(folder)), entry)


def _hash(
    reference: str, folder: Path, files: CheckpointFiles, entry: CatalogueEntry | None, commit: str | None = None
) -> Checkpoint:
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
    return Checkpoint(reference=reference, folder=folder, files=files, weights_sha256=sha256, revision=commit)
