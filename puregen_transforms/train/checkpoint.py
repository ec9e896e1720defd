"""The state of a training run, in one file that is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from puregen_transforms._files import write_atomically

STATE_FILE = "state.safetensors"


def save_state(folder: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Save tensors and a JSON record as one safetensors file, so that neither exists alone."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(folder / STATE_FILE, save(contiguous, metadata={"record": json.dumps(record)}))


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load what `save_state` has saved."""
    with safe_open(folder / STATE_FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["record"])
