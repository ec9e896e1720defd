"""Splits by class."""

import pytest
import torch

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import per_class, transfer_split


@pytest.fixture
def numbered():
    """Forty images of two classes, each with its number in its first pixel."""
    images = torch.zeros(40, 3, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(40)
    return ImageSet(images, torch.arange(40) % 2, ("even", "odd"))


def numbers(part):
    return part.images[:, 0, 0, 0].tolist()


def test_parts_follow_each_other(numbered):
    split = transfer_split(numbered, pretrain=12, fine_tune=3)
    assert numbers(split.pretrain) == list(range(24))
    assert numbers(split.fine_tune) == list(range(24, 30))
    assert numbers(split.targets) == list(range(30, 40))
    assert split.targets.labels.tolist() == [0, 1] * 5


def test_too_small_a_class_is_named(numbered):
    assert numbers(per_class(numbered, 18, 20)) == [36, 37, 38, 39]
    with pytest.raises(ValueError, match="at least 21 images of 'even', but there are 20"):
        per_class(numbered, 0, 21)
    with pytest.raises(ValueError, match="at least 21"):
        transfer_split(numbered, pretrain=18, fine_tune=2)
