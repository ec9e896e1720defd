"""Draw where the energy of an image sits, measured by what is ordinary in its set."""

from __future__ import annotations

import hashlib
import io
from functools import cached_property
from pathlib import Path
from threading import Lock

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms._files import write_atomically
from puregen_transforms.detection.look_alikes import evenly
from puregen_transforms.review.pixels import as_image, flat
from puregen_transforms.review.suspects import Suspect, Suspects
from puregen_transforms.transforms.puregen import PureGen

LARGEST = 512
"""Longest side, in pixels, to which images are reduced before they are measured."""

FROM, TO = 0.9, 0.999
"""Shares of the cells of ordinary images that are cooler than what begins to glow, and than what glows most."""

_ORDINARY, _LEAST = 64, 8
"""Images that are measured to know what is ordinary: so many; of large ones fewer, but so many at least."""

_CELLS = 2**14
_FAINT, _STRONG = 0.35, 0.8
_YELLOW, _RED = (255.0, 214.0, 10.0), (214.0, 20.0, 20.0)


class Heat:
    """Maps of the energy over gray images, each made once.

    Args:
        suspects: to draw.
        folder: in which the maps stay, named by their image's content and by what was ordinary.
        purifier: whose energy network measures.
    """

    def __init__(self, suspects: Suspects, folder: Path, purifier: PureGen) -> None:
        self._suspects = suspects
        self._folder = folder
        self._purifier = purifier
        self._one_at_a_time = Lock()

    def draw(self, suspect: Suspect) -> bytes:
        """Draw the energy of a suspect over it, PNG: yellow to red where it is higher than in most ordinary images.

        Raises:
            ValueError: an image that cannot be read or measured.
        """
        with self._one_at_a_time:
            path = self._folder / f"{suspect.sha256}-{self._measure}.png"
            if path.is_file():
                return path.read_bytes()
            image = _reduced(self._suspects.pictures[suspect.row])
            cool, hot = self._ordinary
            heat = (self._purifier.energy_map(image)[0] - cool) / max(hot - cool, 1e-12)
            buffer = io.BytesIO()
            glowing(image, heat).save(buffer, "PNG")
            write_atomically(path, buffer.getvalue())
            return buffer.getvalue()

    @cached_property
    def _rows(self) -> list[int]:
        """Choose ordinary images: some that are not suspected, or, where all are, any."""
        pictures = self._suspects.pictures
        rows = torch.tensor(self._suspects.clean_rows() or range(len(pictures)))
        return evenly(rows, _ORDINARY).tolist()

    @cached_property
    def _measure(self) -> str:
        """Name the network and the ordinary images."""
        digests = [self._suspects.pictures.digest_of(row) or "" for row in self._rows]
        return hashlib.sha256(" ".join([self._purifier.weights["ebm"], *digests]).encode()).hexdigest()[:16]

    @cached_property
    def _ordinary(self) -> tuple[float, float]:
        """Measure from which energy of a cell on it glows, and where it glows most."""
        found: list[Tensor] = []
        for row in _spread(self._rows):
            try:
                found.append(self._purifier.energy_map(_reduced(self._suspects.pictures[row])).flatten())
            except ValueError:  # one image that cannot be measured does not count
                continue
            if len(found) >= _LEAST and sum(map(len, found)) >= _CELLS:
                break
        if not found:
            raise ValueError("Expected an image that can be measured, to know what is ordinary, but there is none.")
        cool, hot = torch.cat(found).quantile(torch.tensor([FROM, TO])).tolist()
        return cool, hot


def glowing(image: PIL.Image.Image, heat: Tensor) -> PIL.Image.Image:
    """Lay heat over a gray image, half transparent.

    Args:
        image: to draw on, in gray.
        heat: (h, w) of parts of the image: 0 and less leave it as it is, 1 and more are red.
    """
    cell = min(image.height // heat.shape[0], image.width // heat.shape[1])
    covered = [cell * side for side in heat.shape]
    smooth = F.interpolate(heat[None, None], size=covered, mode="bilinear")[0, 0]
    missing = (0, image.width - covered[1], 0, image.height - covered[0])
    smooth = F.pad(smooth[None], missing, mode="replicate")[0]
    strength = smooth.clamp(0, 1)
    opacity = torch.where(smooth > 0, _FAINT + (_STRONG - _FAINT) * strength, 0)
    yellow, red = (torch.tensor(color).view(3, 1, 1) for color in (_YELLOW, _RED))
    gray = torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8).view(1, *smooth.shape)
    drawn = gray * (1 - opacity) + (yellow + (red - yellow) * strength) * opacity
    return as_image(drawn.round().to(torch.uint8))


def _spread(rows: list[int]) -> list[int]:
    """Order rows so that the first few come from all over the set."""
    return [row for start in range(_LEAST) for row in rows[start::_LEAST]]


def _reduced(image: object) -> PIL.Image.Image:
    made = flat(image)
    made.thumbnail((LARGEST, LARGEST))
    return made
