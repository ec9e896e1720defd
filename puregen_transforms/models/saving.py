"""Write networks in the official layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import nn

from puregen_transforms._files import write_atomically
from puregen_transforms.models.denoiser import Denoiser
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.file_names import (
    CONFIG_FILE,
    DENOISER_WEIGHTS_FILE,
    EBM_WEIGHTS_FILE,
    INDEX_FILE,
    SCHEDULE_FILE,
    SCHEDULER_FOLDER,
    UNET_FOLDER,
    UNET_WEIGHTS_FILE,
)
from puregen_transforms.models.unet import DEFAULT_SCHEDULE, check_schedule

if TYPE_CHECKING:
    from diffusers import UNet2DModel

_PIPELINE = {
    "_class_name": "DDPMPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def save_ebm(model: EBM, folder: Path) -> None:
    """Write an energy network and its configuration (float32), each file whole or not at all.

    Args:
        model: the network.
        folder: made if it is not there; files of these names are replaced.

    Raises:
        ValueError: a weight is not finite.
    """
    write_atomically(folder / EBM_WEIGHTS_FILE, pack_weights(model, torch.float32))
    write_atomically(folder / CONFIG_FILE, to_json(model.config.to_dict()))


def save_denoiser(model: Denoiser, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a denoiser and its configuration, each file whole or not at all.

    Args:
        model: the network.
        folder: made if it is not there; files of these names are replaced.
        dtype: of the weights in the file.

    Raises:
        ValueError: a weight is not finite or too large for `dtype`.
    """
    write_atomically(folder / DENOISER_WEIGHTS_FILE, pack_weights(model, dtype))
    write_atomically(folder / CONFIG_FILE, to_json(model.config.to_dict()))


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
        schedule: the values that decide the betas, by the keys of `DEFAULT_SCHEDULE`; those left out are as there.
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
    # diffusers notes the path a network was loaded from, which does not belong in a published file.
    config = {key: value for key, value in json.loads(unet.to_json_string()).items() if key != "_name_or_path"}
    write_atomically(folder / UNET_FOLDER / UNET_WEIGHTS_FILE, pack_weights(unet, dtype))
    write_atomically(folder / UNET_FOLDER / CONFIG_FILE, to_json(config))
    scheduler = DDPMScheduler(**schedule)
    write_atomically(folder / SCHEDULER_FOLDER / SCHEDULE_FILE, to_json(json.loads(scheduler.to_json_string())))
    write_atomically(folder / INDEX_FILE, to_json(_PIPELINE))


def pack_weights(model: nn.Module, dtype: torch.dtype = torch.float32) -> bytes:
    """Pack the weights of a network as the content of a safetensors file; counts stay whole numbers."""
    weights = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    broken = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(
            f"Expected finite weights in {dtype}, but {', '.join(broken)} are not. Save an earlier state"
            f"{'.' if dtype == torch.float32 else ', or in float32 if they are only too large.'}"
        )
    return save(weights, metadata={"format": "pt"})


def to_json(values: Mapping[str, Any]) -> bytes:
    """Write JSON for people to read."""
    return (json.dumps(values, indent=2) + "\n").encode()
