"""What a defense does to images: figures, energies, and a few to look at, all ready for a record."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.data.mapped import changed_rows, release
from puregen_transforms.functional.images import to_pixels
from puregen_transforms.transforms.puregen import PureGen

_SHOWN = 6
_LARGEST_SHOWN = 48
_AT_ONCE = 64
_MEASURED, _PIXELS_MEASURED = 500, 500 * 64**2
_BINS = 60


def compare(clean: Tensor, before: Tensor, after: Tensor, *, energy: PureGen) -> dict[str, Any]:
    """Compare a defended set with what it was.

    Args:
        clean: (N, 3, H, W) uint8, without poison.
        before: the same, some of them poisoned.
        after: `before`, defended.
        energy: with an energy network.

    Returns:
        `psnr_clean` of images that were not poisoned, and `psnr_poisoned` of the others against the clean ones, in
        decibels (None: nothing differs, or no such images); `changed`, the share of images that are not as before;
        `sample`, PNG strips; and `energies`, histograms of at most 500 poisoned images (fewer above 64
        pixels) and as many others.
    """
    altered = changed_rows(before, clean)
    rows = altered.nonzero().flatten() if bool(altered.any()) else torch.arange(len(clean))
    strips = {"clean": clean, "before": before, "after": after}
    found: dict[str, Any] = {
        "psnr_clean": _psnr(after, clean, ~altered),
        "changed": changed_rows(after, before).float().mean().item(),
        "sample": {name: to_png(_shrunk(part[rows[:_SHOWN]])) for name, part in strips.items()},
    }
    if bool(altered.any()):
        found["psnr_poisoned"] = _psnr(after, clean, altered)
        found["energies"] = _histograms(before, after, altered, energy)
    return found


def to_png(images: Tensor) -> str:
    """Encode (N, 3, H, W) uint8 images side by side, as PNG in base64."""
    row = torch.cat(list(images.cpu()), dim=2).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(row)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _psnr(images: Tensor, originals: Tensor, chosen: Tensor) -> float | None:
    """Measure the chosen images (N,) bool; None where JSON would have no number for it."""
    rows, errors = chosen.nonzero().flatten(), []
    for part in rows.split(_AT_ONCE):
        errors.append((images[part].float() - originals[part].float()).square().mean((1, 2, 3)).double())
        release(images)
        release(originals)
    mean = torch.cat(errors).mean().item() if len(rows) else 0.0
    return 10 * math.log10(255**2 / mean) if mean else None


def _shrunk(images: Tensor) -> Tensor:
    """Shrink (N, 3, H, W) uint8 images to what a record has room for."""
    if max(images.shape[-2:]) <= _LARGEST_SHOWN:
        return images
    scale = _LARGEST_SHOWN / max(images.shape[-2:])
    return to_pixels(F.interpolate(images.float(), scale_factor=scale, mode="area"))


def _histograms(before: Tensor, after: Tensor, altered: Tensor, energy: PureGen) -> dict[str, Any]:
    most = max(1, min(_MEASURED, _PIXELS_MEASURED // before.shape[-2:].numel()))
    rows = {name: mask.nonzero().flatten()[:most] for name, mask in (("poisoned", altered), ("clean", ~altered))}
    energies = {
        f"{name} {when}": energy.energy(images[part]).cpu()
        for when, images in (("before", before), ("after", after))
        for name, part in rows.items()
        if len(part)
    }
    whole = torch.cat(list(energies.values()))
    edges = torch.linspace(float(whole.min()), float(whole.max()) + 1e-6, _BINS + 1)
    counts = {name: torch.histogram(part, edges).hist.int().tolist() for name, part in energies.items()}
    return {"edges": edges.tolist(), "counts": counts}
