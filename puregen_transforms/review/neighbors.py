"""Find ordinary images to compare a suspect with."""

from __future__ import annotations

from functools import cached_property, lru_cache
from threading import Lock
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.detection.frozen_features import FeatureReader
from puregen_transforms.detection.look_alikes import evenly, small_pictures
from puregen_transforms.functional.images import rounded
from puregen_transforms.hub.backbones import load_backbone
from puregen_transforms.purifier.device import choose_device
from puregen_transforms.review.pixels import flat
from puregen_transforms.review.suspects import Suspect, Suspects
from puregen_transforms.transforms.formats import open_image

COMPARED = 256
"""Images of a class that a suspect is compared with; of larger classes, at equal distances."""

SHOWN = 4

_SIDE = 96
"""In pixels, to which images are resized for the network."""

_CLASSES = 32
"""Classes kept in memory."""


class Near(NamedTuple):
    """Ordinary images near a suspect.

    Args:
        rows: the nearest first.
        compared: how many images there were to choose from.
    """

    rows: list[int]
    compared: int


class Neighbors:
    """Finds images without a finding that are like a suspect, by the features of a network that never saw the set.

    Where the extra `features` is not installed, by their pictures in small.

    Args:
        suspects: of the set.
        device: where features are computed; None is the accelerator that torch reports, else the CPU.
    """

    def __init__(self, suspects: Suspects, device: str | None = None) -> None:
        self._suspects = suspects
        self._device = device
        self._one_at_a_time = Lock()
        self._kept = lru_cache(_CLASSES)(self._describe_class)

    @property
    def by_features(self) -> bool:
        """Whether images are compared by features."""
        return self._reader is not None

    def near(self, suspect: Suspect, class_name: str) -> Near:
        """Choose ordinary images of a class, the most alike first.

        Args:
            suspect: to compare with.
            class_name: of the images; "" for those without a label.

        Raises:
            ValueError: a suspect that cannot be read.
        """
        with self._one_at_a_time:
            rows, described = self._kept(class_name)
            if not rows:
                return Near([], 0)
            cosines = described @ self._describe([self._read(suspect.row)])[0]
            order = cosines.topk(min(SHOWN, len(rows))).indices.tolist()
            return Near([rows[place] for place in order], len(rows))

    def _describe_class(self, class_name: str) -> tuple[list[int], Tensor]:
        rows, images = [], []
        for row in evenly(torch.tensor(self._suspects.clean_rows(class_name)), COMPARED).tolist():
            try:
                images.append(self._read(row))
            except ValueError:  # one that cannot be read is no one's neighbor
                continue
            rows.append(row)
        return rows, self._describe(images) if images else torch.empty(0, 0)

    def _describe(self, images: list[Tensor]) -> Tensor:
        """Describe (3, H, W) uint8 images of any sizes by vectors of length 1: (n, D)."""
        if self._reader is None:
            return torch.cat([small_pictures(image[None]) for image in images])
        return F.normalize(self._reader.read(images))

    def _read(self, row: int) -> Tensor:
        image = flat(self._suspects.pictures[row])
        image.thumbnail((2 * _SIDE, 2 * _SIDE))
        return rounded(open_image(image).rgb[0])

    @cached_property
    def _reader(self) -> FeatureReader | None:
        try:
            return FeatureReader(load_backbone(), side=_SIDE, device=choose_device(self._device))
        except ImportError:
            return None
