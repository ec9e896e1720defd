"""The noise predictor: from a reference to a diffusers `UNet2DModel` and the schedule it was trained with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from puregen_transforms.hub.catalogue import DEFAULT_DDPM
from puregen_transforms.hub.checkpoints import Checkpoint, HubOptions, find_checkpoint
from puregen_transforms.hub.layout import read_object, read_shapes
from puregen_transforms.hub.references import Reference
from puregen_transforms.hub.unet_config import check_unet_config
from puregen_transforms.hub.weights import fill, read_weights
from puregen_transforms.models.unet import DEFAULT_SCHEDULE, check_schedule

if TYPE_CHECKING:
    from diffusers import UNet2DModel

# A network trained with DDPM is often saved with another sampler. These read the same keys with the same defaults.
_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        "DDPM",
        "DDPMParallel",
        "DDIM",
        "DDIMParallel",
        "PNDM",
        "DEISMultistep",
        "DPMSolverMultistep",
        "DPMSolverSinglestep",
        "EulerDiscrete",
        "EulerAncestralDiscrete",
        "UniPCMultistep",
    )
)

# Attention layers had other names before diffusers 0.17, and still have them in published files.
_OLD_ATTENTION = re.compile(r"\.attentions\.(\d+)\.(query|key|value|proj_attn)\.(weight|bias)$")
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True, kw_only=True)
class DDPMCheckpoint(Checkpoint):
    """A DDPM checkpoint whose files are on this machine.

    Args:
        config: of the `UNet2DModel`, as in its configuration file.
        schedule: the values that decide the betas: the keys of `DEFAULT_SCHEDULE`.
    """

    config: Mapping[str, Any]
    schedule: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """One digest of the weights, the schedule, and the configuration without diffusers' private notes."""
        public = {key: value for key, value in self.config.items() if not key.startswith("_")}
        content = json.dumps([self.weights_sha256, public, dict(self.schedule)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def resolve_ddpm(reference: Reference | None = None, **options: Unpack[HubOptions]) -> DDPMCheckpoint:
    """Find a DDPM checkpoint, downloading it if need be, and check its configurations. diffusers is not imported.

    Both layouts of diffusers are accepted, a pipeline and a bare network; a bare network may have
    `scheduler_config.json` beside it or in `scheduler/`, and without one has `DEFAULT_SCHEDULE`.

    Args:
        reference: as for `find_checkpoint`; None for the default checkpoint.
        **options: see `HubOptions`.

    Raises:
        ValueError: as `find_checkpoint`; or a damaged file, or a network or schedule that is not one of an
            unconditional noise predictor of RGB images.
        OSError: as `find_checkpoint`.
    """
    return read_ddpm(find_checkpoint(DEFAULT_DDPM if reference is None else reference, kinds=("ddpm",), **options))


def read_ddpm(found: Checkpoint) -> DDPMCheckpoint:
    """Read the configurations of a checkpoint and check them; errors as of `resolve_ddpm`."""
    if found.files.index is not None:
        _check_index(found.folder / found.files.index)
    config = _read_config(found.config_path)
    check_unet_config(config, read_shapes(found.weights), found.config_path)
    schedule = dict(DEFAULT_SCHEDULE)
    if found.files.schedule is not None:
        schedule = _read_schedule(found.folder / found.files.schedule)
    return DDPMCheckpoint(**vars(found), config=config, schedule=schedule)


def load_unet(checkpoint: DDPMCheckpoint) -> UNet2DModel:
    """Build the network of a checkpoint, in float32 on the CPU and in evaluation mode.

    No random number is drawn. Keys of the configuration that diffusers does not know are ignored, with a
    line in its log.

    Raises:
        FileNotFoundError: the file has gone since it was resolved.
        ValueError: the file has changed or is damaged, the configuration is not one of a network, or
            keys, shapes or values of the weights do not fit; all misfits are listed.
    """
    from diffusers import UNet2DModel  # seconds to import

    tensors = read_weights(checkpoint)
    try:
        with torch.device("meta"):
            model = UNet2DModel.from_config(dict(checkpoint.config))
    except Exception as error:  # diffusers does not check its arguments, so anything may come up
        raise ValueError(
            f"Expected the configuration of a UNet2DModel in {checkpoint.config_path}, but "
            f"diffusers cannot build that network: {error}"
        ) from error
    renamed = {_current_name(name): tensor for name, tensor in tensors.items()}
    fill(model, renamed, "the UNet2DModel of its configuration", checkpoint.weights)
    return model.eval()


def alpha_bars(checkpoint: DDPMCheckpoint) -> Tensor:
    """Compute the share of signal left at each timestep, by diffusers' `DDPMScheduler`: (T,) float32."""
    from diffusers import DDPMScheduler  # seconds to import

    return DDPMScheduler(**checkpoint.schedule).alphas_cumprod


def _check_index(path: Path) -> None:
    """Refuse a pipeline with more than a network and a scheduler, such as one that works on latents."""
    parts = [name for name, value in read_object(path).items() if isinstance(value, list) and value[:1] != [None]]
    others = sorted(set(parts) - {"unet", "scheduler"})
    if others:
        raise ValueError(
            f"Expected a pipeline of unet and scheduler alone in {path}, but it has {', '.join(others)} too: its "
            "network does not predict the noise of plain images. Choose an unconditional DDPM in pixel space."
        )


def _read_config(path: Path) -> dict[str, Any]:
    config = read_object(path)
    name = config.get("_class_name", "UNet2DModel")
    if name != "UNet2DModel":
        raise ValueError(
            f"Expected an unconditional UNet2DModel in {path}, but it describes a {name}. Choose a checkpoint that "
            "was trained as a DDPM on images."
        )
    channels = config.get("in_channels", 3), config.get("out_channels", 3)
    if channels != (3, 3):
        remedy = (
            "The outputs beyond the first 3 are a learned variance; choose a checkpoint trained without one."
            if channels == (3, 6)
            else "Choose a checkpoint for RGB images."
        )
        raise ValueError(
            f"Expected 3 input and 3 output channels in {path}, but got {channels[0]} and {channels[1]}. {remedy}"
        )
    conditions = [key for key in ("class_embed_type", "num_class_embeds") if config.get(key) is not None]
    if conditions:
        values = ", ".join(f"{key} {config[key]}" for key in conditions)
        raise ValueError(
            f"Expected an unconditional network in {path}, but it wants class labels ({values}), which purification "
            "must not know. Choose an unconditional checkpoint."
        )
    return config


def _read_schedule(path: Path) -> dict[str, Any]:
    values = read_object(path)
    name = values.get("_class_name", "DDPMScheduler")
    if not isinstance(name, str) or name not in _SCHEDULERS:
        raise ValueError(
            f"Expected the noise schedule of a DDPM in {path}, but it is of a {name}. Choose a checkpoint trained "
            f"with one of: {', '.join(sorted(_SCHEDULERS))}."
        )
    # Before diffusers 0.9 the same was said by `predict_epsilon`.
    prediction = values.get("prediction_type", "epsilon" if values.get("predict_epsilon", True) else "sample")
    if prediction != "epsilon":
        raise ValueError(
            f"Expected a network that predicts the noise (prediction_type epsilon) in {path}, but it predicts "
            f"{prediction}. Choose another checkpoint."
        )
    schedule = {key: values.get(key, default) for key, default in DEFAULT_SCHEDULE.items()}
    check_schedule(schedule, str(path))
    return schedule


def _current_name(name: str) -> str:
    return _OLD_ATTENTION.sub(lambda match: f".attentions.{match[1]}.{_ATTENTION[match[2]]}.{match[3]}", name)
