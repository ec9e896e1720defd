"""What a trained classifier makes of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from puregen_transforms.train.classifier import normalize


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that the model gives their label."""
    model.eval()
    with torch.autocast(images.device.type, torch.bfloat16):  # as it was trained
        right = [model(normalize(x)).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return torch.cat(right).float().mean().item()


def share_called_target(model: nn.Module, images: Tensor, target: int) -> float:
    """Share of images that the model gives the target class: on triggered images of other classes, poison success."""
    return accuracy(model, images, torch.full((len(images),), target, device=images.device))
