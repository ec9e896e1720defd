"""From the bytes of a safetensors file to a network: strict, whatever the network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from puregen_transforms.hub.checkpoints import Checkpoint
from puregen_transforms.hub.layout import damaged_file_error

_LARGEST_WEIGHT = 1e6
"""Absolute value of a weight; of the packaged networks, the largest is below 100."""


def read_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint.

    Raises:
        FileNotFoundError: the file has gone since it was resolved.
        ValueError: the file has changed since, or is damaged.
    """
    content = checkpoint.weights.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != checkpoint.weights_sha256:
        raise ValueError(
            f"Expected sha256 {checkpoint.weights_sha256} for {checkpoint.weights}, but got {sha256}: the file has "
            "changed since it was resolved. Resolve the checkpoint again."
        )
    try:
        return parse_safetensors(content)
    except SafetensorError as error:
        raise damaged_file_error(checkpoint.weights, error) from error


def fill(model: nn.Module, tensors: Mapping[str, Tensor], described: str, weights: Path) -> None:
    """Give a network on the meta device its weights, in float32.

    Args:
        model: the network.
        tensors: of a checkpoint, by name.
        described: the network in words, for the error.
        weights: where the tensors come from, for the error.

    Raises:
        ValueError: keys, shapes or values that do not fit; all misfits are listed.
    """
    problems = _misfits(tensors, model.state_dict())
    if problems:
        raise ValueError(
            f"Expected the weights of {described} in {weights}, but got\n  "
            + "\n  ".join(problems)
            + "\nCheck that the file holds such a network and belongs to the config.json beside it."
        )
    model.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True)


def _misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """List everything that keeps tensors from being a network's weights."""
    shared = [name for name in expected if name in found]
    return [
        *(f"missing: {name} {tuple(expected[name].shape)}" for name in expected if name not in found),
        *(f"unexpected: {name} {tuple(found[name].shape)}" for name in sorted(found) if name not in expected),
        *(
            f"wrong shape: {name} {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
            for name in shared
            if found[name].shape != expected[name].shape
        ),
        *(f"not floating-point: {name} {found[name].dtype}" for name in shared if not found[name].is_floating_point()),
        *(f"not finite: {name}" for name in shared if not bool(found[name].float().isfinite().all())),
        *(f"beyond {_LARGEST_WEIGHT:g}: {name}" for name in shared if _is_absurd(found[name])),
    ]


def _is_absurd(tensor: Tensor) -> bool:
    """Tell whether a value is finite, and so large that the network would compute noise."""
    values = tensor.float().abs()
    return bool((values.isfinite() & (values > _LARGEST_WEIGHT)).any())
