"""Examples of how a training defense mixes images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from puregen_transforms.evaluate.before_after import to_png
from puregen_transforms.functional.images import normalize, to_pixels, to_uint8
from puregen_transforms.transforms.attention_mix import AttentionMix

_MIXED = 64
_SHOWN = 4


def describe_mixing(
    mix: AttentionMix, images: Tensor, labels: Tensor, *, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Mix some images, JSON-ready: four of 64, from the one that is mixed in the smallest region to the largest.

    They are mixed with images of other classes, if enough are.

    Args:
        mix: with a trained network.
        images: (N, 3, H, W) uint8, two or more.
        labels: (N,) int64.
        device: of the network.

    Returns:
        PNG strips of the images (`first`), their partners (`second`), the `attention` and the `region` in gray, and
        what comes out (`mixed`); `labels` of image and partner; and the three `weights` of these, see `Mixing`.
    """
    rows = torch.linspace(0, len(images) - 1, min(_MIXED, len(images))).round().long()
    images, labels = images[rows], labels[rows]
    drawn = AttentionMix(mix.attention, threshold=mix.threshold, generator=torch.Generator().manual_seed(0))
    signed = normalize(images).to(device)
    plan = drawn.plan(signed)
    order = plan.region.flatten(1).sum(1).argsort(stable=True).cpu()
    differs = labels[order] != labels[plan.partner.cpu()[order]]
    order = order[differs] if int(differs.sum()) >= _SHOWN else order
    places = order[torch.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().long()]
    partners = plan.partner.cpu()[places]
    return {
        "first": to_png(images[places]),
        "second": to_png(images[partners]),
        "attention": to_png(_in_gray(plan.attention.cpu()[places])),
        "region": to_png(_in_gray(plan.region.cpu()[places])),
        "mixed": to_png(to_uint8(plan.of_images(signed).cpu()[places])),
        "labels": torch.stack([labels[places], labels[partners]], 1).tolist(),
        "weights": [[round(weight, 4) for weight in one] for one in plan.label_weights.cpu()[places].tolist()],
    }


def _in_gray(maps: Tensor) -> Tensor:
    """Draw maps (N, H, W) of values from 0 to 1 as images (N, 3, H, W) uint8."""
    return to_pixels(255 * maps.float())[:, None].expand(-1, 3, -1, -1)
