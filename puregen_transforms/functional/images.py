"""Value ranges, rounding and channels of image batches: the one place that converts them."""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601 weights, as PIL's convert("L") uses."""

_RANGE_SLACK = 1e-4
"""How far outside [0, 1] a float image may stray, as resizing filters make it by rounding."""

_OVERSHOOT = 0.25
"""How far outside [0, 1] filters with negative lobes go, about; normalized images go further."""


def check_unit_range(images: Tensor) -> None:
    """Raise ValueError unless float `images` are finite and in [0, 1]."""
    if images.numel() == 0:
        return
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= -_RANGE_SLACK and high <= 1 + _RANGE_SLACK):
        if low != low or high != high:
            raise ValueError("Expected finite images, but found NaN. Look at the step before this one.")
        overshoots = low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT
        raise ValueError(
            f"Expected float images in [0, 1], but found values in [{low:.4g}, {high:.4g}]. "
            + (
                "Bicubic and Lanczos resizing overshoot by so much: resize before scaling to floats, or clamp after "
                "it, as with v2.Lambda(lambda image: image.clamp(0, 1))."
                if overshoots
                else "Put PureGen after scaling to [0, 1] (ToTensor, or ToDtype(scale=True)) and before Normalize."
            )
        )


def size_of(images: Tensor) -> tuple[int, int]:
    """Give height and width of (..., H, W) images."""
    return images.shape[-2], images.shape[-1]


def to_signed(images: Tensor) -> Tensor:
    """Map uint8 [0, 255] or float [0, 1] to float32 [-1, 1]."""
    if images.dtype == torch.uint8:
        return images.float().div_(127.5).sub_(1)
    return images.float().mul(2).sub_(1)


def normalize(images: Tensor) -> Tensor:
    """Map 8-bit values [0, 255], of any dtype, to float32 [-1, 1], channels-last, as classifiers take them."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_pixels(values: Tensor) -> Tensor:
    """Round and clip values of 0 to 255 to uint8."""
    return values.round().clamp(0, 255).to(torch.uint8)


def to_uint8(images: Tensor) -> Tensor:
    """Map float, nominally in [-1, 1], to uint8 [0, 255]: clamped first, then rounded, so nothing wraps around."""
    return images.add(1).mul_(127.5).clamp_(0, 255).round_().to(torch.uint8)


def rounded(images: Tensor) -> Tensor:
    """Round uint8 [0, 255] or float [0, 1] to the nearest uint8 image."""
    return images if images.dtype == torch.uint8 else images.float().mul(255).clamp_(0, 255).round_().to(torch.uint8)


def gray_to_rgb(images: Tensor) -> Tensor:
    """Repeat the channel: (N, 1, H, W) -> (N, 3, H, W)."""
    return images.expand(-1, 3, -1, -1)


def rgb_to_gray(images: Tensor) -> Tensor:
    """Weigh the channels by luma: (N, 3, H, W) uint8 -> (N, 1, H, W) uint8."""
    weights = torch.tensor(_LUMA, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).round_().clamp_(0, 255).to(torch.uint8)
