"""Draw where the energy of an image sits, measured by what is ordinary in its set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.functional.images import rgb_to_gray, to_pixels

FROM, TO = 0.9, 0.999
"""Shares of the cells of ordinary images that are cooler than what begins to glow, and than what glows most."""

_CELLS = 2**20
"""That are looked at, at most: evenly out of more."""

_FAINT, _STRONG = 0.35, 0.8
_YELLOW, _RED = (255.0, 214.0, 10.0), (214.0, 20.0, 20.0)


@dataclass(frozen=True)
class Scale:
    """Energies of cells from which on they glow, and at which they glow most.

    Args:
        cool: is drawn as heat 0.
        hot: is drawn as heat 1.
    """

    cool: float
    hot: float

    @classmethod
    def of(cls, ordinary: Iterable[Tensor]) -> Scale:
        """Take the scale from energy maps of ordinary images, each (..., h, w)."""
        cells = torch.cat([one.flatten() for one in ordinary])
        some = cells[:: -(-len(cells) // _CELLS)]
        cool, hot = some.quantile(torch.tensor([FROM, TO])).tolist()
        return cls(cool, hot)

    def heat(self, energies: Tensor) -> Tensor:
        """Bring energies of cells to heat: 0 and less is ordinary, 1 and more glows most."""
        return (energies - self.cool) / max(self.hot - self.cool, 1e-12)


def glowing(image: Tensor, heat: Tensor) -> Tensor:
    """Lay heat over a gray image, half transparent, from yellow to red.

    Args:
        image: (3, H, W) uint8, to draw on, in gray.
        heat: (h, w) of parts of the image: 0 and less leave it as it is, 1 and more are red.

    Returns:
        (3, H, W) uint8.
    """
    height, width = image.shape[1:]
    cell = min(height // heat.shape[0], width // heat.shape[1])
    covered = [cell * side for side in heat.shape]
    smooth = F.interpolate(heat[None, None], size=covered, mode="bilinear")[0]
    smooth = F.pad(smooth, (0, width - covered[1], 0, height - covered[0]), mode="replicate")
    strength = smooth.clamp(0, 1)
    opacity = torch.where(smooth > 0, _FAINT + (_STRONG - _FAINT) * strength, 0)
    yellow, red = (torch.tensor(color).view(3, 1, 1) for color in (_YELLOW, _RED))
    gray = rgb_to_gray(image[None])[0]
    return to_pixels(gray * (1 - opacity) + (yellow + (red - yellow) * strength) * opacity)
