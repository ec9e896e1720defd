"""The device to run on, its arithmetic and its memory."""

from __future__ import annotations

import os
import re
from functools import cache

import torch

from puregen_transforms.functional.arithmetic import fast_dtype

_IMPORTED_BY = os.getpid()

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: torch.device | str | None) -> torch.device:
    """Choose the device asked for, else the accelerator that torch reports, else the CPU; and see that it works.

    Raises:
        ValueError: PyTorch knows no such device, or cannot use it on this machine.
        RuntimeError: this process was forked after the device had been used, where it cannot work.
    """
    chosen = default_device() if device is None else parse_device(device)
    if _is_in_bad_fork(chosen):
        raise RuntimeError(
            f"PureGen was called in a forked worker process, where {chosen.type.upper()} cannot be used. Either purify "
            "batches in the main process, after the DataLoader; or start workers with "
            "multiprocessing_context='spawn' (for datasets.map: multiprocess.set_start_method('spawn')); or pass "
            "PureGen(device='cpu')."
        )
    if chosen.type != "cpu":
        _try_out(chosen)
    return chosen


def default_device() -> torch.device:
    """Return the accelerator that torch reports (CUDA or ROCm, MPS, XPU, ...), else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def device_of_rank(rank: int) -> torch.device | None:
    """Give the processes of `datasets.map(num_proc=..., with_rank=True)` accelerators in turn; None without several."""
    count = torch.accelerator.device_count()
    if count < 2:
        return None
    return torch.device(default_device().type, rank % count)


def _is_in_bad_fork(device: torch.device) -> bool:
    if device.type == "cpu":
        return False
    check = getattr(getattr(torch, device.type, None), "_is_in_bad_fork", None)
    return check is not None and bool(check())


def _try_out(device: torch.device) -> None:
    """Use a device once; raises as `choose_device`."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = getattr(getattr(torch, device.type, None), "is_available", None)
        if available is not None and not available():
            reason = "torch finds none."
        else:
            reason = re.split(r"(?<=\.)\s", str(error).strip())[0]  # the rest is for torch's developers
        raise ValueError(
            f"Expected a device that works on this machine, but {str(device)!r} does not: {reason} Leave `device` out "
            f"for {str(default_device())!r}; `puregen doctor` lists the devices that work."
        ) from error


def one_thread_if_forked() -> None:
    """Run torch on one thread, if this process was forked.

    The OpenMP threads of the parent do not exist in its forked children, where waiting for them
    would never end. `DataLoader` workers are set so already; those of `datasets.map` are not.
    """
    if os.getpid() != _IMPORTED_BY and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def parse_device(device: torch.device | str) -> torch.device:
    """Read a device's name; whether the machine has it is for `choose_device`.

    Raises:
        ValueError: PyTorch knows no such device.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"Expected a device such as 'cpu', 'cuda', 'cuda:1', 'mps' or 'xpu', but got {device!r}."
        ) from error


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Choose the arithmetic asked for; "auto" is bfloat16 where the hardware has it, else float32."""
    return fast_dtype(device) if dtype == "auto" else _DTYPES[dtype]


def device_name(device: torch.device) -> str:
    """Return the name its maker gave an accelerator, or its type where torch does not tell."""
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return device.type if name is None else str(name(device))


@cache
def free_memory(device: torch.device) -> int | None:
    """Return an accelerator's bytes when first asked, or None if torch does not tell.

    What torch itself has set aside by then counts as free.
    """
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return None
    free, _ = module.mem_get_info(device)
    return int(free) + module.memory_reserved(device) - module.memory_allocated(device)


def release_memory() -> None:
    """Give back what torch has set aside on the accelerator and does not use."""
    release = getattr(torch.get_device_module(default_device()), "empty_cache", None)
    if release is not None:
        release()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device's memory did not suffice: not all devices have their own error for it."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
