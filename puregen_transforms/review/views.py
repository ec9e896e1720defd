"""Draw suspects: as they are, in small, purified, and as the energy network sees them."""

from __future__ import annotations

import io
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from puregen_transforms._files import write_atomically
from puregen_transforms.detection.energy import load_energy, open_meter
from puregen_transforms.functional.images import rounded
from puregen_transforms.inspection.energy_section import AMPLIFY
from puregen_transforms.inspection.pictures import around_gray
from puregen_transforms.purifier.device import choose_device
from puregen_transforms.review.suspects import Suspect, Suspects
from puregen_transforms.transforms.formats import open_image
from puregen_transforms.transforms.puregen import PureGen

ORIGINAL, PURIFIED, CHANGE, ENERGY = "original", "purified", "change", "energy"
VIEWS = (ORIGINAL, PURIFIED, CHANGE, ENERGY)

THUMBNAILS = "thumbnails"
"""Folder of thumbnails in that of the report."""

_THUMBNAIL, _LARGEST = 144, 1024
_KEPT = 64
"""Purified images kept in memory."""


class Views:
    """Pictures of suspects as PNG or WebP, made when they are first looked at.

    Args:
        suspects: to draw.
        thumbnails: folder in which thumbnails stay, named by content.
        purifier: of the purified versions.
    """

    def __init__(self, suspects: Suspects, thumbnails: Path, purifier: PureGen) -> None:
        self._suspects = suspects
        self._folder = thumbnails
        self._purifier = purifier
        self._one_at_a_time = Lock()
        self._purified = lru_cache(_KEPT)(self._purify)

    def thumbnail(self, suspect: Suspect) -> bytes:
        """Give a small picture, WebP; it is made once.

        Raises:
            ValueError: an image that cannot be read.
        """
        path = self._folder / f"{suspect.sha256}.webp"
        if path.is_file():
            return path.read_bytes()
        image = _flat(self._suspects.pictures[suspect.row])
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", lossless=max(image.size) <= 64, quality=88)
        write_atomically(path, buffer.getvalue())
        return buffer.getvalue()

    def view(self, suspect: Suspect, kind: str) -> bytes:
        """Draw a suspect, PNG.

        Args:
            suspect: to draw.
            kind: "original"; "purified"; "change", four times what purification changes, around gray; or "energy":
                how strongly each pixel pulls the energy, brighter is stronger.

        Raises:
            ValueError: another kind, or an image that cannot be read, purified or measured.
        """
        if kind not in VIEWS:
            raise ValueError(f"Expected a view out of {', '.join(VIEWS)}, but got {kind!r}.")
        if kind == ORIGINAL:
            return _png(_flat(self._suspects.pictures[suspect.row]))
        with self._one_at_a_time:
            if kind == ENERGY:
                return _png(_as_image(self._pull(suspect)))
            purified = self._purified(suspect.sha256)
        if kind == PURIFIED:
            return _png(purified)
        before, after = (
            rounded(open_image(image).rgb[0]).float()
            for image in (_flat(self._suspects.pictures[suspect.row]), purified)
        )
        return _png(_as_image(around_gray(AMPLIFY * (after - before))))

    def purify(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Purify any image."""
        with self._one_at_a_time:
            purified: PIL.Image.Image = self._purifier(image)
            return purified

    def _purify(self, digest: str) -> PIL.Image.Image:
        purified: PIL.Image.Image = self._purifier(_flat(self._suspects.pictures[self._suspects.by_digest[digest].row]))
        return purified

    def _pull(self, suspect: Suspect) -> Tensor:
        """Draw the length of the energy's gradient at each pixel: (3, H, W) uint8."""
        meter = open_meter([self._suspects.pictures[suspect.row]], self._network, device=choose_device(None))
        gradient = meter.gradients([0])[0][0].float()
        length = gradient.square().sum(0).sqrt()
        bright = (255 * length / length.quantile(0.995).clamp_min(1e-12)).clamp(0, 255).round().to(torch.uint8)
        return bright.expand(3, -1, -1)

    @cached_property
    def _network(self) -> Any:
        return load_energy(None)


def mark_picture(picture: Tensor) -> bytes:
    """Draw the (4, h, w) uint8 picture of a mark, PNG."""
    return _png(_as_image(picture))


def _flat(image: Any) -> PIL.Image.Image:
    """Make an opaque color image of one of any kind that can be purified."""
    if not isinstance(image, PIL.Image.Image):
        raise ValueError("Expected an image, but the row has none.")
    return image.convert("RGB")


def _as_image(pixels: Tensor) -> PIL.Image.Image:
    return PIL.Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _png(image: PIL.Image.Image) -> bytes:
    image = image.copy()
    image.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
