"""A trained denoiser in the form that purifies: frozen, with packed convolutions, and large images in tiles."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.functional.memory import keep_freed_memory
from puregen_transforms.functional.tiles import tiles_of
from puregen_transforms.models.batch_invariance import BatchInvariant
from puregen_transforms.models.convolution import Convolution
from puregen_transforms.models.denoiser import Denoiser

_TILE_BYTES = 2**26
"""Bytes of the widest activation of a tile; five or six such are held at once."""

_USUAL_SIDE = 224


class FrozenDenoiser:
    """A `Denoiser` for purifying: same predictions, less work. It does not follow the model's later changes.

    A pixel of the result sees a known stretch of the image around it. Large images are taken in tiles with as much
    around them, which gives the same but for rounding, without seams, and keeps the memory small.

    Args:
        model: the trained network; copied, not modified.
        dtype: of weights and activations; images are float32.
        device: where to run; None is where the model is.
    """

    def __init__(
        self, model: Denoiser, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> None:
        self.config = model.config
        self.dtype = dtype
        self.device = torch.device(device or model.head.weight.device)
        self.bytes_per_pixel = max(
            -(-width * dtype.itemsize // 4 ** (level + 1)) for level, width in enumerate(self.config.widths)
        )
        self.side_multiple = self.config.side_multiple
        self.largest_tile = _TILE_BYTES // self.bytes_per_pixel
        self.margin = _margin(len(self.config.widths), self.config.blocks)
        if self.device.type == "cpu":
            keep_freed_memory()
        sides = [max(1, _USUAL_SIDE >> (level + 1)) for level in range(len(self.config.widths))]
        self._head = self._packed(model.head, sides[0])
        self._down = self._levels(model.down, sides)
        self._shrink = [self._packed(layer, side) for layer, side in zip(_layers(model.shrink), sides, strict=False)]
        self._middle = self._blocks(model.middle, sides[-1])
        self._grow = [self._packed(layer, side) for layer, side in zip(_layers(model.grow), sides[:0:-1], strict=True)]
        self._up = self._levels(model.up, sides[-2::-1])
        self._tail = self._packed(model.tail, sides[0])

    @torch.no_grad()
    def __call__(self, images: Tensor, level: float) -> Tensor:
        """Take noise off images.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1] and beyond.
            level: standard deviation of the noise, in the images' units; at 0 images stay as they are.

        Returns:
            (N, 3, H, W) float32.
        """
        if level == 0 or not len(images):
            return images
        height, width = images.shape[2:]
        multiple = self.side_multiple
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        tiles = tiles_of(*padded.shape[2:], largest=self.largest_tile, margin=self.margin, multiple=multiple)
        if len(tiles) == 1:
            return (padded - level * self._predict(padded, level))[..., :height, :width]
        restored = torch.empty_like(padded)
        for tile in tiles:
            seen = tile.seen(padded)
            rows, columns = tile.rows.within(tile.seen_rows), tile.columns.within(tile.seen_columns)
            own = (seen - level * self._predict(seen, level))[..., rows, columns]
            restored[..., tile.rows.of, tile.columns.of] = own
        return restored[..., :height, :width]

    def _predict(self, images: Tensor, level: float) -> Tensor:
        x = F.pixel_unshuffle(images, 2)
        x = torch.cat([x, torch.full_like(x[:, :1], level)], 1)
        x = self._head(x.to(self.dtype).contiguous(memory_format=torch.channels_last))
        passed = []
        for blocks, shrink in zip(self._down, self._shrink, strict=True):
            for block in blocks:
                x = block(x)
            passed.append(x)
            x = shrink(x)
        for block in self._middle:
            x = block(x)
        for grow, blocks in zip(self._grow, self._up, strict=True):
            x = F.pixel_shuffle(grow(x), 2).contiguous(memory_format=torch.channels_last).add_(passed.pop())
            for block in blocks:
                x = block(x)
        return F.pixel_shuffle(self._tail(x).float(), 2).contiguous()

    def _packed(self, layer: nn.Conv2d, side: int) -> Convolution:
        weight, bias = (
            None if values is None else values.detach().to(self.device, self.dtype, copy=True)
            for values in (layer.weight, layer.bias)
        )
        assert weight is not None
        stride = layer.stride[0]
        return Convolution(weight, bias, stride=stride, padding=0 if stride > 1 else None, side=side)

    def _blocks(self, blocks: Iterable[nn.Module], side: int) -> list[_Residual]:
        return [_Residual(self._packed(block.conv1, side), self._packed(block.conv2, side)) for block in blocks]  # type: ignore[arg-type]

    def _levels(self, levels: Iterable[nn.Module], sides: Iterable[int]) -> list[list[_Residual]]:
        return [self._blocks(blocks, side) for blocks, side in zip(levels, sides, strict=False)]  # type: ignore[arg-type]


class InvariantDenoiser(FrozenDenoiser):
    """A `FrozenDenoiser` whose result for an image does not depend on its batch; see `BatchInvariant`."""

    def __init__(
        self, model: Denoiser, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> None:
        super().__init__(model, dtype=dtype, device=device)
        self._each = BatchInvariant(super().__call__)

    def __call__(self, images: Tensor, level: float) -> Tensor:
        """Take noise off images; see `FrozenDenoiser`."""
        restored: Tensor = self._each(images, level)
        return restored


class _Residual:
    """Two convolutions, the ReLU and the sum in the same pass."""

    def __init__(self, first: Convolution, second: Convolution) -> None:
        self._first, self._second = first, second

    def __call__(self, x: Tensor) -> Tensor:
        return self._second(self._first(x, relu=True), plus=x)


def _margin(levels: int, blocks: int) -> int:
    """Count the pixels that the network sees beyond a pixel, to the next multiple of its coarsest cell.

    Two convolutions a block, on the way down and up, each seeing one cell further; the deepest level has one way; head
    and tail see one cell of the finest level, and a cell of any level that holds the pixel reaches up to its size away.
    """
    cell = 2**levels
    ways = [2 * 2 * blocks * 2 ** (level + 1) for level in range(levels - 1)]
    seen = sum(ways) + 2 * blocks * cell + 2 * 2 + cell
    return -(-seen // cell) * cell


def _layers(layers: nn.ModuleList) -> list[nn.Conv2d]:
    return [layer for layer in layers if isinstance(layer, nn.Conv2d)]
