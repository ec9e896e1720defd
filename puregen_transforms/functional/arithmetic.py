"""Which arithmetic a device computes networks in."""

from __future__ import annotations

import re

import torch

_ROCM_WITH_BFLOAT16 = re.compile(r"gfx(908|90a|94|95|11|12)")
"""AMD's architectures with matrix units for bfloat16: MI100 and later, RDNA 3 and later."""


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 products are known to run in hardware there, rather than being emulated."""
    match device.type:
        case "cpu":
            unit = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            # oneDNN, which runs the products, may have been told to leave the unit alone (ONEDNN_MAX_CPU_ISA).
            return unit and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        case "cuda" if torch.version.hip:
            return bool(_ROCM_WITH_BFLOAT16.match(torch.cuda.get_device_properties(device).gcnArchName))
        case "cuda":
            return torch.cuda.get_device_capability(device) >= (8, 0)
        case "xpu":
            properties = torch.xpu.get_device_properties(device)
            units = ("has_bfloat16_conversions", "has_subgroup_matrix_multiply_accumulate")
            return all(getattr(properties, unit, False) for unit in units)
    return False


def fast_dtype(device: torch.device) -> torch.dtype:
    """Choose bfloat16 where the hardware has it, else float32."""
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Compute networks that are being trained in bfloat16 where the hardware has it, else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
