"""Sets made so that the right answer is known: networks whose features are the pixels."""

import torch
from torch import nn

from puregen_transforms.data.image_set import ImageSet

SIDE = 4
DIMENSIONS = 3 * SIDE * SIDE


def pixel_network(classes=4):
    """A classifier whose features are the pixels in [-1, 1]."""
    return nn.Sequential(nn.Flatten(), nn.Linear(DIMENSIONS, classes))


def as_images(features):
    """(N, 48) in [-1, 1] as (N, 3, 4, 4) uint8."""
    return ((features + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).view(-1, 3, SIDE, SIDE)


def blobs(counts, *, seed=0, spread=0.08):
    """Features of one Gaussian for each class, and labels; `counts` by class."""
    generator = torch.Generator().manual_seed(seed)
    means = 0.5 * (2 * torch.rand(16, DIMENSIONS, generator=torch.Generator().manual_seed(99)) - 1)
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return means[labels] + spread * torch.randn(len(labels), DIMENSIONS, generator=generator), labels


def reserved_set(per_class=20, classes=4):
    """Clean images of the same classes."""
    features, labels = blobs([per_class] * classes, seed=5)
    return ImageSet(as_images(features), labels, tuple("abcdefgh"[:classes]))


def shift(size):
    """A displacement of the features that is the same for all images that carry the trigger."""
    return size * torch.randn(DIMENSIONS, generator=torch.Generator().manual_seed(7)).sign()
