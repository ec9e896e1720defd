"""The state of a training run, in one file that is whole or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

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


def kept_tensors(folder: Path | None, make: Callable[[Path | None], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Make tensors in a folder where a killed run can go on, or read those of a finished run.

    What the run has kept on its way is deleted when it has finished.
    """
    if folder is None:
        return make(None)
    if (folder / STATE_FILE).exists():
        return load_state(folder)[0]
    made = make(folder)
    save_state(folder, made, {})
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    return made


def network_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Collect the weights of a network, as "model.name", and what its optimizer keeps, as "optimizer.index.name"."""
    parts: dict[str, Mapping[str, Tensor]] = {"model": model.state_dict(), "optimizer": optimizer_state(optimizer)}
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


def load_network_state(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give a network and its optimizer back what `network_state` has collected."""
    model.load_state_dict(part_of(tensors, "model"))
    load_optimizer_state(optimizer, part_of(tensors, "optimizer"))


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Choose the tensors named "part.name", by name."""
    return {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Collect what an optimizer keeps of each parameter, such as its momentum, by "index.name"."""
    return {
        f"{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer back what `optimizer_state` has collected; its settings stay."""
    kept: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        kept.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": kept})
