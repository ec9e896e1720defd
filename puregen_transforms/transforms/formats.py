"""Open an image of any form as an RGB batch, and give the purified batch back in that form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors

from puregen_transforms._limits import LARGEST_PHOTOGRAPH
from puregen_transforms.functional.images import check_unit_range, gray_to_rgb, rgb_to_gray

_PIL_MODES = ("RGB", "L", "RGBA", "LA")
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class OpenImage:
    """One image, or a batch of one size, as found in a sample.

    Args:
        rgb: (N, 3, H, W), uint8 or float in [0, 1]; gray is repeated, alpha is set aside.
        close: purified (N, 3, H, W) uint8 -> what was found, in the same type, shape and range.
    """

    rgb: Tensor
    close: Callable[[Tensor], Any]


def has_image_shape(value: Any) -> bool:
    """Tell whether a plain tensor or array has the dtype and shape of images: (..., C, H, W) or (..., H, W, C)."""
    if isinstance(value, Tensor):
        pixels = value.dtype == torch.uint8 or value.is_floating_point()
        return pixels and value.ndim in (3, 4) and value.shape[-3] in _CHANNELS
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim in (3, 4) and value.shape[-1] in _CHANNELS
    return False


def open_image(value: Any) -> OpenImage:
    """Open a PIL image, a tensor or an array.

    Raises:
        TypeError: not an image.
        ValueError: an image of a mode, dtype, shape or range that cannot be purified; says what to do.
    """
    if isinstance(value, PIL.Image.Image):
        return _open_pil(value)
    if isinstance(value, Tensor):
        return _open_tensor(value)
    if isinstance(value, np.ndarray):
        return _open_array(value)
    raise TypeError(f"Expected a PIL image, a tensor or an array, but got {type(value).__name__}.")


def _open_pil(image: PIL.Image.Image) -> OpenImage:
    if image.mode not in _PIL_MODES:
        raise ValueError(
            f"Expected an image of mode {', '.join(_PIL_MODES)}, but got mode {image.mode!r}. "
            'Convert it with .convert("RGB") first'
            + (", scaling its 16-bit values to 8 bits yourself." if image.mode.startswith(("I", "F")) else ".")
        )
    pixels = np.array(image)  # (H, W) or (H, W, C)
    opened = _open_array(pixels[..., None] if pixels.ndim == 2 else pixels, channels=(1, 2, 3, 4))
    # fromarray forgets file name and format, so nothing later saves the original or re-encodes as JPEG.
    return OpenImage(opened.rgb, lambda purified: PIL.Image.fromarray(_drop_gray_axis(opened.close(purified))))


def _drop_gray_axis(pixels: np.ndarray) -> np.ndarray:
    return pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels


def _open_array(array: np.ndarray, channels: tuple[int, ...] = _CHANNELS) -> OpenImage:
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] not in channels:
        raise ValueError(
            f"Expected an array of uint8 with channels last, (H, W, C) or (N, H, W, C) and C of 1, 3 or 4, "
            f"but got {array.dtype} of shape {array.shape}. Give other arrays as tensors."
        )
    # Writable, as torch warns of what is not: datasets hands out views of PIL images.
    batch = torch.from_numpy(np.require(array, requirements=("C", "W"))).movedim(-1, -3)
    opened = _open_channels(batch if array.ndim == 4 else batch[None])

    def close(purified: Tensor) -> np.ndarray:
        pixels = opened.close(purified).movedim(-3, -1).contiguous().numpy()
        return pixels if array.ndim == 4 else pixels[0]

    return OpenImage(opened.rgb, close)


def _open_tensor(tensor: Tensor) -> OpenImage:
    if tensor.is_meta or tensor.layout != torch.strided:
        raise ValueError(f"Expected a tensor that holds its pixels, but got one on {tensor.device}, {tensor.layout}.")
    plain = tensor.detach().as_subclass(Tensor)
    if plain.is_floating_point() and plain.dtype.itemsize < 2:
        raise ValueError(f"Expected an image of uint8, or of floats of 16 bits or more, but got {plain.dtype}.")
    if not (plain.dtype == torch.uint8 or plain.is_floating_point()):
        raise ValueError(f"Expected an image of uint8 or float, but got {plain.dtype}. Scale it to one of these first.")
    if plain.ndim not in (3, 4) or plain.shape[-3] not in _CHANNELS:
        raise ValueError(
            "Expected an image tensor (C, H, W) or (N, C, H, W) with C of 1, 3 or 4, "
            f"but got shape {tuple(plain.shape)}."
        )
    if plain.is_floating_point():
        check_unit_range(plain)
    opened = _open_channels(plain if plain.ndim == 4 else plain[None])

    def close(purified: Tensor) -> Tensor:
        pixels = opened.close(purified).reshape(plain.shape)
        if plain.is_floating_point() and not pixels.is_floating_point():
            pixels = pixels.to(torch.promote_types(plain.dtype, torch.float32)).div_(255).to(plain.dtype)
        return tv_tensors.wrap(pixels, like=tensor) if isinstance(tensor, tv_tensors.Image) else pixels

    return OpenImage(opened.rgb, close)


def _open_channels(batch: Tensor) -> OpenImage:
    """Open channels as (N, C, H, W), C being 1 (gray), 2 (gray, alpha), 3 or 4 (alpha last)."""
    channels = batch.shape[1]
    color = batch[:, :-1] if channels in (2, 4) else batch
    gray = channels in (1, 2)

    def close(purified: Tensor) -> Tensor:
        out = rgb_to_gray(purified) if gray else purified
        if channels not in (2, 4):
            return out
        alpha = batch[:, -1:]
        # Alpha is handed back untouched, so a float batch must not pass through 8 bits.
        return torch.cat([out if batch.dtype == torch.uint8 else out.to(batch.dtype).div(255), alpha], dim=1)

    return OpenImage(gray_to_rgb(color) if gray else color, close)


def check_sizes(images: list[OpenImage], smallest: int, largest: int) -> None:
    """Refuse images of a shorter side than `smallest` pixels, or of more than `largest`, with a ValueError."""
    for image in images:
        height, width = image.rgb.shape[-2:]
        if min(height, width) < smallest:
            raise ValueError(
                f"Expected images of at least {smallest}x{smallest} pixels, but got {width}x{height}. "
                "Resize them, or leave them out."
            )
        if height * width > largest:
            other = (
                ', or purify them by method "onestep", which takes larger ones' if largest < LARGEST_PHOTOGRAPH else ""
            )
            raise ValueError(
                f"Expected images of at most {largest:,} pixels, but got {width}x{height}. Resize them to the size you "
                f"train on first{other}."
            )
