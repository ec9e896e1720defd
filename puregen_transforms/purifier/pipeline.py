"""The purifier: stages in order, on batches that fit, with the noise each sample is due."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.memory import make_room_beside
from puregen_transforms.functional.noise import KeyedNoise, Window
from puregen_transforms.functional.tiles import Tile, tiles_of
from puregen_transforms.purifier.batches import (
    LEAST_BYTES_PER_PIXEL,
    default_batch_size,
    on_single_threads,
    run_in_batches,
)
from puregen_transforms.purifier.stages import REACH_MULTIPLE, Stage

_LARGEST_WHOLE = 2**20
"""Pixels of an image that is purified as a whole, if its stages can also do with tiles."""
_TILE_PIXELS = 2**19


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
        reaches = [reach for stage in self.stages if (reach := getattr(stage, "reach", None)) is not None]
        self._reach = sum(reaches) if len(reaches) == len(self.stages) else None

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
        if not len(images):  # not every network takes an empty batch
            return images.to(torch.uint8)
        if self._reach is not None and images.shape[-2] * images.shape[-1] > _LARGEST_WHOLE:
            each = zip(images.split(1), sample_ids.split(1), strict=True)
            return torch.cat([self._in_tiles(image, id_, seed, self._reach) for image, id_ in each])
        size = self.batch_size or self._default_batch_size(images.shape[-2] * images.shape[-1])
        return run_in_batches(
            lambda batch, ids: self._purify(batch, ids, seed),
            images,
            sample_ids,
            device=self.device,
            batch_size=size,
        )

    def _purify(self, images: Tensor, sample_ids: Tensor, seed: int, window: Window | None = None) -> Tensor:
        """Run the stages on images, or on what a window shows of larger ones: (N, 3, H, W) -> the same, in uint8."""
        make_room_beside(images)
        x = to_signed(images)
        for index, stage in enumerate(self.stages):
            x = stage(x, KeyedNoise(seed, sample_ids, index, window=window))
        return to_uint8(x)

    def _in_tiles(self, image: Tensor, sample_id: Tensor, seed: int, reach: int) -> Tensor:
        """Purify one image in tiles, with the noise that the whole has: the same but for rounding, in little memory."""
        height, width = image.shape[-2:]
        margin = -(-reach // REACH_MULTIPLE) * REACH_MULTIPLE
        purified = torch.empty(image.shape, dtype=torch.uint8, device=image.device)

        def purify(tile: Tile) -> None:
            make_room_beside(image)
            window = Window(tile.seen_rows.start, tile.seen_columns.start, height, width)
            seen = self._purify(tile.seen(image).to(self.device), sample_id.to(self.device), seed, window)
            rows, columns = tile.rows.within(tile.seen_rows), tile.columns.within(tile.seen_columns)
            purified[..., tile.rows.of, tile.columns.of] = seen[..., rows, columns].to(image.device)

        tiles = tiles_of(height, width, largest=_TILE_PIXELS, margin=margin, multiple=REACH_MULTIPLE)
        if self.device.type == "cpu":
            on_single_threads(purify, tiles)
        else:
            for tile in tiles:
                purify(tile)
        return purified

    def _default_batch_size(self, pixels: int) -> int:
        widest = max((getattr(stage, "bytes_per_pixel", 0) for stage in self.stages), default=0)
        return default_batch_size(pixels * max(widest, LEAST_BYTES_PER_PIXEL), self.device)
