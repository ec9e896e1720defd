"""Draw suspects: as they are, in small, purified, and with their energy."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from threading import Lock

import PIL.Image
from torch import Tensor

from puregen_transforms._files import write_atomically
from puregen_transforms.functional.images import rounded
from puregen_transforms.inspection.energy_section import AMPLIFY
from puregen_transforms.inspection.pictures import around_gray, as_image
from puregen_transforms.review.heat import Heat
from puregen_transforms.review.pixels import flat, png
from puregen_transforms.review.suspects import Suspect, Suspects
from puregen_transforms.transforms.formats import open_image
from puregen_transforms.transforms.puregen import PureGen

ORIGINAL, PURIFIED, CHANGE, ENERGY = "original", "purified", "change", "energy"
VIEWS = (ORIGINAL, PURIFIED, CHANGE, ENERGY)

THUMBNAILS = "thumbnails"
"""Folder of thumbnails in that of the report."""

_THUMBNAIL = 144
_KEPT = 64
"""Purified images kept in memory."""


class Views:
    """Pictures of suspects as PNG or WebP, made when they are first looked at.

    Args:
        suspects: to draw.
        thumbnails: folder in which thumbnails and energies stay, named by content.
        purifier: of the purified versions.
    """

    def __init__(self, suspects: Suspects, thumbnails: Path, purifier: PureGen) -> None:
        self._suspects = suspects
        self._folder = thumbnails
        self._purifier = purifier
        self._heat = Heat(suspects, thumbnails, purifier)
        self._one_at_a_time = Lock()
        self._purified = lru_cache(_KEPT)(self._purify)

    def thumbnail(self, suspect: Suspect) -> bytes:
        """Give a small picture, WebP; it is made once.

        Raises:
            ValueError: an image that cannot be read.
        """
        return self._thumbnail(suspect.row, suspect.sha256)

    def thumbnail_of(self, row: int) -> bytes:
        """Give a small picture of any image of the set, WebP.

        Raises:
            IndexError: no such row.
            ValueError: an image that cannot be read.
        """
        if not 0 <= row < len(self._suspects.pictures):
            raise IndexError(f"Expected one of {len(self._suspects.pictures)} rows, but got {row}.")
        return self._thumbnail(row, self._suspects.pictures.digest_of(row))

    def _thumbnail(self, row: int, digest: str | None) -> bytes:
        path = self._folder / f"{digest}.webp"
        if path.is_file():
            return path.read_bytes()
        image = flat(self._suspects.pictures[row])
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
                where it is higher than in most ordinary images, see `Heat`.

        Raises:
            ValueError: another kind, or an image that cannot be read, purified or measured.
        """
        if kind not in VIEWS:
            raise ValueError(f"Expected a view out of {', '.join(VIEWS)}, but got {kind!r}.")
        if kind == ORIGINAL:
            return png(flat(self._suspects.pictures[suspect.row]))
        if kind == ENERGY:
            return self._heat.draw(suspect)
        with self._one_at_a_time:
            purified = self._purified(suspect.sha256)
        if kind == PURIFIED:
            return png(purified)
        before, after = (
            rounded(open_image(image).rgb[0]).float()
            for image in (flat(self._suspects.pictures[suspect.row]), purified)
        )
        return png(as_image(around_gray(AMPLIFY * (after - before))))

    def purify(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Purify any image."""
        with self._one_at_a_time:
            purified: PIL.Image.Image = self._purifier(image)
            return purified

    def _purify(self, digest: str) -> PIL.Image.Image:
        purified: PIL.Image.Image = self._purifier(flat(self._suspects.pictures[self._suspects.by_digest[digest].row]))
        return purified


def mark_picture(picture: Tensor) -> bytes:
    """Draw the (4, h, w) uint8 picture of a mark, PNG."""
    return png(as_image(picture))
