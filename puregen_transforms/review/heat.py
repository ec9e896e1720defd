"""Where the energy of a suspect sits, drawn when it is first looked at."""

from __future__ import annotations

import hashlib
import io
from functools import cached_property
from pathlib import Path
from threading import Lock

import PIL.Image
import torch
from torch import Tensor

from puregen_transforms._files import write_atomically
from puregen_transforms.detection.look_alikes import evenly
from puregen_transforms.inspection.heat import Scale, glowing
from puregen_transforms.inspection.pictures import as_image
from puregen_transforms.review.pixels import flat
from puregen_transforms.review.suspects import Suspect, Suspects
from puregen_transforms.transforms.formats import open_image
from puregen_transforms.transforms.puregen import PureGen

LARGEST = 512
"""Longest side, in pixels, to which images are reduced before they are measured."""

_ORDINARY, _LEAST = 64, 8
"""Images that are measured to know what is ordinary: so many; of large ones fewer, but so many at least."""

_CELLS = 2**14


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
            heat = self._scale.heat(self._purifier.energy_map(image)[0])
            buffer = io.BytesIO()
            as_image(glowing(open_image(image).rgb[0], heat)).save(buffer, "PNG")
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
    def _scale(self) -> Scale:
        """Measure what is ordinary."""
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
        return Scale.of(found)


def _spread(rows: list[int]) -> list[int]:
    """Order rows so that the first few come from all over the set."""
    return [row for start in range(_LEAST) for row in rows[start::_LEAST]]


def _reduced(image: object) -> PIL.Image.Image:
    made = flat(image)
    made.thumbnail((LARGEST, LARGEST))
    return made
