"""Tell whether the labels of a set can be read from traces in its pixels: the mark of data made unlearnable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.data.mapped import release
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.look_alikes import evenly
from puregen_transforms.detection.report import DetectionReport, count_by_class
from puregen_transforms.detection.row_parts import join_parts
from puregen_transforms.functional.jpeg import jpeg
from puregen_transforms.functional.median import median_3x3
from puregen_transforms.purifier.batches import on_single_threads

LEAST_IN_CLASS = 10
"""Images of a class from which on it counts."""

MOST_IMAGES = 3000
"""Images that are looked at, from the first row to the last."""

MOST_PIXELS = 64
"""Side of the middle of each image that is looked at."""

PATCHES = 128
"""Patches with which all places of an image are compared."""

QUALITY = 10
"""Of the JPEG compression that no trace is to survive."""

FOLDS = 2
_RIDGE = 0.05
_PART = 128

_SIDE, _THRESHOLD, _LEAST_VARIANCE = 3, 0.5, 1e-5
_IMAGES_FOR_PATCHES, _PATCHES_TO_WHITEN = 400, 20_000


@dataclass(frozen=True, kw_only=True)
class Shortcuts(Detector):
    """Flag a whole set if its labels can be read from fine traces, which vanish when images are coarsened.

    Our own, for perturbations that make a set unlearnable: a network that is trained on it learns them, and nothing of
    the pictures. They are nearly linearly separable (Yu et al. 2022). Two linear classifiers, fitted to one half of the
    images and asked about the other, see what is left of an image when its 3x3 mean is taken away: one sees it pixel by
    pixel, the other how much of it looks like patches of the set. In natural sets they are seldom right. Where they
    are, as for written digits, the pictures themselves tell the classes, and still do after a 3x3 median and as JPEG of
    quality 10; traces do not. Nearest to them come classes of one fine texture each.

    All images are flagged, or none: what is left out of a set that is poisoned throughout is all of it. Classes whose
    images come from different cameras or were stored in different ways are flagged, too: a network would learn that.
    Perturbations of a part of the set alone are not found.

    A score is by how much the more telling of the classifiers prefers the label to other classes. Facts of each class
    are `readable`, the share of its images whose label is read correctly, and `coarse`, the same after coarsening.

    Args:
        readable: share of labels read correctly from which on a set is suspicious.
        lost: share of labels that coarsening must make unreadable.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    least_classes: ClassVar[int] = 2
    version: ClassVar[int] = 2

    readable: float = 0.6
    lost: float = 0.35

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Read the labels, from images as they are and from coarse ones.

        Raises:
            ValueError: no labels, fewer than two classes of ten images, or an image that is missing, cannot be read,
                or has another size.
        """
        labels = suspects.labels
        if labels is None:
            raise ValueError("Expected the class of each image (`labels`), but got none.")
        names, counts = labels[labels >= 0].unique(return_counts=True)
        names = names[counts >= LEAST_IN_CLASS]
        if len(names) < self.least_classes:
            raise ValueError(f"Expected at least two classes of {LEAST_IN_CLASS} images or more, but got {len(names)}.")
        rows = evenly(torch.isin(labels, names).nonzero().flatten(), MOST_IMAGES)
        whole = suspects.tensor()
        images = join_parts(lambda numbers: _middle(whole[numbers]).cpu(), rows, _PART)
        release(whole)
        own = torch.searchsorted(names, labels[rows])
        fine, preference = _most_read(images, own)
        coarse, _ = _most_read(torch.cat([coarsen(part) for part in images.split(_PART)]), own)
        suspicious = float(fine.float().mean()) >= self.readable and (
            float(fine.float().mean()) - float(coarse.float().mean()) >= self.lost
        )
        scores = torch.zeros(len(labels))
        scores[rows] = preference
        flagged = torch.full((len(labels),), suspicious)
        facts = {
            int(name): {
                "readable": float(fine[own == place].float().mean()),
                "coarse": float(coarse[own == place].float().mean()),
            }
            for place, name in enumerate(names)
        }
        return DetectionReport(
            scores=scores, flagged=flagged, classes=count_by_class(flagged, labels, suspects.class_names, facts)
        )


def residual_pixels(images: Tensor) -> Tensor:
    """Take the 3x3 mean away: (n, 3, H, W) uint8 -> (n, 3 H W)."""
    return _residual(images).flatten(1)


def patch_responses(images: Tensor) -> Tensor:
    """Compare all places with patches of the images themselves: (n, 3, H, W) uint8 -> (n, 8 * PATCHES) float32.

    As Coates and Ng 2012, on the residual: patches and places are whitened, so that rare textures count as much as
    common ones. Answers above a threshold, and below it with the opposite sign, are averaged in the four quarters.
    """
    residual = _residual(images)
    filters = whitened_patches(residual)
    rows = max(1, _PART * 32**2 // (4 * residual.shape[-1] * residual.shape[-2]))  # what fits the cache

    def answered(part: Tensor) -> Tensor:
        answers = F.conv2d(part, filters, padding=_SIDE // 2)
        quarters = [F.adaptive_avg_pool2d((one - _THRESHOLD).clamp_(min=0), 2) for one in (answers, -answers)]
        return torch.cat(quarters, 1).flatten(1)

    return torch.cat([answered(part) for part in residual.split(rows)])


def whitened_patches(values: Tensor) -> Tensor:
    """Draw patches at random, whiten them (ZCA), and make filters of them that whiten what they are compared with.

    Args:
        values: (n, C, H, W) float32.

    Returns:
        (PATCHES, C, 3, 3).
    """
    generator = torch.Generator().manual_seed(0)
    some = values[torch.randperm(len(values), generator=generator)[:_IMAGES_FOR_PATCHES]]
    patches = F.unfold(some, _SIDE, padding=_SIDE // 2).transpose(1, 2).flatten(0, 1)
    patches = patches[torch.randperm(len(patches), generator=generator)[:_PATCHES_TO_WHITEN]]
    centered = patches - patches.mean(0)
    covariance = (centered.T @ centered / len(centered)).double()
    lengths, directions = torch.linalg.eigh(covariance + _LEAST_VARIANCE * torch.eye(len(covariance)))
    whiten = (directions / lengths.sqrt() @ directions.T).float()
    drawn = centered[torch.randperm(len(centered), generator=generator)[:PATCHES]] @ whiten
    return (F.normalize(drawn, dim=1) @ whiten).view(-1, values.shape[1], _SIDE, _SIDE)


def coarsen(images: Tensor) -> Tensor:
    """Replace pixels by their 3x3 median, and compress strongly: (n, 3, H, W) uint8 -> the same."""
    return jpeg(median_3x3(images.float()).to(torch.uint8), QUALITY)


def read_labels(described: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Read the labels of one half of some images by a ridge classifier of the other half.

    Args:
        described: (n, D) float32.
        own: (n,) int64 classes, from 0.

    Returns:
        (n,) bool, whether a label is read correctly, and (n,) float32, by how much it is preferred to other classes.
    """
    scaled = described - described.mean(0)
    scaled /= described.std(0).clamp(min=1e-6)
    folds = torch.randperm(len(own), generator=torch.Generator().manual_seed(0)) % FOLDS
    wanted = F.one_hot(own).float()
    # In the images rather than in the columns, of which there may be more.
    kernel = scaled @ scaled.T / scaled.shape[1]
    predicted = torch.zeros_like(wanted)
    for fold in range(FOLDS):
        known, asked = (folds != fold).nonzero().flatten(), (folds == fold).nonzero().flatten()
        shares = wanted[known].mean(0)
        within = kernel[known][:, known].double()
        ridge = _RIDGE * within.diagonal().mean() * len(known) / scaled.shape[1]
        within.diagonal().add_(ridge.clamp(min=1e-6))  # images that are all alike have none
        weights = torch.linalg.solve(within, (wanted[known] - shares).double())
        predicted[asked] = (kernel[asked][:, known].double() @ weights).float() + shares
    to_own = predicted.gather(1, own[:, None])[:, 0]
    others = predicted.scatter(1, own[:, None], -torch.inf).amax(1)
    return to_own > others, to_own - others


def _most_read(images: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Read the labels by both classifiers, and choose the one that is right more often."""
    both = on_single_threads(lambda describe: read_labels(describe(images), own), (residual_pixels, patch_responses))
    return max(both, key=lambda one: float(one[0].float().mean()))


def _residual(images: Tensor) -> Tensor:
    values = images.float() / 255
    return values - F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _middle(images: Tensor) -> Tensor:
    """Cut out the middle of images, where they are larger."""
    top, left = (max(0, (side - MOST_PIXELS) // 2) for side in images.shape[-2:])
    return images[..., top : top + MOST_PIXELS, left : left + MOST_PIXELS]
