"""From a reference (a name, a folder, a Hub repository) to a network: strict, and safetensors only."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_EBM, CatalogueEntry
from puregen_transforms.hub.layout import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    damaged_file_error,
    missing_file_error,
    read_config,
    read_shapes,
)
from puregen_transforms.models.ebm import EBM, EBMConfig

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files are on this machine.

    Args:
        reference: the catalogue name, folder or Hub repository it was found by.
        weights: path of `model.safetensors`; `config.json` lies beside it.
        config: shape of the network.
        sha256: of the weights file.
        revision: commit hash, if it came from the Hub.
    """

    reference: str
    weights: Path
    config: EBMConfig
    sha256: str
    revision: str | None = None


def resolve_checkpoint(
    reference: str | os.PathLike[str] | None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Find a checkpoint, downloading it if need be.

    A string is tried as a catalogue name, then as a local folder, then as a Hub repository id; a path
    object is always a folder. From the Hub, both files come from one commit. Without `revision` a
    cached copy is used with no request; to follow a branch, name it (`revision="main"`), which costs
    one look-up (if the Hub is down, the cached copy is used, with a warning); a full commit hash
    costs none once cached.

    Args:
        reference: catalogue name, local folder or Hub repository id; None for the default checkpoint.
        revision: branch, tag or commit of a Hub repository.
        cache_dir: the Hub cache; default as huggingface_hub has it.
        token: for private repositories; default the saved login or HF_TOKEN, False sends none.
        local_files_only: use only what is cached. HF_HUB_OFFLINE does the same.

    Raises:
        ValueError: no such form of reference, pickle files only, a damaged file, a hash other than the
            pinned one, a configuration that contradicts the weights, or a revision where there is none.
        FileNotFoundError: no such folder, repository, revision or file; or offline and not cached.
        PermissionError: gated, or the token is not good for it.
        ConnectionError: the Hub cannot be reached, or broke off.
    """
    if reference is None:
        reference = DEFAULT_EBM
    entry, repo_id = locate(reference)
    if repo_id is None:
        if revision is not None:
            raise ValueError(
                f"Expected no revision for {os.fspath(reference)!r}, which is not on the Hub, but got {revision!r}. "
                "Leave `revision` out."
            )
        return _inspect(str(reference), entry.folder if entry else Path(reference), entry)
    from puregen_transforms.hub.remote import download

    pinned = entry if revision is None else None
    folder, commit = download(
        repo_id,
        revision=pinned.revision if pinned else revision,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        token=token,
        local_files_only=local_files_only,
    )
    return _inspect(os.fspath(reference), folder, pinned, commit)


def locate(reference: str | os.PathLike[str]) -> tuple[CatalogueEntry | None, str | None]:
    """Tell what kind of reference this is, without a request.

    Returns:
        The catalogue entry, if it is a name there; and the Hub repository, unless it is on this machine.

    Raises:
        ValueError: none of the accepted forms.
        FileNotFoundError: a path object that is not a folder.
    """
    entry = CATALOGUE.get(reference) if isinstance(reference, str) else None
    if entry is not None:
        return entry, entry.repo_id
    return None, None if _is_folder(reference) else os.fspath(reference)


def load_ebm(checkpoint: Checkpoint) -> EBM:
    """Build the network of a checkpoint, in float32 on the CPU and in evaluation mode.

    No random number is drawn.

    Raises:
        FileNotFoundError: the file has gone since it was resolved.
        ValueError: the file has changed or is damaged, or its keys, shapes or values do not fit; all
            misfits are listed.
    """
    content = checkpoint.weights.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != checkpoint.sha256:
        raise ValueError(
            f"Expected sha256 {checkpoint.sha256} for {checkpoint.weights}, but got {sha256}: the file has changed "
            "since it was resolved. Resolve the checkpoint again."
        )
    try:
        tensors = parse_safetensors(content)
    except SafetensorError as error:
        raise damaged_file_error(checkpoint.weights, error) from error
    with torch.device("meta"):
        model = EBM(checkpoint.config)
    problems = _misfits(tensors, model.state_dict())
    if problems:
        raise ValueError(
            f"Expected the weights of a PureGen EBM with {checkpoint.config} in {checkpoint.weights}, but got\n  "
            + "\n  ".join(problems)
            + "\nCheck that the file is a PureGen EBM checkpoint and belongs to the config.json beside it."
        )
    model.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True)
    return model.eval()


def hash_file(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _is_folder(reference: str | os.PathLike[str]) -> bool:
    """Whether this is a local folder; if not, it has the form of a Hub repository id."""
    path = Path(reference)
    if reference != "" and path.is_dir():
        return True
    if not isinstance(reference, str):
        raise FileNotFoundError(f"Expected a checkpoint folder, but {path} is not one.{_hint(path)}")
    if path.exists() or not _REPO_ID.fullmatch(reference) or reference.startswith("."):
        raise ValueError(
            f"Expected a checkpoint, but got {reference!r}, which is none of: a catalogue name "
            f"({', '.join(CATALOGUE)}); an existing folder with {CONFIG_FILE} and {WEIGHTS_FILE}; a Hub repository id "
            f'"owner/name".{_hint(path)}'
        )
    return False


def _hint(path: Path) -> str:
    if path.is_file():
        return f" Give the folder of a file, here {str(path.parent)!r}."
    if str(path).startswith("~"):
        return f" Write ~ out, here {str(path.expanduser())!r}."
    return ""


def _inspect(reference: str, folder: Path, entry: CatalogueEntry | None, commit: str | None = None) -> Checkpoint:
    """Check the files in a folder as far as that goes without building the network."""
    if entry is not None and entry.packaged and not folder.is_dir():
        raise FileNotFoundError(
            f"Expected the packaged checkpoint {reference!r} in {folder}, but it is not there: this installation of "
            "puregen-transforms is incomplete. Install it again, or give another `checkpoint`."
        )
    names = [path.name for path in folder.iterdir()]
    if not {CONFIG_FILE, WEIGHTS_FILE}.issubset(names):
        raise missing_file_error(f"folder {folder}", names)
    weights = folder / WEIGHTS_FILE
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
    config = read_config(folder / CONFIG_FILE, read_shapes(weights))
    return Checkpoint(reference=reference, weights=weights, config=config, sha256=sha256, revision=commit)


def _misfits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Everything that keeps tensors from being a network's weights, one line each."""
    shared = [name for name in expected if name in found]
    return [
        *(f"missing: {name} {tuple(expected[name].shape)}" for name in expected if name not in found),
        *(f"unexpected: {name} {tuple(found[name].shape)}" for name in sorted(found) if name not in expected),
        *(
            f"wrong shape: {name} {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
            for name in shared
            if found[name].shape != expected[name].shape
        ),
        *(f"not floating-point: {name} {found[name].dtype}" for name in shared if not found[name].is_floating_point()),
        *(f"not finite: {name}" for name in shared if not bool(found[name].float().isfinite().all())),
    ]
