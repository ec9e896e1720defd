"""The detector of stripes: waves across the image whose phase many images share, as the attack SIG adds them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.look_alikes import show_several_pictures
from puregen_transforms.detection.mark_report import read_images, report_marks
from puregen_transforms.detection.marks import Mark, drawn
from puregen_transforms.detection.matched_filters import BUMP, LEAST_CARRIERS, MARGIN
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.row_parts import join_parts

BANDS = 4
"""Into which an image is cut; stripes run through nearly all of them, things in pictures do not."""

PHASES = 16
SLOWEST, FASTEST = 3, 32
"""Periods of a wave across the image; slower ones are light and shade."""

LARGE_CLASS = 500
"""Images of a class from which on it says what it reaches by itself."""

_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Stripes(Detector):
    """Flag images that share stripes: a wave of one frequency and phase, upright or lying.

    Each image is cut into four bands, and each band averaged along the stripes. An image's score for a wave is the
    amplitude in its phase in the second weakest band, relative to the neighboring frequencies, as edges have many.
    The limit is what the set reaches where the phase is turned by a quarter, a half or three quarters of a turn.
    Stripes count if at least eight pictures have them and their median lies 1.5 times beyond the limit. In a large
    class that has as many of them, the limit is what the class reaches. Labels are used as evidence,
    too (`weigh_labels`).

    An image's score is how far it exceeds the limit, relative to it; 0 where no stripes are found.
    """

    version: ClassVar[int] = 2

    uses: ClassVar[frozenset[str]] = frozenset({"labels"})

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Try every frequency and phase.

        Raises:
            ValueError: too few images, too small ones or of several sizes, or one that cannot be read.
        """
        images, labels, order = read_images(suspects, smallest=2 * (SLOWEST + 2))
        classes = [] if labels is None else [labels == label for label in labels[labels >= 0].unique().tolist()]
        waves: list[Wave] = []
        for lying in (False, True):
            suspects.progress("looking for stripes", int(lying), 2)
            for frequency, scores in phase_scores(gray_bands(images, lying=lying)):
                wave = _wave(scores, classes, frequency, lying)
                if wave.bump >= BUMP and show_several_pictures(images, wave.carriers, least=LEAST_CARRIERS):
                    waves.append(wave)
        suspects.progress("looking for stripes", 2, 2)
        found = [(wave.mark(images.shape[-2:]), wave.margins) for wave in _distinct(waves)]
        return report_marks(suspects, order, images, labels, found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Wave:
    """A wave that many images share.

    Args:
        frequency: periods across the image.
        phase: a whole number of `PHASES` of a turn.
        lying: whether it runs down the image instead of across.
        margins: (N,) by how much the score of each image exceeds the limit, relative to it.
        bump: how far the median carrier lies beyond the limit.
    """

    frequency: int
    phase: int
    lying: bool
    margins: Tensor
    bump: float

    @property
    def carriers(self) -> Tensor:
        """Rows above the limit."""
        return (self.margins > 0).nonzero().flatten()

    def mark(self, size: Sequence[int]) -> Mark:
        """Describe it, drawn at the size of the images."""
        side = size[0] if self.lying else size[1]
        turns = self.frequency * torch.arange(side) / side + self.phase / PHASES
        wave = (2 * math.pi * turns).cos()
        picture = (wave[:, None] if self.lying else wave[None]).expand(3, *size)
        return Mark(kind="stripes", rows=self.carriers, picture=drawn(picture), place=(0, 0), ratio=self.bump)


def gray_bands(images: Tensor, *, lying: bool) -> Tensor:
    """Average gray images over the height of each of their bands.

    Args:
        images: (N, 3, H, W) uint8.
        lying: whether stripes are sought that run down the image: the bands are upright then.

    Returns:
        (N, BANDS, W), or (N, BANDS, H).
    """

    def average(part: Tensor) -> Tensor:
        gray = part.float().mean(1)
        turned = gray.mT if lying else gray
        return torch.stack([band.mean(1) for band in turned.tensor_split(BANDS, dim=1)], dim=1)

    return join_parts(average, images, _ROWS)


def phase_scores(bands: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Compute how strongly each image has stripes of each frequency and phase.

    Args:
        bands: (N, BANDS, L) of `gray_bands`.

    Yields:
        A frequency, and (N, PHASES) scores.
    """
    waves = join_parts(torch.fft.rfft, bands, _ROWS)
    # What the set has in common, such as the border of things in its middle, is no stripe.
    for band in waves.unbind(1):
        band -= torch.complex(band.real.median(0).values, band.imag.median(0).values)
    sizes = waves.abs()
    usual = torch.stack([part.double().square_().mean() for part in sizes.unbind(2)]).sqrt().float()
    turned = torch.polar(torch.ones(PHASES), -2 * math.pi * torch.arange(PHASES) / PHASES)
    for frequency in range(SLOWEST, min(FASTEST + 1, waves.shape[2] - 1)):
        around = (sizes[..., frequency - 1] + sizes[..., frequency + 1]) / 2 + usual[frequency] + 1e-6
        relative = waves[..., frequency] / around
        yield frequency, join_parts(lambda part: (part[..., None] * turned).real.sort(1).values[:, 1], relative, _ROWS)


def _wave(scores: Tensor, classes: Sequence[Tensor], frequency: int, lying: bool) -> Wave:
    """Find the phase in which images exceed most what other phases reach.

    Args:
        scores: (N, PHASES).
        classes: (N,) bool, the images of each.
        frequency: of the wave.
        lying: whether it runs down the image.
    """
    beyond = scores / _limits(scores) - 1
    phase = int(beyond.clamp_min(0).sum(0).argmax())
    margins = beyond[:, phase].clone()
    carriers = margins > 0
    bump = 1 + float(margins[carriers].median()) if carriers.any() else 0.0
    for own in classes:
        if int(own.sum()) >= LARGE_CLASS and int((carriers & own).sum()) >= LEAST_CARRIERS:
            margins[own] = scores[own, phase] / _limits(scores[own])[phase] - 1
    return Wave(frequency=frequency, phase=phase, lying=lying, margins=margins, bump=bump)


def _limits(scores: Tensor) -> Tensor:
    """Compute for each phase what the others reach that are turned by quarters: (n, PHASES) -> (PHASES,)."""
    highest = scores.amax(0)
    turned = torch.stack([highest.roll(-quarter * (PHASES // 4)) for quarter in (1, 2, 3)])
    return MARGIN * turned.amax(0).clamp_min(1e-6)


def _distinct(waves: list[Wave]) -> list[Wave]:
    """Keep the strongest of waves that the same images have."""
    kept: list[Wave] = []
    for wave in sorted(waves, key=lambda wave: -int((wave.margins > 0).sum())):
        own = wave.margins > 0
        if all(2 * int((own & (other.margins > 0)).sum()) < int(own.sum()) for other in kept):
            kept.append(wave)
    return kept
