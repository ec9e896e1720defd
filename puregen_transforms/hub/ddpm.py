"""The noise predictor: from a reference to a diffusers `UNet2DModel` and the schedule it was trained with."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from puregen_transforms.hub.catalogue import DEFAULT_DDPM
from puregen_transforms.hub.layout import read_object, read_shapes
from puregen_transforms.hub.references import FoundCheckpoint, find
from puregen_transforms.hub.weights import check_unchanged, fill, parse_weights

if TYPE_CHECKING:
    from diffusers import UNet2DModel

DEFAULT_SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
"""What decides the betas, and what diffusers takes where a configuration does not say."""

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")

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
class DDPMCheckpoint:
    """A DDPM checkpoint whose files are on this machine.

    Args:
        reference: the catalogue name, folder or Hub repository it was found by.
        weights: path of the safetensors file; `config.json` lies beside it.
        config: of the `UNet2DModel`, as in its `config.json`.
        schedule: what decides the betas: the keys of `DEFAULT_SCHEDULE`.
        sha256: one digest of the weights file, the network's configuration and the schedule.
        revision: commit hash, if it came from the Hub.
    """

    reference: str
    weights: Path
    config: Mapping[str, Any]
    schedule: Mapping[str, Any]
    sha256: str
    revision: str | None = None


def resolve_ddpm(
    reference: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> DDPMCheckpoint:
    """Find a DDPM checkpoint, downloading it if need be. diffusers is not imported.

    References, revisions and the cache work as for `resolve_checkpoint`. Both layouts of diffusers are
    accepted, a pipeline and a bare network; a bare network may have `scheduler_config.json` beside it or
    in `scheduler/`, and without one has `DEFAULT_SCHEDULE`.

    Args:
        reference: catalogue name, local folder, or Hub repository "owner/name" or "owner/name@revision" (a branch,
            tag or commit); None for the default checkpoint.
        cache_dir: the Hub cache; default as huggingface_hub has it.
        token: for private repositories; default the saved login or HF_TOKEN, False sends none.
        local_files_only: use only what is cached. HF_HUB_OFFLINE does the same.

    Raises:
        ValueError: no such form of reference, a checkpoint of another kind, pickle files only, a damaged
            file, a hash other than the pinned one, a network or schedule that is not one of an
            unconditional noise predictor of RGB images, or a revision where there is none.
        FileNotFoundError: no such folder, repository, revision or file; or offline and not cached.
        PermissionError: gated, or the token is not good for it.
        ConnectionError: the Hub cannot be reached, or broke off.
    """
    found = find(
        DEFAULT_DDPM if reference is None else reference,
        kinds=("ddpm",),
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    return read_ddpm(found)


def read_ddpm(found: FoundCheckpoint) -> DDPMCheckpoint:
    """Read the configurations of a checkpoint and check them; errors as of `resolve_ddpm`."""
    if found.files.index is not None:
        _check_index(found.folder / found.files.index)
    config = _read_config(found.config)
    schedule = dict(DEFAULT_SCHEDULE)
    if found.files.schedule is not None:
        schedule = _read_schedule(found.folder / found.files.schedule)
    read_shapes(found.weights)
    return DDPMCheckpoint(
        reference=found.reference,
        weights=found.weights,
        config=config,
        schedule=schedule,
        sha256=_digest(found.sha256, config, schedule),
        revision=found.revision,
    )


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

    content = checkpoint.weights.read_bytes()
    digest = _digest(hashlib.sha256(content).hexdigest(), checkpoint.config, checkpoint.schedule)
    check_unchanged(checkpoint.weights, digest, checkpoint.sha256)
    tensors = parse_weights(checkpoint.weights, content)
    try:
        with torch.device("meta"):
            model = UNet2DModel.from_config(dict(checkpoint.config))
    except Exception as error:  # diffusers does not check its arguments, so anything may come up
        raise ValueError(
            f"Expected the configuration of a UNet2DModel in {checkpoint.weights.with_name('config.json')}, but "
            f"diffusers cannot build that network: {error}"
        ) from error
    renamed = {_current_name(name): tensor for name, tensor in tensors.items()}
    fill(model, renamed, "the UNet2DModel of its configuration", checkpoint.weights)
    return model.eval()


def alpha_bars(checkpoint: DDPMCheckpoint) -> Tensor:
    """The share of signal left at each timestep: (T,) float32, by diffusers' `DDPMScheduler`."""
    from diffusers import DDPMScheduler  # seconds to import

    return DDPMScheduler(**checkpoint.schedule).alphas_cumprod


def check_schedule(schedule: Mapping[str, Any], place: str) -> None:
    """Check the values that decide the betas.

    Args:
        schedule: with exactly the keys of `DEFAULT_SCHEDULE`.
        place: where it comes from, for the error.

    Raises:
        ValueError: a value that cannot be.
    """
    betas = schedule["trained_betas"]
    sound = {
        "num_train_timesteps": _is_count(schedule["num_train_timesteps"]),
        "beta_start": _is_beta(schedule["beta_start"]),
        "beta_end": _is_beta(schedule["beta_end"]),
        "beta_schedule": schedule["beta_schedule"] in BETA_SCHEDULES,
        "trained_betas": betas is None or (isinstance(betas, list) and bool(betas) and all(map(_is_beta, betas))),
        "rescale_betas_zero_snr": isinstance(schedule["rescale_betas_zero_snr"], bool),
    }
    wrong = [f"{name} {str(schedule[name])[:80]}" for name, is_sound in sound.items() if not is_sound]
    if wrong:
        raise ValueError(
            f"Expected a noise schedule in {place} (betas between 0 and 1; beta_schedule one of "
            f"{', '.join(BETA_SCHEDULES)}), but got {'; '.join(wrong)}."
        )


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
    if name not in _SCHEDULERS:
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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_beta(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1


def _digest(weights_sha256: str, config: Mapping[str, Any], schedule: Mapping[str, Any]) -> str:
    """One hash of everything that decides a prediction; of the configuration without diffusers' private notes."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    content = json.dumps([weights_sha256, public, dict(schedule)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _current_name(name: str) -> str:
    return _OLD_ATTENTION.sub(lambda match: f".attentions.{match[1]}.{_ATTENTION[match[2]]}.{match[3]}", name)
