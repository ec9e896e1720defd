"""Settings that name the same results wherever the files lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puregen_transforms.hub.catalogue import CATALOGUE
from puregen_transforms.hub.checkpoints import find_checkpoint
from puregen_transforms.purifier.puregen_config import CHECKPOINTS

_FOLDER = "local-dir:"
"""Begins the names of backbones in folders; see `load_backbone`."""


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name checkpoints in folders by the sha256 of their weights, in settings of any depth.

    Names of the catalogue and of the Hub stay. Of a backbone in a folder the last part of the path is left: whoever
    keeps results adds the hash of its weights.
    """
    return {name: _portable(name, value) for name, value in settings.items()}


def _portable(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return portable(value)
    if isinstance(value, str) and value.startswith(_FOLDER):
        return f"{_FOLDER}{Path(value.removeprefix(_FOLDER)).name}"
    if name not in CHECKPOINTS or value is None or value in CATALOGUE or not Path(value).is_dir():
        return value
    return f"sha256:{find_checkpoint(value, kinds=[CHECKPOINTS[name]]).sha256}"
