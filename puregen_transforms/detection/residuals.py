"""Bring out of images what is not natural about them: whitened residuals, in which a faint shared pattern is loud."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.data.mapped import cut, empty_rows, folder_of, release
from puregen_transforms.detection.frequency import cosines
from puregen_transforms.detection.row_parts import fill_parts, join_parts, rows_at_once

LARGEST_SIDE = 64
"""Larger images are averaged down to at most this: a trigger that is to survive a victim's resizing is coarser."""

LOWEST = 6
"""Cosine coefficients nearer to the origin are dropped: there the picture itself is."""

_FLOOR, _ROUNDING = 0.03, 0.1
"""Least scale of a coefficient, relative to the median one's and in units of 1/255; JPEG leaves some with nothing."""

_COLORS = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / torch.tensor([[3.0], [2.0], [6.0]]).sqrt()
"""Gray, red against blue, and green against both: orthonormal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """Remove from images what images of the set have anyway.

    Opponent colors; each coefficient of the discrete cosine transform over its root mean square in the set; then each
    pixel over the usual size of its surroundings; less the mean of the set; each image scaled to length 1,
    unless next to nothing is left of it.

    Args:
        scale: (3, h, w) of the coefficients; infinite where they are dropped.
        mean: (3, h, w) of the set.
        step: pixels of a side that are averaged into one.
    """

    scale: Tensor
    mean: Tensor
    step: int

    @classmethod
    def fit(cls, images: Tensor) -> Whitening:
        """Measure a set, (N, 3, H, W) uint8."""
        step = reduction(images.shape[-2:])
        height, width = (side // step for side in images.shape[-2:])
        radius = torch.arange(height)[:, None].square() + torch.arange(width).square()
        kept = (radius >= LOWEST**2).expand(3, -1, -1)
        power = _mean(lambda part: _transform(part, step).square(), images)
        scale = power.sqrt().float()
        scale = scale.clamp_min(max(_FLOOR * float(scale[kept].median()), _ROUNDING)).masked_fill(~kept, torch.inf)
        fitted = cls(scale=scale, mean=torch.zeros(3, height, width), step=step)
        return replace(fitted, mean=_mean(fitted._flattened, images).float())

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the residuals of (N, 3, H, W) uint8 images: (N, 3, h, w) float32, in a file if they are too many."""
        found = empty_rows((len(images), *self.mean.shape), torch.float32, folder=folder_of(images))
        return fill_parts(found, self._residuals, images, rows_at_once(images))

    def _residuals(self, images: Tensor) -> Tensor:
        flat = self._flattened(images) - self.mean
        return F.normalize(flat.flatten(1), eps=1.0).view(flat.shape)

    def _flattened(self, images: Tensor) -> Tensor:
        """Divide by the local root mean square, so that no busy part of an image outshouts the rest."""
        height, width = self.scale.shape[1:]
        white = cosines(height).T @ (_transform(images, self.step) / self.scale) @ cosines(width)
        local = F.avg_pool2d(white.square().mean(1, keepdim=True), 5, 1, 2, count_include_pad=False).sqrt()
        return white / (local + local.mean((2, 3), keepdim=True) / 4 + 1e-2)


def reduction(size: Sequence[int]) -> int:
    """Compute how many pixels of a side are averaged into one, for a height and width."""
    return -(-max(size) // LARGEST_SIDE)


def as_colors(template: Tensor) -> Tensor:
    """Turn opponent colors back into red, green and blue: (3, h, w) -> (3, h, w)."""
    return torch.einsum("oc,ohw->chw", _COLORS, template)


def _transform(images: Tensor, step: int) -> Tensor:
    small = F.avg_pool2d(images.float(), step) if step > 1 else images.float()
    colors = torch.einsum("oc,nchw->nohw", _COLORS, small)
    return cosines(small.shape[2]) @ colors @ cosines(small.shape[3]).T


def _mean(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Average over images, in double precision."""
    parts = cut(len(images), rows_at_once(images))

    def total(number: Tensor) -> Tensor:
        found = function(images[parts[int(number)]]).double().sum(0)[None]
        release(images)
        return found

    sums = join_parts(total, torch.arange(len(parts)), 1)
    return sums.sum(0) / len(images)
