"""The purifier: stages in order, on batches that fit, with the noise each sample is due."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.purifier.batches import LEAST_BYTES_PER_PIXEL, default_batch_size, run_in_batches
from puregen_transforms.purifier.stages import Stage


class Purifier:
    """The stochastic transform of a list of stages.

    Args:
        stages: run in order, each on the whole of a batch.
        device: where to run them; images come back to where they were.
        batch_size: images in one network call; None chooses, see `default_batch_size`.
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

        if not len(images):  # not every network takes an empty batch
            return images.to(torch.uint8)
        size = self.batch_size or self._default_batch_size(images.shape[-2] * images.shape[-1])
        return run_in_batches(purify, images, sample_ids, device=self.device, batch_size=size)

    def _default_batch_size(self, pixels: int) -> int:
        widest = max((getattr(stage, "bytes_per_pixel", 0) for stage in self.stages), default=0)
        return default_batch_size(pixels * max(widest, LEAST_BYTES_PER_PIXEL), self.device)
