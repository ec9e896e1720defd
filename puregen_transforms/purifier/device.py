"""Where to run, and in which arithmetic."""

from __future__ import annotations

import os

import torch

_IMPORTED_BY = os.getpid()

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, else a GPU if there is one, else the CPU.

    Raises:
        ValueError: PyTorch knows no such device.
        RuntimeError: the device would be CUDA, in a process forked after CUDA had started, where it cannot work.
    """
    if device is not None:
        chosen = parse_device(device)
    else:
        chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if chosen.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise RuntimeError(
            "PureGen was called in a forked worker process, where CUDA cannot be used. Either purify batches in the "
            "main process, after the DataLoader; or start workers with multiprocessing_context='spawn' (for "
            "datasets.map: multiprocess.set_start_method('spawn')); or pass PureGen(device='cpu')."
        )
    return chosen


def device_of_rank(rank: int, gpus: int) -> torch.device | None:
    """A GPU for each process of `datasets.map(num_proc=..., with_rank=True)`, in turn; None without several."""
    return torch.device("cuda", rank % gpus) if gpus > 1 else None


def one_thread_if_forked() -> None:
    """In a forked process, run torch on one thread.

    The OpenMP threads of the parent do not exist in its forked children, where waiting for them
    would never end. `DataLoader` workers are set so already; those of `datasets.map` are not.
    """
    if os.getpid() != _IMPORTED_BY and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def parse_device(device: torch.device | str) -> torch.device:
    """A device from its name.

    Raises:
        ValueError: PyTorch knows no such device.
    """
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"Expected a device such as 'cpu', 'cuda' or 'cuda:1', but got {device!r}.") from error


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The arithmetic asked for; "auto" is bfloat16 where the hardware has it, else float32."""
    if dtype != "auto":
        return _DTYPES[dtype]
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware there, rather than being emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
