"""Push a checkpoint to the Hub, and pull one into a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from puregen_transforms._files import below, write_atomically
from puregen_transforms.hub.catalogue import KINDS
from puregen_transforms.hub.checkpoints import Checkpoint, find_checkpoint
from puregen_transforms.hub.layout import CARD_FILE, RECORD_FILE
from puregen_transforms.hub.references import Reference, locate, split_revision


def push_checkpoint(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload a PureGen checkpoint",
) -> str:
    """Upload a checkpoint folder to the Hub as one commit.

    The folder is loaded strictly first; a broken one sends no request. Only the files that make the
    checkpoint, `README.md` and `record.json` are uploaded.

    Args:
        folder: an EBM (`config.json` and `model.safetensors`), or a DDPM as diffusers lays it out.
        repo_id: "owner/name", or "owner/name@branch" for another branch than `main`; made if it does not exist.
        private: make the repository private. An existing public one is refused.
        token: default the saved login or HF_TOKEN.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        PermissionError: no login, or it may not write there; or `private` and the repository is public.
        ConnectionError: the Hub cannot be reached, or broke off.
        ValueError: the folder does not hold a sound checkpoint, or the Hub refused a name or the card.
    """
    folder = Path(folder)
    repo_id, branch = split_revision(repo_id)
    found = find_checkpoint(folder, kinds=KINDS)
    _load(found)
    from huggingface_hub import CommitOperationAdd, HfApi

    from puregen_transforms.hub.remote import actionable_errors

    api = HfApi(token=token)
    names = [*found.files.names, *(name for name in (CARD_FILE, RECORD_FILE) if (folder / name).is_file())]
    operations = [CommitOperationAdd(name, folder / name) for name in names]
    with actionable_errors(repo_id, branch):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise PermissionError(
                f"Expected Hub repository {repo_id!r} to be private, but it is public; nothing was uploaded. "
                "Make it private in its settings, or choose another name."
            )
        if branch is not None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=branch)
    return commit.commit_url


def pull_checkpoint(
    reference: Reference,
    folder: Path,
    *,
    token: str | None = None,
) -> Path:
    """Copy a checkpoint into a new folder, byte for byte, after loading it strictly.

    Args:
        reference: catalogue name, local folder, or Hub repository "owner/name" or "owner/name@revision". Without a
            revision, it is the catalogue's, or the newest of `main`.
        folder: where to; must not exist. It appears whole or not at all.
        token: default the saved login or HF_TOKEN.

    Returns:
        The new folder.

    Raises:
        FileExistsError: there is something under that name already.
        FileNotFoundError, PermissionError, ConnectionError, ValueError: as `resolve_ebm` and `load_ebm`,
            or those of the other kinds.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        raise FileExistsError(f"Expected a new folder, but {folder} exists. Choose another name or remove it.")
    place = locate(reference, KINDS)
    if place.repo_id is not None and place.revision is None and not (place.entry and place.entry.revision):
        reference = f"{os.fspath(reference)}@main"
    found = find_checkpoint(reference, kinds=KINDS, token=token)
    _load(found)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made by this process, with a name that nobody knows: in a shared folder, nothing can be in it already.
    own = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        whole = own / folder.name
        for name in found.files.names:
            write_atomically(below(whole, name), (found.folder / name).read_bytes())
        if os.path.lexists(folder):
            raise FileExistsError(f"Expected a new folder, but {folder} has come meanwhile. Choose another name.")
        whole.rename(folder)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return folder


def _load(found: Checkpoint) -> None:
    """Load a checkpoint of any kind, for its errors."""
    from puregen_transforms.hub.ddpm import load_unet, read_ddpm  # with torch, which a wrong name needs not
    from puregen_transforms.hub.denoiser import load_denoiser, read_denoiser
    from puregen_transforms.hub.ebm import load_ebm, read_ebm

    match found.files.kind:
        case "ebm":
            load_ebm(read_ebm(found))
        case "ddpm":
            load_unet(read_ddpm(found))
        case "denoiser":
            load_denoiser(read_denoiser(found))
