"""Label disagreement: an image looks like another class than its label's to a network that never saw the set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.data.mapped import empty_rows, folder_of, parts_of, release
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.frozen_features import read_features, side_for
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.row_parts import join_parts
from puregen_transforms.detection.statistics import robust_scores
from puregen_transforms.hub.backbones import DEFAULT_SHA256, load_backbone

LEAST_IMAGES = 4
"""Images of a class from which on others are compared with their mean."""

_BLOCK = 512
"""Rows compared at once in float64."""

_NOTHING = 1e-9
"""Difference between similarities, which are at most 2, that is a rounding error."""


@dataclass(frozen=True, kw_only=True)
class LabelDisagreement(Detector):
    """Flag images that resemble another class more than their label's, to a network that never saw the set.

    As SimiFeat (Zhu et al. 2022) it asks what the images around one are called, in the features of a network that was
    trained on other photographs, so that no poison of the set is in it. Where SimiFeat lets the nearest neighbors
    vote, here an image is compared with the mean of each class, its own class's without it: neighbors that carry the
    same trigger, and regressions that learn it, vouch for each other's wrong labels; means hardly know of it. Where
    features are weak, many images of a clean set resemble another class, too (a third of CIFAR-10's). So an image is
    flagged only if its margin also lies `threshold` robust standard deviations above the median.

    It finds changed labels, whether there is a trigger or not, and cannot tell an attacker's from a careless
    annotator's; labels of classes that look alike hide. It finds no attack that leaves labels true (clean-label), nor
    images that the trigger makes look like the target class; and a class most of whose images are wrongly called so is
    taken for what they show. The default backbone knows photographs; other pictures were not tried.

    On 10,000 images of CIFAR-10 (`benchmarks/detection.py`, one seed) it flags 0.7 % of a clean set, 40 % of 5 % wrong
    labels, 20 % of the rows of BadNets and 16 % of Blended's.

    Args:
        threshold: score above which an image is flagged, if it resembles another class more than its own at all.
        backbone: whose features are compared; see `load_backbone`. None is EfficientNet-Lite0.
        side: to which images are resized, in pixels; see `side_for` for what None chooses.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    threshold: float = 2.5
    backbone: str | None = None
    side: int | None = None

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 1:
            raise ValueError(f"Expected a side of at least 1 pixel, but got {self.side}.")

    def identity(self) -> str:
        """Return the hash of the backbone's weights."""
        return DEFAULT_SHA256 if self.backbone is None else load_backbone(self.backbone).sha256

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Compare every label with those of all other images.

        Raises:
            ImportError: timm or the default weights are not installed.
            ValueError: no labels or less than two classes, a backbone that cannot be loaded, or an image that cannot
                be read.
            FloatingPointError: a feature is not finite.
        """
        labels = suspects.labels
        if labels is None:
            raise ValueError("Expected the class of each image (`labels`), but got none.")
        _count_classes(labels)  # before the network is run
        backbone = load_backbone(self.backbone)
        features = read_features(suspects, backbone, side=self.side or side_for(suspects, backbone))
        found = disagreement(features, labels)
        return DetectionReport(
            scores=found.scores,
            flagged=(found.scores > self.threshold) & (found.margins > 0),
            details={"looks_like": found.looks_like},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Disagreement:
    """How far features contradict labels, by image.

    Args:
        scores: (N,) float32 robust standard deviations by which the margin lies above the median; 0 where nothing was
            compared, NaN without an image.
        margins: (N,) float32; see `class_margins`. 0 where nothing was compared.
        looks_like: (N,) int64 label of the class that the image resembles most beside its own; -1 where nothing was
            compared.
    """

    scores: Tensor
    margins: Tensor
    looks_like: Tensor


def disagreement(features: Tensor, labels: Tensor) -> Disagreement:
    """Compare each image with the means of all classes.

    Rows without a label, and classes of less than `LEAST_IMAGES`, are left out.

    Args:
        features: (N, D); NaN in rows without an image.
        labels: (N,) int64, negative where there is none.

    Raises:
        ValueError: labels of less than two classes.
    """
    present = ~join_parts(lambda part: part.isnan().any(1), features, _BLOCK)
    rows = (present & (labels >= 0)).nonzero().flatten()
    names, counts = _count_classes(labels[rows])
    names = names[counts >= LEAST_IMAGES]
    rows = rows[torch.isin(labels[rows], names)]
    scores, margins, looks_like = torch.zeros(len(labels)), torch.zeros(len(labels)), torch.full((len(labels),), -1)
    if len(names) > 1:
        points = empty_rows((len(rows), *features.shape[1:]), features.dtype, folder=folder_of(features))
        for part in parts_of(points, _BLOCK):
            points[part] = F.normalize(features[rows[part]], dim=1)
            release(features)
        margins[rows], best = class_margins(points, torch.searchsorted(names, labels[rows]))
        scores[rows], looks_like[rows] = robust_scores(margins[rows]), names[best]
    scores[~present] = torch.nan
    return Disagreement(scores=scores, margins=margins, looks_like=looks_like)


def _count_classes(labels: Tensor) -> tuple[Tensor, Tensor]:
    """List the classes that have images, and how many each has; rows without a label do not count."""
    names, counts = labels[labels >= 0].unique(return_counts=True)
    if len(names) < 2:
        raise ValueError(f"Expected images of at least two classes, to compare them, but got {len(names)}.")
    return names, counts


def class_margins(points: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Measure by how much images resemble the best of the other classes more than their own.

    With c the center of the classes' means, an image x resembles a class of mean m by (x - c).(m - c). The mean of its
    own class is taken without it, so that no image vouches for itself.

    Args:
        points: (N, D) features of length 1.
        own: (N,) int64 class of each; of two classes or more, each with two images or more.

    Returns:
        (N,) float32 margins, and (N,) int64, the best of the other classes.
    """
    counts = own.bincount()
    sums = torch.zeros(len(counts), points.shape[1], dtype=torch.float64)
    for rows in parts_of(points, _BLOCK):
        sums.index_add_(0, own[rows], points[rows].double())
    means = sums / counts[:, None]
    center = means.mean(0)
    margins, classes = torch.empty(len(points)), torch.empty(len(points), dtype=torch.int64)
    for rows in parts_of(points, _BLOCK):
        x, label = points[rows].double(), own[rows, None]
        without = (sums[own[rows]] - x) / (counts[label] - 1)
        to_own = ((x - center) * (without - center)).sum(1)
        to_others = ((x - center) @ (means - center).T).scatter(1, label, -torch.inf).max(1)
        margin = to_others.values - to_own
        margins[rows], classes[rows] = margin.where(margin.abs() > _NOTHING, 0).float(), to_others.indices
    return margins, classes
