"""Checkpoints as the bytes of their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

OFFICIAL_CONFIG: Mapping[str, int] = {"nf": 4, "patch_size": 1}
Files = dict[str, bytes]


def pack(tensors: dict[str, Tensor], config: object = OFFICIAL_CONFIG) -> Files:
    return {"config.json": json.dumps(config).encode(), "model.safetensors": save(tensors, metadata={"format": "pt"})}


def put(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
