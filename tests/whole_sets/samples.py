"""Torch data sets of a few samples, and how samples are compared."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.datasets import VisionDataset


class Pictures(VisionDataset):
    """Like CIFAR10: PIL images, labels, classes."""

    classes = ["cat", "dog"]  # noqa: RUF012

    def __init__(self, pictures, **options):
        super().__init__("", **options)
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        image, label = self.pictures[index], index % 2
        return (image, label) if self.transforms is None else self.transforms(image, label)


class Samples:
    """Any map-style data set."""

    def __init__(self, make, rows=6):
        self.make = make
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return self.make(index)


def same(value, other):
    """Tell whether two values are of the same type and content."""
    if type(value) is not type(other):
        return False
    if isinstance(value, torch.Tensor):
        metadata = [getattr(one, "__dict__", {}) for one in (value, other)]
        return (
            value.dtype == other.dtype
            and value.shape == other.shape
            and torch.equal(value, other)
            and (metadata[0] == metadata[1])
        )
    if isinstance(value, np.ndarray):
        return value.dtype == other.dtype and value.shape == other.shape and value.tobytes() == other.tobytes()
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(same, value, other))
    if isinstance(value, dict):
        return list(value) == list(other) and all(same(value[key], other[key]) for key in value)
    return value == other
