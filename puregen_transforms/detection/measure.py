"""Energies and energy gradients of a set of images that is never in memory as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from puregen_transforms._limits import LARGEST_IMAGE
from puregen_transforms._progress import Progress
from puregen_transforms.data.mapped import release
from puregen_transforms.detection.statistics import thumbnails
from puregen_transforms.functional.images import to_signed
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.purifier.batches import default_batch_size, run_in_batches
from puregen_transforms.transforms.formats import open_image

KEPT_BYTES = 2**29
"""Gradients kept for images that are looked at again, as half-precision numbers."""

CHUNK_PIXELS = 2**22
"""Pixels of images read at once, as 8-bit numbers; one network call's share of them becomes float32."""


class ImageMeter:
    """Measures images of a sequence by their row.

    Args:
        images: (N, C, H, W) tensor, or a sequence of images in any form `PureGen` takes; None stands for no image.
        network: float32 energies.
        smallest: shortest side the network takes, in pixels.
        device: where to run.
        batch_size: images in one network call; None chooses by their size.
    """

    def __init__(
        self,
        images: Sequence[Any] | Tensor,
        network: FrozenEBM,
        *,
        smallest: int,
        device: torch.device,
        batch_size: int | None = None,
    ) -> None:
        self.images = images
        self.network = network
        self.device = device
        self._smallest = smallest
        self._batch_size = batch_size
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: Sequence[int]) -> list[Tensor | None]:
        """Read images as (3, H, W), uint8 or float in [0, 1].

        Raises:
            ValueError: an image that cannot be read or measured; names the row.
        """
        return [self._read_one(row) for row in rows]

    def batch(self, rows: Sequence[int]) -> Tensor:
        """Read images of one size in [-1, 1]: (n, 3, H, W) float32 on the device."""
        found: Tensor | None = None
        for place, row in enumerate(rows):
            image = self._read_one(row)
            assert image is not None
            if found is None:
                found = torch.empty(len(rows), *image.shape, device=self.device)
            found[place] = to_signed(image)
        assert found is not None
        return found

    def energies(self, progress: Progress, rows: range | None = None) -> tuple[Tensor, list[tuple[int, int] | None]]:
        """Energy and size (height, width) of every image, in order.

        Args:
            progress: told what is being done.
            rows: to measure, one after the other; None is all.

        Returns:
            (N,) float32 with NaN where there is no image, and the sizes with None there.

        Raises:
            ValueError: see `read`.
            FloatingPointError: an energy that is not finite.
        """
        rows = range(len(self)) if rows is None else rows
        energies = torch.full((len(rows),), float("nan"))
        sizes: list[tuple[int, int] | None] = [None] * len(rows)
        done = 0
        progress("measuring energies", done, len(rows))
        for chunk in self._chunks(rows):
            members: dict[tuple[int, int], list[int]] = {}
            for row, image in chunk.items():
                if image is not None:
                    size = sizes[row - rows.start] = (image.shape[-2], image.shape[-1])
                    members.setdefault(size, []).append(row)
            done += sum(image is None for image in chunk.values())
            for size, own in members.items():
                for part in _cut(own, self.at_once(size)):
                    batch = torch.stack([to_signed(image) for row in part if (image := chunk[row]) is not None])
                    energies[torch.tensor(part) - rows.start] = self._in_batches(self.network, batch)
                    done += len(part)
                    progress("measuring energies", done, len(rows))
        missing = torch.tensor([size is None for size in sizes], dtype=torch.bool)
        bad = (~energies.isfinite() & ~missing).nonzero().flatten() + rows.start
        if len(bad):
            raise FloatingPointError(
                f"The energy of the image(s) in row {bad[:8].tolist()} is not finite. "
                "Check that the images are finite and that the checkpoint fits them."
            )
        return energies, sizes

    def gradients(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Gradient of the energy in the pixels, and thumbnails, of images of one size.

        Returns:
            (n, 3, H, W) float16, each scaled to a root mean square of 1, and (n, E); both on the CPU.
        """
        missing = [row for row in rows if row not in self._kept]
        fresh: dict[int, tuple[Tensor, Tensor]] = {}
        for chunk in self._chunks(missing):
            batch = torch.stack([to_signed(image) for image in chunk.values() if image is not None])
            directions = self.directions(batch).half().cpu()
            # Copies, as slices would keep their whole batch alive.
            pairs = zip(directions.unbind(), thumbnails(batch).cpu().unbind(), strict=True)
            fresh.update(zip(chunk, ((one.clone(), picture.clone()) for one, picture in pairs), strict=True))
        found = [self._kept.get(row) or fresh[row] for row in rows]
        self._keep(fresh)
        return torch.stack([direction for direction, _ in found]), torch.stack([picture for _, picture in found])

    def maps(self, rows: Sequence[int]) -> Tensor:
        """Measure where in images of one size the energy sits: (n, h, w) on the CPU; see `FrozenEBM.map`."""
        batches = (
            torch.stack([to_signed(image) for image in chunk.values() if image is not None])
            for chunk in self._chunks(rows)
        )
        return torch.cat([self._in_batches(self.network.map, batch).cpu() for batch in batches])

    def directions(self, images: Tensor) -> Tensor:
        """Energy gradients of (N, 3, H, W) images in [-1, 1], each scaled to a root mean square of 1."""
        return self._in_batches(self._directions_of, images)

    def _directions_of(self, images: Tensor) -> Tensor:
        _, gradient = self.network.with_gradient(images)
        return gradient / gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)

    def _keep(self, fresh: dict[int, tuple[Tensor, Tensor]]) -> None:
        for row, (direction, picture) in fresh.items():
            size = 2 * direction.numel() + 4 * picture.numel()
            if self._kept_bytes + size > KEPT_BYTES:
                return
            self._kept[row] = (direction, picture)
            self._kept_bytes += size

    def _chunks(self, rows: Sequence[int]) -> Iterator[dict[int, Tensor | None]]:
        """Read the images of some rows, as many at once as `CHUNK_PIXELS` allows."""
        chunk: dict[int, Tensor | None] = {}
        pixels = 0
        for row in rows:
            image = chunk[row] = self._read_one(row)
            pixels += 0 if image is None else image.shape[-2] * image.shape[-1]
            if pixels >= CHUNK_PIXELS:
                yield chunk
                chunk, pixels = {}, 0
                release(self.images)
        if chunk:
            yield chunk
        release(self.images)

    def _in_batches(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return run_in_batches(
            lambda batch, _: function(batch),
            images,
            torch.zeros(len(images), dtype=torch.int64),
            device=self.device,
            batch_size=self._size_of_batches(images.shape[-2:]),
        )

    def at_once(self, size: Sequence[int]) -> int:
        """Count the images of a (height, width) that keep all threads busy."""
        return torch.get_num_threads() * self._size_of_batches(size)

    def _size_of_batches(self, size: Sequence[int]) -> int:
        pixels = size[0] * size[1]
        return self._batch_size or default_batch_size(pixels * self.network.bytes_per_pixel, self.device)

    def _read_one(self, row: int) -> Tensor | None:
        try:
            value = self.images[row]
            image = None if value is None else open_image(value).rgb
        except (ValueError, TypeError, OSError, SyntaxError) as error:
            raise ValueError(
                f"Expected an image that can be read in row {row}, but got: {error} Repair or remove it."
            ) from error
        if image is None:
            return None
        if image.shape[0] != 1 or min(image.shape[-2:]) < self._smallest:
            raise ValueError(
                f"Expected one image of at least {self._smallest}x{self._smallest} pixels in row {row}, "
                f"but got {tuple(image.shape)}. Repair or remove it."
            )
        if image.shape[-2] * image.shape[-1] > LARGEST_IMAGE:
            raise ValueError(
                f"Expected an image of at most {LARGEST_IMAGE:,} pixels in row {row}, but got "
                f"{image.shape[-1]}x{image.shape[-2]}. Resize it to the size you train on (--size), or leave it out."
            )
        return image[0]


def _cut(rows: Sequence[int], length: int) -> Iterator[Sequence[int]]:
    return (rows[start : start + length] for start in range(0, len(rows), length))


def commonest_size(sizes: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Find the size (height, width) that most images have; None if there is no image."""
    counted = Counter(size for size in sizes if size is not None)
    return counted.most_common(1)[0][0] if counted else None
