"""What a trained classifier makes of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from puregen_transforms.attacks.poison import Poison
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that the model gives their label; they are brought to its device in parts."""
    model.eval()
    device = next(model.parameters()).device
    right = []
    with autocast(device):  # as it was trained
        for part, truth in zip(images.split(500), labels.split(500), strict=True):
            right.append(model(normalize(part.to(device))).argmax(1) == truth.to(device))
    return torch.cat(right).float().mean().item()


def share_called_target(model: nn.Module, images: Tensor, target: int) -> float:
    """Share of images that the model gives the target class: on triggered images of other classes, poison success."""
    return accuracy(model, images, torch.full((len(images),), target))


def poison_success(model: nn.Module, poison: Poison, images: Tensor, labels: Tensor) -> float | None:
    """Share of what the attack aims at that the model calls the target class.

    Args:
        model: the victim.
        poison: with a trigger: test images outside the target class (or of the source class) that carry it, at its
            magnification. Without: its target images; so 0 or 1 for a single one, to be averaged over attacks.
        images: (N, 3, H, W) uint8, the test set.
        labels: (N,) int64.

    Returns:
        The share; None for an attack on all that is learned, whose success is a low accuracy.
    """
    if poison.target_class is None:
        return None
    if poison.trigger is None:
        assert poison.target_images is not None
        return share_called_target(model, poison.target_images, poison.target_class)
    return share_called_target(model, poison.trigger_test_set(images, labels)[0], poison.target_class)
