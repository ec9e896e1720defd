"""The denoiser: from a reference to a `Denoiser`, strict, and safetensors only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch

from puregen_transforms.hub.catalogue import DEFAULT_DENOISER
from puregen_transforms.hub.checkpoints import Checkpoint, HubOptions, find_checkpoint
from puregen_transforms.hub.layout import Shape, read_object, read_shapes
from puregen_transforms.hub.references import Reference
from puregen_transforms.hub.weights import fill, read_weights
from puregen_transforms.models.config import DenoiserConfig
from puregen_transforms.models.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class DenoiserCheckpoint(Checkpoint):
    """A denoiser checkpoint whose files are on this machine.

    Args:
        config: shape of the network, which the weights decide.
    """

    config: DenoiserConfig


def resolve_denoiser(reference: Reference | None = None, **options: Unpack[HubOptions]) -> DenoiserCheckpoint:
    """Find a denoiser checkpoint, downloading it if need be, and check its configuration.

    Args:
        reference: as for `find_checkpoint`; None for the default checkpoint.
        **options: see `HubOptions`.

    Raises:
        ValueError: as `find_checkpoint`; or a damaged file, or a configuration that contradicts the weights.
        OSError: as `find_checkpoint`.
    """
    wanted = DEFAULT_DENOISER if reference is None else reference
    return read_denoiser(find_checkpoint(wanted, kinds=("denoiser",), **options))


def read_denoiser(found: Checkpoint) -> DenoiserCheckpoint:
    """Read the configuration of a checkpoint and check it; errors as of `resolve_denoiser`."""
    return DenoiserCheckpoint(**vars(found), config=_read_config(found.config_path, read_shapes(found.weights)))


def load_denoiser(checkpoint: DenoiserCheckpoint) -> Denoiser:
    """Build the network of a checkpoint, in float32 on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError: the file has gone since it was resolved.
        ValueError: the file has changed or is damaged, or its keys, shapes or values do not fit; all misfits are
            listed.
    """
    tensors = read_weights(checkpoint)
    with torch.device("meta"):
        model = Denoiser(checkpoint.config)
    fill(model, tensors, f"a denoiser with {checkpoint.config}", checkpoint.weights)
    return model.eval()


def _read_config(path: Path, shapes: Mapping[str, Shape]) -> DenoiserConfig:
    """Read `config.json`, and hold it against the weights before a network of that size is built.

    Raises:
        ValueError: not a JSON object, an impossible value, or more layers or channels than there are weights.
    """
    values = read_object(path)
    wanted = set(DenoiserConfig.__dataclass_fields__)
    if set(values) != wanted or not isinstance(values["widths"], list):
        raise ValueError(
            f"Expected {' and '.join(sorted(wanted))} of a denoiser in {path}, but got "
            f"{', '.join(map(repr, sorted(values))) or 'nothing'}. Check that this is a denoiser checkpoint."
        )
    try:
        config = DenoiserConfig(widths=tuple(values["widths"]), blocks=values["blocks"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    most = max((side for shape in shapes.values() for side in shape), default=0)
    if len(config.widths) * config.blocks > len(shapes) or max(config.widths) > most:
        raise ValueError(
            f"Expected a denoiser of the {len(shapes)} weights beside it in {path}, but it has {len(config.widths)} "
            f"levels of {config.blocks} blocks, with up to {max(config.widths)} channels. Use the configuration that "
            "belongs to the weights."
        )
    return config
