"""What a trained classifier makes of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from puregen_transforms.attacks.poison import Poison
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize

_PIXELS_AT_ONCE = 500 * 32**2
"""Of one network call: 500 images of 32 pixels."""


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that the model gives their label; they are brought to its device in parts."""
    model.eval()
    device = next(model.parameters()).device
    right = []
    at_once = max(1, _PIXELS_AT_ONCE // images.shape[-2:].numel())
    with autocast(device):  # as it was trained
        for part, truth in zip(images.split(at_once), labels.split(at_once), strict=True):
            right.append(model(normalize(part.to(device))).argmax(1) == truth.to(device))
    return torch.cat(right).float().mean().item()


def share_called_target(model: nn.Module, images: Tensor, target: int) -> float:
    """Share of images that the model gives the target class: on triggered images of other classes, poison success."""
    return accuracy(model, images, torch.full((len(images),), target))


def poison_success(model: nn.Module, poison: Poison, images: Tensor, labels: Tensor) -> float | None:
    """Share of what the attack aims at that the model misreads as the attacker wants.

    Args:
        model: the victim.
        poison: with a trigger: test images outside the target class (or of the source class) that carry it, at its
            magnification, called the target class; all-to-all: test images called the class after their own;
            untargeted: test images called any other class than their own. Of several triggers, the mean. Without a
            trigger: its target images; so 0 or 1 for a single one, to be averaged over attacks.
        images: (N, 3, H, W) uint8, the test set.
        labels: (N,) int64.

    Returns:
        The share; None for an attack on all that is learned, whose success is a low accuracy.
    """
    if poison.aims:
        shares = success_by_trigger(model, poison, images, labels)
        return sum(shares) / len(shares)
    if poison.target_class is None:
        return None
    assert poison.target_images is not None
    return share_called_target(model, poison.target_images, poison.target_class)


def success_by_trigger(model: nn.Module, poison: Poison, images: Tensor, labels: Tensor) -> list[float]:
    """Share of attacked test images that the model misreads as the attacker wants, for each trigger of a poison.

    Args:
        model: the victim.
        poison: with one trigger or more; without, the list is empty.
        images: (N, 3, H, W) uint8, the test set.
        labels: (N,) int64.
    """
    shares = []
    for aim in poison.aims:
        triggered, truth = aim.triggered(images, labels)
        wanted = aim.wanted(truth, len(poison.class_names))
        share = 1 - accuracy(model, triggered, truth) if wanted is None else accuracy(model, triggered, wanted)
        shares.append(share)
    return shares
