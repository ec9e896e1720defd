"""Describe images by a network that never saw the set: sequences of images in, features out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.data.mapped import cut, empty_rows, parts_of, release
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.hub.backbones import Backbone
from puregen_transforms.models.batch_invariance import BatchInvariant
from puregen_transforms.models.folding import fold_norms
from puregen_transforms.purifier.batches import default_batch_size, run_in_batches
from puregen_transforms.train.checkpoint import kept_tensors

PART = 1024
"""Images after which what is finished is kept."""

ENLARGED = 3
"""So many times their side images are enlarged, up to the network's own.

Of 2,000 images of CIFAR-10 enlarged to 64, 96, 128 and 224 pixels, 55, 65, 68 and 68 % have the class of most of their
ten neighbors; the time grows as 1, 3, 6 and 24. At 128 pixels as many wrong labels are found as at 96.
"""

_READ_PIXELS = 2**21
"""Enlarged pixels in memory at once: 24 MiB of float32."""

_BYTES_PER_PIXEL = 100
"""Of a network's widest activation, by pixel of its images: EfficientNet-Lite0 has 96, ResNet-50 64."""


def read_features(suspects: SuspectSet, backbone: Backbone, *, side: int) -> Tensor:
    """Compute the features of every image, which do not depend on the images beside it.

    Args:
        suspects: images of any sizes; their folder `state` keeps what is finished.
        backbone: the network.
        side: to which images are resized, whatever their shape.

    Returns:
        (N, D) float32 on the CPU, in a file if they are too many for the memory; NaN in rows without an image.

    Raises:
        ValueError: no image at all, or one that cannot be read; names the row.
        FloatingPointError: a feature is not finite.
    """
    reader = FeatureReader(backbone, side=side, device=suspects.device)
    features: Tensor | None = None
    for part in cut(len(suspects), PART):
        suspects.progress("reading features", part.start, len(suspects))
        images = [suspects.read(row) for row in range(part.start, part.stop)]
        if found := [image for image in images if image is not None]:
            folder = suspects.state and suspects.state / f"features-{reader.digest(found)}"
            own = kept_tensors(folder, partial(reader.read_tensors, found))["features"]
            if features is None:
                features = _no_features(len(suspects), own.shape[1], folder=suspects.state)
            present = torch.tensor([image is not None for image in images])
            if bad := present.nonzero().flatten()[~own.isfinite().all(1)].tolist():
                where = [part.start + row for row in bad[:8]]
                raise FloatingPointError(f"The features of the images in rows {where} are not finite.")
            features[part][present] = own
            release(features)
        release(suspects.images)
    suspects.progress("reading features", len(suspects), len(suspects))
    if features is None:
        raise ValueError("Expected at least one image, but got none.")
    return features


def _no_features(count: int, width: int, *, folder: Path | None) -> Tensor:
    features = empty_rows((count, width), torch.float32, folder=folder)
    for part in parts_of(features, PART):
        features[part] = torch.nan
    return features


class FeatureReader:
    """Resizes images and runs a backbone on them.

    Args:
        backbone: the network; it is moved to the device.
        side: to which images are resized.
        device: where to run.
    """

    def __init__(self, backbone: Backbone, *, side: int, device: torch.device) -> None:
        self.side, self.device = side, device
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
            for values in (backbone.mean, backbone.std)
        )
        network = backbone.network.to(device).to(memory_format=torch.channels_last)
        example = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
        self._network = BatchInvariant(fold_norms(network, example))
        self._about = f"{backbone.sha256} {backbone.mean} {backbone.std} {side} folded"

    def read(self, images: Sequence[Tensor]) -> Tensor:
        """Compute the features of (3, H, W) uint8 images of any sizes: (n, D) float32 on the CPU."""
        return torch.cat(list(self._read(images)))

    def read_tensors(self, images: Sequence[Tensor], folder: object = None) -> dict[str, Tensor]:
        """Compute the features for `kept_tensors`."""
        return {"features": self.read(images)}

    def digest(self, images: Sequence[Tensor]) -> str:
        """Name the features of these images by all that decides them but the machine."""
        found = hashlib.sha256(self._about.encode())
        for image in images:
            found.update(repr(tuple(image.shape)).encode())
            found.update(image.cpu().contiguous().numpy().data)
        return found.hexdigest()[:16]

    def _read(self, images: Sequence[Tensor]) -> Iterator[Tensor]:
        at_once = max(1, _READ_PIXELS // self.side**2)
        for start in range(0, len(images), at_once):
            some = images[start : start + at_once]
            resized = torch.empty(len(some), 3, self.side, self.side)
            for place, image in zip(resized, some, strict=True):
                place.copy_(resize(image, self.side))
            yield run_in_batches(
                self._run,
                resized,
                torch.zeros(len(resized)),
                device=self.device,
                batch_size=default_batch_size(_BYTES_PER_PIXEL * self.side**2, self.device),
            ).cpu()

    @torch.no_grad()
    def _run(self, images: Tensor, ids: Tensor) -> Tensor:
        normalized = ((images / 255 - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        return self._network(normalized).flatten(1).float()


def resize(image: Tensor, side: int) -> Tensor:
    """Resize (3, H, W) uint8 to (3, side, side) float32 of 0 to 255, by itself, so that no other image matters."""
    pixels = image[None].float()
    if image.shape[-2:] != (side, side):
        pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp_(0, 255)
    return pixels[0]


def side_for(suspects: SuspectSet, backbone: Backbone) -> int:
    """Choose to which side images are resized: `ENLARGED` times that of the first image, or the network's own.

    Raises:
        ValueError: the first image cannot be read.
    """
    if not backbone.any_side:
        return backbone.side
    first = next((image for row in range(len(suspects)) if (image := suspects.read(row)) is not None), None)
    if first is None:
        return backbone.side
    return min(backbone.side, 32 * -(-ENLARGED * min(first.shape[-2:]) // 32))
