"""Run on the CPU what a device cannot compute exactly: not all have float64, or every int64 operation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

CPU = torch.device("cpu")


@cache
def device_for(trial: Callable[[torch.device], Tensor], device: torch.device, what: str) -> torch.device:
    """Choose where to run an operation: `device`, or the CPU, with one warning, if it cannot do it there.

    Args:
        trial: the operation on some small input, on the device it is given.
        device: where it is wanted.
        what: the operation, in words, for the warning.
    """
    if device.type == "cpu":
        return device
    try:
        if torch.equal(trial(device).cpu(), trial(CPU)):
            return device
        reason = "its results differ from the CPU's"
    except (RuntimeError, TypeError) as error:  # torch raises TypeError for float64 on an Apple GPU
        reason = " ".join(str(error).split())
    warnings.warn(
        f"Device {str(device)!r} cannot do this exactly: {what} ({reason}). It runs on the CPU instead.",
        UserWarning,
        stacklevel=3,
    )
    return CPU


def float64_product(device: torch.device) -> Tensor:
    """Multiply in float64: a trial for `device_for`."""
    return torch.tensor([0xFFFFFFFF], dtype=torch.float64, device=device) * 0xD2511F53
