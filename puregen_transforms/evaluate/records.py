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


def describe_machine() -> dict[str, Any]:
    """Hardware and versions, for a record."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {
            "puregen_transforms": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
