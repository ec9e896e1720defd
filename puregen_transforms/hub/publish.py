"""Save a checkpoint in the official layout, push it to the Hub, and pull one into a folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save

from puregen_transforms._files import write_atomically
from puregen_transforms.hub.layout import CONFIG_FILE, WEIGHTS_FILE
from puregen_transforms.hub.load import load_ebm, locate, resolve_checkpoint
from puregen_transforms.models.ebm import EBM

CARD_FILE = "README.md"
RECORD_FILE = "record.json"


def save_checkpoint(model: EBM, folder: Path, *, card: str | None = None) -> None:
    """Write `config.json` and `model.safetensors` (float32), each of them whole or not at all.

    Args:
        model: the network.
        folder: made if it is not there; files of these names are replaced.
        card: text of `README.md`, the model card; None leaves it alone.

    Raises:
        ValueError: a weight is not finite.
    """
    weights = {
        name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in model.state_dict().items()
    }
    broken = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(f"Expected finite weights, but {', '.join(broken)} are not. Save an earlier state.")
    write_atomically(folder / WEIGHTS_FILE, save(weights, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG_FILE, (json.dumps(model.config.to_dict(), indent=2) + "\n").encode())
    if card is not None:
        write_atomically(folder / CARD_FILE, card.encode())


def push_checkpoint(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload a PureGen checkpoint",
) -> str:
    """Upload a checkpoint folder to the Hub as one commit.

    The folder is loaded strictly first; a broken one sends no request. Only `config.json`,
    `model.safetensors`, `README.md` and `record.json` are uploaded.

    Args:
        folder: with at least `config.json` and `model.safetensors`.
        repo_id: "owner/name"; made if it does not exist.
        private: make the repository private. An existing public one is refused.
        token: default the saved login or HF_TOKEN.
        revision: branch to commit to, made if it does not exist; default `main`.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        PermissionError: no login, or it may not write there; or `private` and the repository is public.
        ConnectionError: the Hub cannot be reached, or broke off.
        ValueError: the folder does not hold a sound checkpoint, or the Hub refused a name or the card.
    """
    load_ebm(resolve_checkpoint(Path(folder)))
    from huggingface_hub import CommitOperationAdd, HfApi

    from puregen_transforms.hub.remote import actionable_errors

    api = HfApi(token=token)
    paths = [Path(folder) / name for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, RECORD_FILE)]
    operations = [CommitOperationAdd(path.name, path) for path in paths if path.is_file()]
    with actionable_errors(repo_id, revision):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise PermissionError(
                f"Expected Hub repository {repo_id!r} to be private, but it is public; nothing was uploaded. "
                "Make it private in its settings, or choose another name."
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    return commit.commit_url


def pull_checkpoint(
    reference: str | os.PathLike[str],
    folder: Path,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """Copy a checkpoint into a new folder, byte for byte, after loading it strictly.

    Args:
        reference: catalogue name, local folder or Hub repository id.
        folder: where to; must not exist. It appears whole or not at all.
        revision: branch, tag or commit of a Hub repository; default the catalogue's, or the newest of
            `main`.
        token: default the saved login or HF_TOKEN.

    Returns:
        The new folder.

    Raises:
        FileExistsError: there is something under that name already.
        FileNotFoundError, PermissionError, ConnectionError, ValueError: as `resolve_checkpoint` and `load_ebm`.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        raise FileExistsError(f"Expected a new folder, but {folder} exists. Choose another name or remove it.")
    entry, repo_id = locate(reference)
    if repo_id is not None and revision is None and not (entry and entry.revision):
        revision = "main"
    checkpoint = resolve_checkpoint(reference, revision=revision, token=token)
    load_ebm(checkpoint)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            write_atomically(temporary / name, (checkpoint.weights.parent / name).read_bytes())
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder
