"""The energy network: from a reference to an `EBM`, strict, and safetensors only."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch

from puregen_transforms._text import shown
from puregen_transforms.hub.catalogue import DEFAULT_EBM
from puregen_transforms.hub.checkpoints import Checkpoint, HubOptions, find_checkpoint
from puregen_transforms.hub.layout import Shape, read_object, read_shapes, wrong_kind_error
from puregen_transforms.hub.references import Reference
from puregen_transforms.hub.weights import fill, read_weights
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM


@dataclass(frozen=True, kw_only=True)
class EBMCheckpoint(Checkpoint):
    """An EBM checkpoint whose files are on this machine.

    Args:
        config: shape of the network.
    """

    config: EBMConfig

    @property
    def sha256(self) -> str:
        """One digest of the weights and of what they do not tell of the configuration: the image size.

        At the default size it is that of the weights alone.
        """
        if self.config.image_size == EBMConfig.image_size:
            return self.weights_sha256
        content = json.dumps([self.weights_sha256, {"image_size": self.config.image_size}])
        return hashlib.sha256(content.encode()).hexdigest()


def resolve_ebm(reference: Reference | None = None, **options: Unpack[HubOptions]) -> EBMCheckpoint:
    """Find an EBM checkpoint, downloading it if need be, and check its configuration.

    Args:
        reference: as for `find_checkpoint`; None for the default checkpoint.
        **options: see `HubOptions`.

    Raises:
        ValueError: as `find_checkpoint`; or a damaged file, or a configuration that contradicts the weights.
        OSError: as `find_checkpoint`.
    """
    return read_ebm(find_checkpoint(DEFAULT_EBM if reference is None else reference, kinds=("ebm",), **options))


def read_ebm(found: Checkpoint) -> EBMCheckpoint:
    """Read the configuration of a checkpoint and check it; errors as of `resolve_ebm`."""
    return EBMCheckpoint(**vars(found), config=_read_config(found.config_path, read_shapes(found.weights)))


def load_ebm(checkpoint: EBMCheckpoint) -> EBM:
    """Build the network of a checkpoint, in float32 on the CPU and in evaluation mode.

    No random number is drawn.

    Raises:
        FileNotFoundError: the file has gone since it was resolved.
        ValueError: the file has changed or is damaged, or its keys, shapes or values do not fit; all
            misfits are listed.
    """
    tensors = read_weights(checkpoint)
    with torch.device("meta"):
        model = EBM(checkpoint.config)
    fill(model, tensors, f"a PureGen EBM with {checkpoint.config}", checkpoint.weights)
    return model.eval()


def _read_config(path: Path, shapes: Mapping[str, Shape]) -> EBMConfig:
    """Read `config.json` and hold it against the weights.

    Keys that `EBMConfig` does not have give one warning; a missing `nf` or `patch_size` is taken
    from the weights.

    Args:
        path: of `config.json`.
        shapes: of the tensors in the weights beside it.

    Raises:
        ValueError: not a JSON object, an impossible value, or one that contradicts the weights.
    """
    values = read_object(path)
    if values.get("_class_name") == "UNet2DModel":
        raise wrong_kind_error(f"{path}, which describes a UNet2DModel,", "ddpm", ["ebm"])
    unknown = sorted(set(values) - set(EBMConfig.__dataclass_fields__))
    if unknown:
        warnings.warn(f"Ignored unknown keys in {path}: {shown(', '.join(unknown))}.", UserWarning, stacklevel=4)
    known = {name: value for name, value in values.items() if name not in unknown}
    measured = _measure(shapes)
    wrong = [
        f"{name} is {known[name]!r}, but the weights have {value}"
        for name, value in measured.items()
        if known.get(name, value) != value
    ]
    if wrong:
        raise ValueError(
            f"Expected {path} to describe the weights beside it, but {'; '.join(wrong)}. "
            "Correct the configuration, or use the weights that belong to it."
        )
    unmeasured = [name for name in ("nf", "patch_size") if name not in known and name not in measured]
    if unmeasured:
        raise ValueError(
            f"Expected {' and '.join(unmeasured)} in {path} or a weight `block1.c1.weight` that tells, but got none. "
            "Check that this is a PureGen EBM checkpoint."
        )
    try:
        return EBMConfig(**{**measured, **known})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _measure(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Tell the network's shape from its first convolution; nothing if it is not one of ours."""
    shape = shapes.get("block1.c1.weight", ())
    if len(shape) != 4 or shape[0] == 0:
        return {}
    patch_size = math.isqrt(shape[1] // 3)
    if patch_size == 0 or shape[1] != 3 * patch_size**2:
        return {}
    return {"nf": shape[0], "patch_size": patch_size}
