"""Find classes into which images of other classes were moved, by features that never saw the set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.detection.classes import matching_reserved, reserved_rows, rows_by_class
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.frozen_features import read_features, side_for
from puregen_transforms.detection.report import DetectionReport, count_by_class
from puregen_transforms.detection.ridge import fit_ridge
from puregen_transforms.detection.statistics import binomial_tail
from puregen_transforms.hub.backbones import DEFAULT_SHA256, load_backbone

LEAST_RESERVED = 5
"""Clean images of each class that are asked for; the fewer there are, the more a class must stand out."""

SPREADS = 4.0
"""Standard errors of a limit's own share of clean images that are granted to a class."""

_RIDGE = 1.0


@dataclass(frozen=True, kw_only=True)
class MovedLabels(Detector):
    """Flag images that look like other classes, in a class that has many more of them than other classes have.

    Our own, for attacks that change labels alone: no pixel shows them, and each changed label looks like a careless
    annotator's. But all of these labels name one class, where carelessness spreads over all. A ridge classifier of the
    clean images' features, of a network that was trained on other photographs, gives each image a margin: by how much
    it prefers the best of the other classes to the label's. In each class the limit is what `rare` of its clean images
    exceed (each with itself left out). A class stands out if more of its images exceed its limit than the limit's error
    allows, and than `excess` times the usual share of the other classes; what exceeds it there is flagged.

    It cannot tell an attacker from an annotator who confuses two classes, and misses an attack that is spread over most
    classes. Images that look like the class they were moved to pass.

    A score is the margin in units of the class's clean margins: above 0 it is over the limit, and it is 1 higher in a
    class that stands out. Facts of a class are `above`, the share of its images over the limit, and `chance`.

    Args:
        rare: share of clean images of a class over its limit.
        excess: how many times the share that is usual in the other classes.
        chance: of so many over the limit, below which a class stands out.
        backbone: whose features are compared; see `load_backbone`. None is EfficientNet-Lite0.
        side: to which images are resized, in pixels; see `side_for` for what None chooses.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels", "reserved"})
    least_classes: ClassVar[int] = 3

    rare: float = 0.02
    excess: float = 1.5
    chance: float = 1e-6
    backbone: str | None = None
    side: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rare < 0.5 or not self.excess >= 1:
            raise ValueError(
                "Expected a share of rare images below 0.5 and an excess of 1 or more, but got "
                f"rare={self.rare} and excess={self.excess}."
            )

    def identity(self) -> str:
        """Return the hash of the backbone's weights."""
        return DEFAULT_SHA256 if self.backbone is None else load_backbone(self.backbone).sha256

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Compare every label with those of the clean images.

        Raises:
            ImportError: timm or the default weights are not installed.
            ValueError: no labels, less than three classes, too few clean images of one, or an image that cannot be
                read.
            FloatingPointError: a feature is not finite.
        """
        members = rows_by_class(suspects)
        if len(members) < self.least_classes:
            raise ValueError(f"Expected at least {self.least_classes} classes to compare, but got {len(members)}.")
        reserved = matching_reserved(suspects)
        clean_members = reserved_rows(suspects, reserved, least=LEAST_RESERVED)
        backbone = load_backbone(self.backbone)
        side = self.side or side_for(suspects, backbone)
        clean = replace(suspects, images=reserved.images, labels=reserved.labels, state=None)
        margins, of_clean = margins_of(
            read_features(suspects, backbone, side=side)[:],
            suspects.labels,
            read_features(clean, backbone, side=side)[:],
            reserved.labels,
            classes=list(members),
        )
        scores = torch.full((len(suspects),), torch.nan)
        for label, rows in members.items():
            usual = of_clean[clean_members[label]]
            limit = usual.quantile(1 - self.rare)
            scores[rows] = ((margins[rows] - limit) / usual.std().clamp(min=1e-12)).float()
        above = {label: float((scores[rows] > 0).float().mean()) for label, rows in members.items()}
        facts: dict[int, Mapping[str, float | None]] = {}
        flagged = torch.zeros(len(suspects), dtype=torch.bool)
        for label, rows in members.items():
            others = torch.tensor([share for other, share in above.items() if other != label]).median()
            error = (self.rare * (1 - self.rare) / len(clean_members[label])) ** 0.5
            granted = min(0.5, max(self.rare + SPREADS * error, self.excess * float(others)))
            chance = min(1.0, len(members) * binomial_tail(int((scores[rows] > 0).sum()), len(rows), granted))
            facts[label] = {"above": above[label], "chance": chance}
            if chance < self.chance:
                flagged[rows] = scores[rows] > 0
                scores[rows] += 1
        return DetectionReport(
            scores=scores,
            flagged=flagged,
            classes=count_by_class(flagged, suspects.labels, suspects.class_names, facts),
        )


def margins_of(
    features: Tensor, labels: Tensor | None, clean: Tensor, clean_labels: Tensor, *, classes: list[int]
) -> tuple[Tensor, Tensor]:
    """Measure by how much a classifier of clean images prefers another class to the label.

    Args:
        features: (N, D) of the suspects; NaN in rows without an image.
        labels: (N,) int64; those of no class get what the first would.
        clean: (M, D) of clean images.
        clean_labels: (M,) int64.
        classes: those that are compared.

    Returns:
        (N,) margins of the suspects, NaN without an image, and (M,) of the clean images, of each by a classifier that
        was not trained on it; float64.
    """
    assert labels is not None
    names = torch.tensor(classes)
    known, unknown = F.normalize(clean, dim=1).double(), F.normalize(features, dim=1).double()
    middle, spread = known.mean(0), known.std()
    wanted = (clean_labels[:, None] == names).double()
    scaled = (known - middle) / spread, wanted - wanted.mean(0), (unknown - middle) / spread
    left_out, predicted = fit_ridge(*scaled, strength=_RIDGE)
    return _margins(predicted, (labels[:, None] == names).int().argmax(1)), _margins(left_out, wanted.argmax(1))


def _margins(predicted: Tensor, own: Tensor) -> Tensor:
    """Subtract what is predicted for the own class from the best of the others: (N, classes), (N,) -> (N,)."""
    to_own = predicted.gather(1, own[:, None])[:, 0]
    return predicted.scatter(1, own[:, None], -torch.inf).amax(1) - to_own
