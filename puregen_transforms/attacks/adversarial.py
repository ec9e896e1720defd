"""Adversarial examples: change pixels, within a bound, so that a loss falls."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize


def descend(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
) -> Tensor:
    """Lower a loss by projected gradient descent (Madry et al. 2018): (N, 3, H, W) float32, 0 ... 255, not rounded.

    Args:
        loss: (N, 3, H, W) float32, 0 ... 255 -> scalar.
        images: (N, 3, H, W) uint8, around which pixels may move.
        epsilon: largest change of a pixel, in units of 1/255.
        steps: how many.
        step_size: of each pixel in each step, in the same units.
        start: (N, 3, H, W) float32, where to begin; None begins with the images.
    """
    center = images.float()
    x = center if start is None else start
    for _ in range(steps):
        x = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x), x)
        with torch.no_grad():
            x = x - step_size * gradient.sign()
            x = torch.minimum(torch.maximum(x, center - epsilon), center + epsilon).clamp(0, 255)
    return x.detach()


def summed_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Sum the cross-entropy of float images, 0 ... 255: a scalar whose gradient in each image is that image's own."""
    with autocast(images.device):
        return F.cross_entropy(model(normalize(images)), labels, reduction="sum")
