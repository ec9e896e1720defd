"""Square patches of images of any size, at several scales, to train on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.functional.images import to_signed


class Patches:
    """Sets of images that are drawn from in turn.

    Args:
        sets: each of (3, H, W) uint8 images, of any sizes.
        side: of a patch, in pixels; a set with smaller images gives smaller patches.
        multiple: of which the side of a patch is, in pixels.
        most_reduced: by how much a patch of a large image may be reduced. How much it is, is drawn for each.
    """

    def __init__(
        self, sets: Sequence[Sequence[Tensor]], *, side: int, multiple: int = 1, most_reduced: float = 4.0
    ) -> None:
        self.sets = [list(images) for images in sets]
        if not self.sets or not all(self.sets):
            raise ValueError("Expected at least one image in each training set, but got none.")
        for images in self.sets:
            wrong = next((one for one in images if one.dtype != torch.uint8 or one.ndim != 3 or len(one) != 3), None)
            if wrong is not None:
                raise ValueError(
                    f"Expected training images of dtype uint8 and shape (3, H, W), but got {wrong.dtype} "
                    f"{tuple(wrong.shape)}."
                )
        self.most_reduced = most_reduced
        smallest = [min(min(one.shape[1:]) for one in images) for images in self.sets]
        self._sides = [min(side, length) // multiple * multiple for length in smallest]
        if not all(self._sides):
            raise ValueError(f"Expected images and patches of at least {multiple} pixels, but got {min(smallest)}.")

    def __len__(self) -> int:
        return sum(len(images) for images in self.sets)

    def side_of(self, number: int) -> int:
        """Give the side of the patches of a set, in pixels."""
        return self._sides[number % len(self.sets)]

    def draw(self, number: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw patches of a set, every second one mirrored.

        Args:
            number: of the set; counted on from the last one, they come in turn.
            count: patches.
            generator: of all draws.

        Returns:
            (count, 3, S, S) float in [-1, 1], S of `side_of`.
        """
        images, side = self.sets[number % len(self.sets)], self.side_of(number)
        rows = torch.randint(len(images), (count,), generator=generator).tolist()
        places = torch.rand(count, 4, generator=generator).tolist()
        cut = [self._cut(images[row], side, *place) for row, place in zip(rows, places, strict=True)]
        return to_signed(torch.stack(cut))

    def _cut(self, image: Tensor, side: int, scale: float, down: float, right: float, turn: float) -> Tensor:
        """Cut one patch: (3, H, W) -> (3, side, side) uint8; the draws are in [0, 1)."""
        height, width = image.shape[1:]
        seen = round(side * min(self.most_reduced, min(height, width) / side) ** scale)
        top, left = int(down * (height - seen + 1)), int(right * (width - seen + 1))
        patch = image[:, top : top + seen, left : left + seen]
        if seen > side:
            small = F.interpolate(patch[None].float(), (side, side), mode="bilinear", antialias=True)
            patch = small[0].round().clamp(0, 255).to(torch.uint8)
        return patch.flip(2) if turn < 0.5 else patch
