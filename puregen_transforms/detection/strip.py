"""STRIP: a trigger decides what a classifier says, whatever picture is laid over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from puregen_transforms._progress import Progress
from puregen_transforms.detection.activations import batches, evaluating
from puregen_transforms.detection.classes import matching_reserved
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.statistics import clean_limit, mixed_limit
from puregen_transforms.functional.images import normalize

LEAST_IMAGES = 10
"""Images from which the usual entropy can be estimated."""

_PIXELS_AT_ONCE = 2**19
"""Of the blended pictures held in memory, in each color; those of one image are never parted."""

_NOTHING = 1e-6
"""Difference of entropies, in nats, that is a rounding error."""


@dataclass(frozen=True, kw_only=True)
class Strip(Detector):
    """Flag images whose class the network is sure of even with other pictures laid over them.

    Gao et al. (2019): pixel values of an image and of another one are added (and cut off at white), and the entropy
    of the network's answers is averaged over many others. It is low where a trigger survives. The limit comes from the
    entropies of clean images, that is, of `reserved` with each other, as the quantile of a normal distribution fitted
    to them or their own, whichever flags less; without a reserved set, from the middle of the suspect set itself
    (median and median deviation), and the pictures laid over are from there.

    Published weak points: triggers that other pictures hide or that need their source class (blended, warps, TaCT),
    clean-label poison, and that it costs `blends` forward passes for each image.

    A score is by how much the mean entropy lies below that of clean images, in units of the limit: above 1 it is
    flagged. Where all entropies are the same nothing is.

    Args:
        blends: pictures that are laid over each image; the preset "cpu" has a tenth of the published number.
        weight: of these; the image itself has 1.
        false_alarms: share of clean images that may be flagged.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"network"})
    uses: ClassVar[frozenset[str]] = frozenset({"reserved"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"smoke": {"blends": 4}, "cpu": {"blends": 10}, "paper": {}}

    blends: int = 100
    weight: float = 1.0
    false_alarms: float = 0.01

    def __post_init__(self) -> None:
        if self.blends < 1 or not self.weight > 0 or not 0 < self.false_alarms < 0.5:
            raise ValueError(
                "Expected at least one blend, a positive weight and a share of false alarms below 0.5, but got "
                f"blends={self.blends}, weight={self.weight} and false_alarms={self.false_alarms}."
            )

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Measure the entropy of every image.

        Raises:
            ValueError: too few images, of several sizes, or a reserved set of other images.
            FloatingPointError: the network gives a score that is not finite.
        """
        network = suspects.network
        assert network is not None
        images = suspects.tensor()
        clean = images if suspects.reserved is None else matching_reserved(suspects).images
        if len(clean) < LEAST_IMAGES:
            which = "images, as there is no `reserved` set" if clean is images else "images in `reserved`"
            raise ValueError(f"Expected at least {LEAST_IMAGES} {which}, but got {len(clean)}.")
        generator = torch.Generator().manual_seed(suspects.seed)

        def measure(measured: Tensor) -> Tensor:
            others = draw_others(len(measured), len(clean), self.blends, own=measured is clean, generator=generator)
            return blended_entropies(
                network,
                measured,
                clean,
                others,
                weight=self.weight,
                progress=suspects.progress,
                device=suspects.device,
            )

        found = -measure(images)
        if clean is images:
            limit, usual = mixed_limit(found, self.false_alarms), found.median()
        else:
            known = -measure(clean)
            limit, usual = clean_limit(known, self.false_alarms), known.mean()
        if limit - usual <= _NOTHING:
            return DetectionReport(scores=torch.zeros(len(found)), flagged=torch.zeros(len(found), dtype=torch.bool))
        return DetectionReport(scores=((found - usual) / (limit - usual)).float(), flagged=found > limit)


def draw_others(images: int, others: int, blends: int, *, own: bool, generator: torch.Generator) -> Tensor:
    """Draw which pictures are laid over each image: (images, blends) int64.

    Args:
        images: how many are measured.
        others: how many pictures there are.
        blends: drawn for each image, with replacement.
        own: the images are the pictures; none is laid over itself.
        generator: of the draws.
    """
    if not own:
        return torch.randint(others, (images, blends), generator=generator)
    steps = torch.randint(1, others, (images, blends), generator=generator)
    return (torch.arange(images)[:, None] + steps) % others


def blended_entropies(
    network: nn.Module,
    images: Tensor,
    pictures: Tensor,
    others: Tensor,
    *,
    weight: float,
    device: torch.device,
    progress: Progress,
) -> Tensor:
    """Average the entropy of a network's answers to an image with pictures laid over it: (N,) float64, in nats.

    Args:
        network: on `device`.
        images: (N, 3, H, W) uint8.
        pictures: (M, 3, H, W) uint8.
        others: (N, blends) int64, which pictures are laid over which image.
        weight: of the pictures.
        device: where to work.
        progress: told what is being done.

    Raises:
        FloatingPointError: the network gives a score that is not finite.
    """
    blends = others.shape[1]
    found = torch.zeros(len(images), dtype=torch.float64)
    step = max(1, _PIXELS_AT_ONCE // (blends * images.shape[-2] * images.shape[-1]))
    with evaluating(network), torch.no_grad():
        for start in range(0, len(images), step):
            progress("measuring entropies", start, len(images))
            rows = slice(start, start + step)
            blended = images[rows, None].float() + weight * pictures[others[rows]].float()
            parts = batches(blended.clamp(max=255).flatten(0, 1))
            logits = torch.cat([network(normalize(part.to(device))).double().cpu() for part in parts])
            entropies = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
            found[rows] = entropies.unflatten(0, (-1, blends)).mean(1)
    progress("measuring entropies", len(images), len(images))
    bad = (~found.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"The network's scores of the images in rows {bad[:8]} are not finite.")
    return found
