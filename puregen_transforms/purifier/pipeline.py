"""The purifier: stages in order, on batches that fit, with the noise each sample is due."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.purifier.stages import Stage

_BATCH_PIXELS = {"cpu": 32 * 32 * 32, "cuda": 1024 * 32 * 32}
"""Pixels in a batch by default: past these, more images at once are not faster."""


class Purifier:
    """The stochastic transform of a list of stages.

    Args:
        stages: run in order, each on the whole of a batch.
        device: where to run them; images come back to where they were.
        batch_size: images in one network call; None chooses by their size.
    """

    def __init__(
        self, stages: Sequence[Stage], *, device: torch.device | str = "cpu", batch_size: int | None = None
    ) -> None:
        self.stages = tuple(stages)
        self.device = torch.device(device)
        self.batch_size = batch_size

    def __call__(self, images: Tensor, *, sample_ids: Tensor, seed: int) -> Tensor:
        """Purify images.

        Args:
            images: (N, 3, H, W), uint8 or float in [0, 1]; not modified.
            sample_ids: (N,) int64; with `seed`, they alone decide each image's noise.
            seed: of the noise.

        Returns:
            (N, 3, H, W) uint8, on the device of `images`.

        Raises:
            FloatingPointError: a chain stopped being finite.
        """

        def purify(batch: Tensor, ids: Tensor) -> Tensor:
            x = to_signed(batch)
            for index, stage in enumerate(self.stages):
                x = stage(x, KeyedNoise(seed, ids, index))
            return to_uint8(x)

        return run_in_batches(purify, images, sample_ids, device=self.device, batch_size=self.batch_size)


def run_in_batches(
    function: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    sample_ids: Tensor,
    *,
    device: torch.device,
    batch_size: int | None,
) -> Tensor:
    """Apply `function(images, ids)` to batches on `device` and join the results where the images were."""
    size = batch_size or default_batch_size(images.shape[-2] * images.shape[-1], device)
    parts = [
        function(images[start : start + size].to(device), sample_ids[start : start + size].to(device))
        for start in range(0, max(1, len(images)), size)  # an empty batch, too, has a result of the right type
    ]
    return torch.cat([part.to(images.device) for part in parts])


def default_batch_size(pixels: int, device: torch.device) -> int:
    """How many images of so many pixels to purify at once."""
    return max(1, _BATCH_PIXELS.get(device.type, _BATCH_PIXELS["cpu"]) // pixels)
