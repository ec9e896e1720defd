"""Tell copies of one picture from different pictures, and bring rows into an order that their contents decide."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.data.mapped import gathered
from puregen_transforms.detection.row_parts import join_parts, rows_at_once
from puregen_transforms.purifier.batches import on_single_threads

SAME_PICTURE = 0.95
"""Cosine of two thumbnails above which they are taken for the same picture, cropped or compressed anew at most."""

_SIDE = 8
_FLAT = 20.0


def small_pictures(images: Tensor) -> Tensor:
    """Make thumbnails of 8x8 pixels, less their mean and of length 1: (N, 3, H, W) uint8 -> (N, 193) float32."""
    return join_parts(_thumbnails, images, rows_at_once(images))


def _thumbnails(images: Tensor) -> Tensor:
    small = F.adaptive_avg_pool2d(images.float(), _SIDE).flatten(1)
    # The constant makes pictures of a single color copies of each other.
    return F.normalize(F.pad(small - small.mean(1, keepdim=True), (0, 1), value=_FLAT))


def count_pictures(thumbnails: Tensor, *, most: int) -> int:
    """Count different pictures, up to `most`.

    Args:
        thumbnails: (n, D) of `small_pictures`.
        most: at which counting stops.
    """
    left, count = thumbnails, 0
    while len(left) and count < most:
        left = left[left @ left[0] < SAME_PICTURE]
        count += 1
    return count


def show_several_pictures(images: Tensor, rows: Tensor, *, least: int) -> bool:
    """Tell whether some images, rows (n,) of (N, 3, H, W) uint8, show at least so many different pictures."""
    return count_pictures(small_pictures(gathered(images, rows)), most=least) == least


def copies_among(thumbnails: Tensor) -> Tensor:
    """Mark pairs that show the same picture: (n, D) of `small_pictures` -> (n, n) bool; an image is its own copy."""
    return torch.cat(on_single_threads(lambda part: part @ thumbnails.T > SAME_PICTURE, thumbnails.split(256)))


def content_keys(images: Tensor) -> Tensor:
    """Compute a number that equal images have in common, and others do not: (N, C, H, W) uint8 -> (N,) int64."""
    weights = odd_numbers(images.shape[1:].numel(), seed=1)
    return join_parts(lambda part: (part.flatten(1).long() * weights).sum(1), images, rows_at_once(images))


def order_by_content(keys: Tensor, labels: Tensor | None) -> Tensor:
    """Sort rows by what they hold, so that a result cannot depend on the order in which a set was stored.

    Args:
        keys: (N,) of `content_keys`.
        labels: (N,) int64, by which equal images are sorted.

    Returns:
        (N,) int64 rows.
    """
    by_label = torch.arange(len(keys)) if labels is None else labels.argsort(stable=True)
    return by_label[keys[by_label].argsort(stable=True)]


def first_copies(keys: Tensor) -> Tensor:
    """Find for each image the first row with an equal one before it, -1 for none: (N,) of `content_keys` -> (N,)."""
    order = keys.argsort(stable=True)
    fresh = torch.ones(len(keys), dtype=torch.bool)
    fresh[1:] = keys[order].diff() != 0
    first = order[fresh.nonzero().flatten()[fresh.long().cumsum(0) - 1]]
    found = torch.empty_like(order)
    found[order] = first.masked_fill(fresh, -1)
    return found


def evenly(rows: Tensor, most: int) -> Tensor:
    """Choose rows at equal distances, at most so many."""
    return rows if len(rows) <= most else rows[torch.arange(most) * len(rows) // most]


def odd_numbers(count: int, *, seed: int) -> Tensor:
    """Draw odd 64-bit numbers, whose sums of products tell different bytes apart: (count,) int64."""
    return torch.randint(-(2**62), 2**62, (count,), generator=torch.Generator().manual_seed(seed)) * 2 + 1
