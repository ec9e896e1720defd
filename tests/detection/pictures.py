"""Pictures made so that the right answer is known: smooth shapes of their own, in the color of their class."""

import torch
import torch.nn.functional as F


def pictures(count, *, classes=4, side=32, seed=0):
    """(count, 3, side, side) uint8 images that differ from each other, and their labels, in turn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    tints = 40 * torch.randn(classes, 3, 1, 1, generator=torch.Generator().manual_seed(99))
    shapes = 45 * torch.randn(count, 3, 7, 7, generator=generator)
    smooth = F.interpolate(shapes, size=(side, side), mode="bicubic")
    grain = 5 * torch.randn(count, 3, side, side, generator=generator)
    return (128 + tints[labels] + smooth + grain).round().clamp(0, 255).to(torch.uint8), labels


def overlay(side=32, *, strength=12, seed=1):
    """A (3, side, side) pattern of random signs, in blocks of two pixels."""
    signs = torch.randn(3, side // 2, side // 2, generator=torch.Generator().manual_seed(seed)).sign()
    return strength * F.interpolate(signs[None], size=(side, side))[0]


def stripes(frequency, *, strength=20, side=32, turn=0.0):
    """A (side,) upright wave."""
    return strength * torch.cos(2 * torch.pi * (frequency * torch.arange(side) / side + turn))


def added(images, rows, pattern):
    """The images with a pattern added to some rows."""
    changed = images.clone()
    changed[rows] = (images[rows].float() + pattern).round().clamp(0, 255).to(torch.uint8)
    return changed


CHECKERS = 255 * torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.uint8).expand(3, 3, 3)


def stamped(images, rows, *, down=29, right=29, stamp=CHECKERS):
    """The images with a stamp on some rows."""
    changed = images.clone()
    height, width = stamp.shape[1:]
    changed[rows, :, down : down + height, right : right + width] = stamp
    return changed
