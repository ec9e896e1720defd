"""The form in which a trained energy network is run: frozen, folded, with its own input gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.functional.memory import keep_freed_memory, largest_beside, make_room_beside
from puregen_transforms.functional.tiles import Tile, tiles_of
from puregen_transforms.models.batch_invariance import BatchInvariant
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.convolution import (
    Convolution,
    TransposedConvolution,
    fold_mean_pool,
    turned,
)
from puregen_transforms.models.ebm import EBM, Block, DownBlock, FirstBlock

_Freeze = Callable[[Tensor], Tensor]

_TILE_BYTES = 2**26
"""Bytes of the widest activation of a tile; five or six such are held at once."""


class FrozenEBM:
    """An `EBM` for purifying: same energies, far less work. It does not follow the model's later changes.

    A 3x3 convolution followed by a 2x2 mean pool is one 4x4 convolution of stride 2 whose kernel is the mean of the
    four shifted 3x3 kernels, so both pooled convolutions are folded (exact up to float rounding). The gradient in the
    images is written out below, so that nothing is done for the weights' gradients and each ReLU keeps one tensor.
    Activations and gradients inside are of `dtype`; images, energies and the gradient that comes out are float32.
    Large images are taken in tiles, which gives the same but for rounding, and keeps the memory small.

    Args:
        model: the trained network; copied, not modified.
        dtype: arithmetic of the convolutions.
        device: where to run; None is where the model is.
    """

    def __init__(
        self, model: EBM, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> None:
        self.config: EBMConfig = model.config
        self.dtype = dtype
        self.bytes_per_pixel = -(-self.config.nf * dtype.itemsize // self.config.patch_size**2)
        self.largest_tile = _TILE_BYTES // self.bytes_per_pixel
        self.device = torch.device(device) if device is not None else model.l5.weight.device

        if self.device.type == "cpu":
            keep_freed_memory()

        def frozen(values: Tensor) -> Tensor:
            return values.detach().to(self.device, dtype, copy=True)

        side = self.config.image_size // self.config.patch_size
        with torch.no_grad():
            self._block1 = _Down.build(model.block1, frozen, side)
            self._block2 = _Down.build(model.block2, frozen, side // 2)
            self._block3 = _Same.build(model.block3, frozen, side // 4)
            self._block4 = _Same.build(model.block4, frozen, side // 4)
            self._last = model.l5.weight.detach()[0].to(self.device, torch.float32, copy=True)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Measure energies: (N, 3, H, W) float32 in [-1, 1] -> (N,) float32, without a graph."""
        if not len(images):
            return images.new_zeros(0)
        cell, tiles = self._tiles(images)
        if len(tiles) == 1:
            return self._energies(self._forward(images)[-1].relu().float().mean((2, 3)))
        sums = []
        for tile in tiles:
            make_room_beside(images)
            sums.append(self._sums(self._forward(tile.seen(images))[-1].relu(), tile, cell))
        return self._energies(torch.stack(sums).sum(0) / _cells(images, cell))

    @torch.no_grad()
    def map(self, images: Tensor) -> Tensor:
        """Measure the energy of each part of images.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1].

        Returns:
            (N, h, w) float32: the energy of each cell of 4x4 pixels (times `config.patch_size`); what is left over at
            the bottom and at the right has none of its own. The mean over an image is its energy.
        """
        cell, tiles = self._tiles(images)
        height, width = (side // cell for side in images.shape[2:])
        found = images.new_empty(len(images), height, width)
        for tile in tiles if len(images) else ():  # not every kernel takes none
            make_room_beside(images)
            last = self._own_cells(self._forward(tile.seen(images))[-1].relu(), tile, cell)
            top, left = tile.rows.start // cell, tile.columns.start // cell
            part = (last * self._last.view(-1, 1, 1)).sum(1)
            found[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        return found

    @torch.no_grad()
    def with_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Measure energies and their gradients.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1].

        Returns:
            (N,) energies and (N, 3, H, W) the gradient of each in its image, both float32.
        """
        if not len(images):  # not every kernel takes none
            return images.new_zeros(0), torch.zeros_like(images)
        cell, tiles = self._tiles(images)
        cells = _cells(images, cell)
        if len(tiles) == 1:
            last, gradient = self._backward(images, cells)
            return self._energies(last.float().mean((2, 3))), gradient
        gradients, sums = torch.empty_like(images), []
        for tile in tiles:
            make_room_beside(images)
            last, g = self._backward(tile.seen(images), cells)
            sums.append(self._sums(last, tile, cell))
            rows, columns = tile.rows.within(tile.seen_rows), tile.columns.within(tile.seen_columns)
            gradients[..., tile.rows.of, tile.columns.of] = g[..., rows, columns]
        return self._energies(torch.stack(sums).sum(0) / cells), gradients

    def _tiles(self, images: Tensor) -> tuple[int, list[Tile]]:
        """Cut images into tiles, whose borders are those of cells: the pixels that have one last feature.

        The energy is a mean over the cells, so a pixel's gradient comes from cells near it alone: a last feature sees
        22 pixels beyond its cell. What lies more than twice as far away changes nothing.
        """
        cell = 4 * self.config.patch_size
        height, width = images.shape[2:]
        margin = 12 * cell
        largest = largest_beside(images, self.largest_tile)
        return cell, tiles_of(height, width, largest=largest, margin=margin, multiple=cell)

    def _backward(self, images: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        """Compute the last features, and the gradient of their mean over so many cells, weighted as the energy is."""
        first, second, third, fourth, features = self._forward(images)
        last = features.relu_()
        slope = (self._last / cells).to(self.dtype).view(1, -1, 1, 1)
        g = slope.expand_as(last).contiguous(memory_format=torch.channels_last)
        g = _where_positive(g, last)
        g = self._block4.backward(g, fourth)
        g = self._block3.backward(g, third)
        g = self._block2.backward(g, second)
        g = self._block1.backward(g, first).float()
        if self.config.patch_size > 1:
            g = F.pixel_shuffle(g, self.config.patch_size)
        return last, g

    def _forward(self, images: Tensor) -> tuple[_Kept, _Kept, _Kept, _Kept, Tensor]:
        if self.config.patch_size > 1:
            images = F.pixel_unshuffle(images, self.config.patch_size)
        x = images.to(self.dtype).contiguous(memory_format=torch.channels_last)
        x, first = self._block1.forward(x, x)
        x, second = self._block2.forward(x, x.relu())
        x, third = self._block3.forward(x, x.relu())
        x, fourth = self._block4.forward(x, x.relu())
        return first, second, third, fourth, x

    def _energies(self, means: Tensor) -> Tensor:
        # Not a matrix product, which rounds differently with its number of rows.
        return (means * self._last).sum(1)

    def _sums(self, last: Tensor, tile: Tile, cell: int) -> Tensor:
        """Add up the last features of a tile's own cells: (N, nf) float32."""
        return self._own_cells(last, tile, cell).sum((2, 3))

    @staticmethod
    def _own_cells(last: Tensor, tile: Tile, cell: int) -> Tensor:
        """Choose the last features of a tile's own cells: (N, nf, h, w) float32."""
        rows = tile.rows.within(tile.seen_rows, divided_by=cell)
        columns = tile.columns.within(tile.seen_columns, divided_by=cell)
        return last[..., rows, columns].float()


class InvariantEBM(FrozenEBM):
    """A `FrozenEBM` whose result for an image does not depend on its batch; see `BatchInvariant`."""

    def __init__(
        self, model: EBM, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> None:
        super().__init__(model, dtype=dtype, device=device)
        self._each_energy = BatchInvariant(super().__call__)
        self._each_map = BatchInvariant(super().map)
        self._each_gradient = BatchInvariant(super().with_gradient)

    def __call__(self, images: Tensor) -> Tensor:
        """Measure energies; see `FrozenEBM`."""
        return self._each_energy(images)

    def map(self, images: Tensor) -> Tensor:
        """Measure the energy of each part of images; see `FrozenEBM`."""
        return self._each_map(images)

    def with_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Measure energies and their gradients; see `FrozenEBM`."""
        return self._each_gradient(images)


class _Kept(NamedTuple):
    """The values of a block's forward pass that its backward pass needs."""

    inner: Tensor
    """After the inner ReLU."""
    entry: Tensor
    """The input of the first convolution: after the outer ReLU, or the image itself."""


@dataclass(frozen=True)
class _Down:
    """`FirstBlock` or `DownBlock`, its pool folded into the second convolution."""

    first: Convolution
    folded: Convolution
    shortcut: Convolution
    first_back: Convolution
    folded_back: TransposedConvolution
    shortcut_back: Convolution
    sees_image: bool

    @classmethod
    def build(cls, block: FirstBlock | DownBlock, frozen: _Freeze, side: int) -> _Down:
        folded = fold_mean_pool(block.c2.weight)
        half = side // 2
        return cls(
            Convolution(frozen(block.c1.weight), frozen(_bias(block.c1)), side=side),
            Convolution(frozen(folded), frozen(_bias(block.c2)), stride=2, side=side),
            Convolution(frozen(block.c_sc.weight), frozen(_bias(block.c_sc)), side=half),
            Convolution(frozen(turned(block.c1.weight)), side=side),
            TransposedConvolution(frozen(folded), side=half),
            Convolution(frozen(turned(block.c_sc.weight) / 4), side=half),
            sees_image=isinstance(block, FirstBlock),
        )

    def forward(self, x: Tensor, entry: Tensor) -> tuple[Tensor, _Kept]:
        inner = self.first(entry, relu=True)
        return self.folded(inner, plus=self.shortcut(F.avg_pool2d(x, 2))), _Kept(inner, entry)

    def backward(self, g: Tensor, kept: _Kept) -> Tensor:
        size = kept.entry.shape[2:]
        inner = _where_positive(self.folded_back(g, size), kept.inner)
        entry = self.first_back(inner)
        if not self.sees_image:
            entry = _where_positive(entry, kept.entry)
        spread = F.interpolate(self.shortcut_back(g), scale_factor=2)
        if spread.shape[2:] != size:  # the pool drops the last row or column of an odd size
            spread = F.pad(spread, (0, size[1] % 2, 0, size[0] % 2))
        return entry.add_(spread)


@dataclass(frozen=True)
class _Same:
    """`Block`, with both convolutions packed."""

    first: Convolution
    second: Convolution
    first_back: Convolution
    second_back: Convolution

    @classmethod
    def build(cls, block: Block, frozen: _Freeze, side: int) -> _Same:
        return cls(
            Convolution(frozen(block.c1.weight), frozen(_bias(block.c1)), side=side),
            Convolution(frozen(block.c2.weight), frozen(_bias(block.c2)), side=side),
            Convolution(frozen(turned(block.c1.weight)), side=side),
            Convolution(frozen(turned(block.c2.weight)), side=side),
        )

    def forward(self, x: Tensor, entry: Tensor) -> tuple[Tensor, _Kept]:
        inner = self.first(entry, relu=True)
        return self.second(inner, plus=x), _Kept(inner, entry)

    def backward(self, g: Tensor, kept: _Kept) -> Tensor:
        inner = _where_positive(self.second_back(g), kept.inner)
        return _where_positive(self.first_back(inner), kept.entry).add_(g)


def _cells(images: Tensor, cell: int) -> int:
    return (images.shape[2] // cell) * (images.shape[3] // cell)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _where_positive(gradient: Tensor, activation: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, activation, 0)
