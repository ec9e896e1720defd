"""Settings that name the same results wherever the files lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puregen_transforms.hub.catalogue import CATALOGUE, Kind
from puregen_transforms.hub.checkpoints import find_checkpoint

_CHECKPOINTS: dict[str, Kind] = {
    "checkpoint": "ebm",
    "ddpm_checkpoint": "ddpm",
    "denoiser_checkpoint": "denoiser",
}
"""Settings that name a checkpoint, and of what kind."""


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name checkpoints in folders by the sha256 of their weights, in settings of any depth.

    Names of the catalogue and of the Hub stay.
    """
    return {name: _portable(name, value) for name, value in settings.items()}


def _portable(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return portable(value)
    if name not in _CHECKPOINTS or value is None or value in CATALOGUE or not Path(value).is_dir():
        return value
    return f"sha256:{find_checkpoint(value, kinds=[_CHECKPOINTS[name]]).sha256}"
