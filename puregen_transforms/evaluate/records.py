"""What every benchmark record says about where its numbers come from."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from puregen_transforms import __version__
from puregen_transforms._files import write_atomically
from puregen_transforms.purifier.device import default_device, device_name


def describe_machine() -> dict[str, Any]:
    """Hardware and versions, for a record."""
    return {
        "machine": f"{platform.machine()}{_bfloat16_unit()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpu": None if (device := default_device()).type == "cpu" else device_name(device),
        "versions": {
            "puregen_transforms": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _bfloat16_unit() -> str:
    """Name what decides the speed of bfloat16 on this CPU."""
    if torch.cpu._is_amx_tile_supported():
        return " with AMX"
    return " with AVX-512 bfloat16" if torch.cpu._is_avx512_bf16_supported() else ""


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
