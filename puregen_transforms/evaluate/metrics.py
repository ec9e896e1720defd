"""How far images moved, what is left of a perturbation, and how well a score tells two groups apart."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image.

    Args:
        images: (N, C, H, W) uint8.
        originals: the same shape.

    Returns:
        (N,) in decibels; infinite where nothing differs.
    """
    error = (images.float() - originals.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


def survival(clean: Tensor, poisoned: Tensor, purified_clean: Tensor, purified_poisoned: Tensor) -> Tensor:
    """Share of each image's perturbation that purification leaves, along the perturbation's own direction.

    With d = poisoned - clean, it is <purified_poisoned - purified_clean, d> / <d, d>: 1 if nothing
    was removed, 0 if what is left points elsewhere. The chain's noise differs between the two
    purified images, so single values scatter; their mean is the figure to read.

    Args:
        clean: (N, C, H, W) uint8.
        poisoned: the same images with the perturbation, the same shape.
        purified_clean: `clean` after purification.
        purified_poisoned: `poisoned` after purification.

    Returns:
        (N,) shares.
    """
    change = (poisoned.float() - clean.float()).flatten(1)
    left = (purified_poisoned.float() - purified_clean.float()).flatten(1)
    return (left * change).sum(1) / change.square().sum(1)


def auroc(positives: Tensor, negatives: Tensor) -> float:
    """Chance that a random positive scores above a random negative; ties count half.

    Args:
        positives: (N,) scores of the group that should score higher.
        negatives: (M,) scores of the other.
    """
    positives, negatives = positives.double(), negatives.double()
    ordered = negatives.sort().values
    below = torch.searchsorted(ordered, positives)
    not_above = torch.searchsorted(ordered, positives, right=True)
    return float((below + not_above).double().mean() / 2 / len(negatives))
