"""The energy network: from a reference to an `EBM`, strict, and safetensors only."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from puregen_transforms.hub.catalogue import DEFAULT_EBM
from puregen_transforms.hub.layout import read_config, read_shapes
from puregen_transforms.hub.references import FoundCheckpoint, find
from puregen_transforms.hub.weights import check_unchanged, fill, parse_weights
from puregen_transforms.models.ebm import EBM, EBMConfig


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An EBM checkpoint whose files are on this machine.

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
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Find an EBM checkpoint, downloading it if need be.

    A string is tried as a catalogue name, then as a local folder, then as a Hub repository; a path
    object is always a folder. From the Hub, all files come from one commit. Without a revision a
    cached copy is used with no request; to follow a branch, name it ("owner/name@main"), which costs
    one look-up (if the Hub is down, the cached copy is used, with a warning); a full commit hash
    costs none once cached.

    Args:
        reference: catalogue name, local folder, or Hub repository "owner/name" or "owner/name@revision" (a branch,
            tag or commit); None for the default checkpoint.
        cache_dir: the Hub cache; default as huggingface_hub has it.
        token: for private repositories; default the saved login or HF_TOKEN, False sends none.
        local_files_only: use only what is cached. HF_HUB_OFFLINE does the same.

    Raises:
        ValueError: no such form of reference, a checkpoint of another kind, pickle files only, a damaged
            file, a hash other than the pinned one, a configuration that contradicts the weights, or a
            revision where there is none.
        FileNotFoundError: no such folder, repository, revision or file; or offline and not cached.
        PermissionError: gated, or the token is not good for it.
        ConnectionError: the Hub cannot be reached, or broke off.
    """
    found = find(
        DEFAULT_EBM if reference is None else reference,
        kinds=("ebm",),
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    return read_ebm(found)


def read_ebm(found: FoundCheckpoint) -> Checkpoint:
    """Read the configuration of a checkpoint and check it; errors as of `resolve_checkpoint`."""
    config = read_config(found.config, read_shapes(found.weights))
    return Checkpoint(
        reference=found.reference, weights=found.weights, config=config, sha256=found.sha256, revision=found.revision
    )


def load_ebm(checkpoint: Checkpoint) -> EBM:
    """Build the network of a checkpoint, in float32 on the CPU and in evaluation mode.

    No random number is drawn.

    Raises:
        FileNotFoundError: the file has gone since it was resolved.
        ValueError: the file has changed or is damaged, or its keys, shapes or values do not fit; all
            misfits are listed.
    """
    content = checkpoint.weights.read_bytes()
    check_unchanged(checkpoint.weights, hashlib.sha256(content).hexdigest(), checkpoint.sha256)
    with torch.device("meta"):
        model = EBM(checkpoint.config)
    fill(
        model, parse_weights(checkpoint.weights, content), f"a PureGen EBM with {checkpoint.config}", checkpoint.weights
    )
    return model.eval()
