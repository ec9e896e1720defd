"""Save a checkpoint in the official layout, push it to the Hub, and pull one into a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import nn

from puregen_transforms._files import write_atomically
from puregen_transforms.hub.catalogue import Kind
from puregen_transforms.hub.ddpm import DEFAULT_SCHEDULE, check_schedule, load_unet, read_ddpm
from puregen_transforms.hub.layout import CONFIG_FILE, INDEX_FILE, SCHEDULE_FILE, UNET_WEIGHTS_FILE, WEIGHTS_FILE
from puregen_transforms.hub.load import load_ebm, read_ebm
from puregen_transforms.hub.references import FoundCheckpoint, find, locate, split_revision
from puregen_transforms.models.ebm import EBM

if TYPE_CHECKING:
    from diffusers import UNet2DModel

KINDS: tuple[Kind, ...] = ("ebm", "ddpm")
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
    write_atomically(folder / WEIGHTS_FILE, _pack(model, torch.float32))
    write_atomically(folder / CONFIG_FILE, _to_json(model.config.to_dict()))
    if card is not None:
        write_atomically(folder / CARD_FILE, card.encode())


def save_ddpm(
    unet: UNet2DModel,
    folder: Path,
    *,
    schedule: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a noise predictor as a diffusers pipeline, each file whole or not at all.

    `diffusers.DDPMPipeline.from_pretrained` reads the result too.

    Args:
        unet: the network.
        folder: made if it is not there; files of these names are replaced.
        schedule: what decides the betas, by the keys of `DEFAULT_SCHEDULE`; what is left out is as there.
        dtype: of the weights in the file.

    Raises:
        ValueError: a weight is not finite or too large for `dtype`, or the schedule is not one.
    """
    from diffusers import DDPMScheduler  # seconds to import

    unknown = sorted(set(schedule or {}) - set(DEFAULT_SCHEDULE))
    if unknown:
        raise ValueError(f"Expected schedule keys among {', '.join(DEFAULT_SCHEDULE)}, but got {', '.join(unknown)}.")
    schedule = {**DEFAULT_SCHEDULE, **(schedule or {})}
    check_schedule(schedule, "`schedule`")
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    # diffusers notes the path a network was loaded from, which does not belong in a published file.
    config = {key: value for key, value in json.loads(unet.to_json_string()).items() if key != "_name_or_path"}
    write_atomically(folder / "unet" / UNET_WEIGHTS_FILE, _pack(unet, dtype))
    write_atomically(folder / "unet" / CONFIG_FILE, _to_json(config))
    scheduler = DDPMScheduler(**schedule)
    write_atomically(folder / "scheduler" / SCHEDULE_FILE, _to_json(json.loads(scheduler.to_json_string())))
    write_atomically(folder / INDEX_FILE, _to_json(index))


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
    found = find(folder, kinds=KINDS)
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
    reference: str | os.PathLike[str],
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
        FileNotFoundError, PermissionError, ConnectionError, ValueError: as `resolve_checkpoint` and `load_ebm`,
            or `resolve_ddpm` and `load_unet`.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        raise FileExistsError(f"Expected a new folder, but {folder} exists. Choose another name or remove it.")
    place = locate(reference, KINDS)
    if place.repo_id is not None and place.revision is None and not (place.entry and place.entry.revision):
        reference = f"{os.fspath(reference)}@main"
    found = find(reference, kinds=KINDS, token=token)
    _load(found)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name in found.files.names:
            write_atomically(temporary / name, (found.folder / name).read_bytes())
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _load(found: FoundCheckpoint) -> None:
    """Load a checkpoint of either kind, for its errors."""
    if found.files.kind == "ebm":
        load_ebm(read_ebm(found))
    else:
        load_unet(read_ddpm(found))


def _pack(model: nn.Module, dtype: torch.dtype) -> bytes:
    """The weights of a network as a safetensors file."""
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(
            f"Expected finite weights in {dtype}, but {', '.join(broken)} are not. Save an earlier state"
            f"{'.' if dtype == torch.float32 else ', or in float32 if they are only too large.'}"
        )
    return save(weights, metadata={"format": "pt"})


def _to_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
