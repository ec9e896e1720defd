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
from puregen_transforms.detection.label_disagreement import disagreement
from puregen_transforms.detection.report import DetectionReport, count_by_class
from puregen_transforms.detection.ridge import fit_ridge
from puregen_transforms.detection.statistics import binomial_tail
from puregen_transforms.hub.backbones import DEFAULT_SHA256, load_backbone

LEAST_RESERVED = 5
"""Clean images of each class that are asked for; the fewer there are, the more a class must stand out."""

SPREADS = 4.0
"""Standard errors of a limit's own share of clean images that are granted to a class."""

FAR = 2.5
"""Robust standard deviations from which on an image counts as unlike its class where no clean images are given."""

NEARER = tuple(1 + step / 8 for step in range(12))
"""Lower limits, of which a class that stands out gets the lowest that is `PURE`."""

PURE = 0.8
"""Share of what is flagged that must be more than the other classes lead one to expect."""

GRANTED, TIMES = 0.03, 2.5
"""Share of far images that is granted to any class, and times the usual share of the other classes.

In 160 clean sets (benchmarks/results/moved_labels_null.json) no class had a chance below 0.001.
"""

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

    Without clean images, margins and scores are those of `LabelDisagreement`, and classes are compared with one
    another alone: one stands out if far more of its images are `FAR` from it than the others' usual share. There the
    limit is the lowest from which on no more than a fifth of what is flagged is expected to be clean.

    It cannot tell an attacker from an annotator who confuses two classes, and misses an attack that is spread over most
    classes. Images that look like the class they were moved to pass.

    A score is the margin in units of the class's clean margins, without these in robust standard deviations: above 0 it
    is over the limit, and it is 1 higher in a class that stands out. Facts of a class are `above`, the share of its
    images over the limit (without clean images, of those that are `FAR`), and `chance`. Images without a label have a
    score of 0.

    Args:
        rare: share of clean images of a class over its limit.
        excess: with clean images, how many times the share that is usual in the other classes.
        chance: of so many over the limit, below which a class stands out.
        backbone: whose features are compared; see `load_backbone`. None is EfficientNet-Lite0.
        side: to which images are resized, in pixels; see `side_for` for what None chooses.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    uses: ClassVar[frozenset[str]] = frozenset({"reserved"})
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
        """Compare every label with those of the clean images, or of all images.

        Raises:
            ImportError: timm or the default weights are not installed.
            ValueError: no labels, less than three classes, too few clean images of one, or an image that cannot be
                read.
            FloatingPointError: a feature is not finite.
        """
        members = rows_by_class(suspects)
        if len(members) < self.least_classes:
            raise ValueError(f"Expected at least {self.least_classes} classes to compare, but got {len(members)}.")
        compare = self._alone if suspects.reserved is None else self._against_clean
        scores, chances, above = compare(suspects, members)
        flagged = torch.zeros(len(suspects), dtype=torch.bool)
        for label, rows in members.items():
            if chances[label] < self.chance:
                flagged[rows] = scores[rows] > 0
                scores[rows] += 1
        facts: dict[int, Mapping[str, float | None]] = {
            label: {"above": above[label], "chance": chances[label]} for label in members
        }
        return DetectionReport(
            scores=scores,
            flagged=flagged,
            classes=count_by_class(flagged, suspects.labels, suspects.class_names, facts),
        )

    def _against_clean(
        self, suspects: SuspectSet, members: Mapping[int, Tensor]
    ) -> tuple[Tensor, dict[int, float], dict[int, float]]:
        """Compare with clean images: scores; by class, the chance of so many over the limit, and their share."""
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
        scores, granted = torch.zeros(len(suspects)).masked_fill(margins.isnan(), torch.nan), {}
        for label, rows in members.items():
            usual = of_clean[clean_members[label]]
            limit = usual.quantile(1 - self.rare)
            scores[rows] = ((margins[rows] - limit) / usual.std().clamp(min=1e-12)).float()
            granted[label] = self.rare + SPREADS * (self.rare * (1 - self.rare) / len(usual)) ** 0.5
        above = {label: scores[rows] > 0 for label, rows in members.items()}
        return scores, _chances(above, granted, times=self.excess), _shares(above)

    def _alone(
        self, suspects: SuspectSet, members: Mapping[int, Tensor]
    ) -> tuple[Tensor, dict[int, float], dict[int, float]]:
        """Compare classes with one another: scores; by class, the chance of so many far images, and their share."""
        assert suspects.labels is not None
        backbone = load_backbone(self.backbone)
        features = read_features(suspects, backbone, side=self.side or side_for(suspects, backbone))
        found = disagreement(features, suspects.labels)
        unlike = found.scores.where(found.margins > 0, found.scores.clamp(max=0))  # closest to another class at all
        own = {label: unlike[rows] for label, rows in members.items()}
        far = {label: scores > FAR for label, scores in own.items()}
        chances = _chances(far, dict.fromkeys(far, GRANTED), times=TIMES)
        scores = found.scores
        for label, rows in members.items():
            scores[rows] = own[label] - (_purest(own, label) if chances[label] < self.chance else FAR)
        return scores, chances, _shares(far)


def _shares(above: Mapping[int, Tensor]) -> dict[int, float]:
    return {label: float(chosen.float().mean()) for label, chosen in above.items()}


def _chances(above: Mapping[int, Tensor], granted: Mapping[int, float], *, times: float) -> dict[int, float]:
    """Compute by class how likely it has so many images over a limit, if it may have what is granted.

    Args:
        above: which of the images of each class are.
        granted: least share of each that may be.
        times: how many times the median share of the other classes may be.
    """
    shares, chances = _shares(above), {}
    for label, chosen in above.items():
        others = torch.tensor([share for other, share in shares.items() if other != label]).median()
        most = min(0.5, max(granted[label], times * float(others)))
        chances[label] = min(1.0, len(above) * binomial_tail(int(chosen.sum()), len(chosen), most))
    return chances


def _purest(scores: Mapping[int, Tensor], label: int) -> float:
    """Find the lowest limit from which on enough images of a class are more than the other classes' share."""
    for limit in NEARER:
        over = _shares({other: of_class > limit for other, of_class in scores.items()})
        usual = float(torch.tensor([share for other, share in over.items() if other != label]).median())
        if usual <= (1 - PURE) * over[label]:
            return limit
    return FAR


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
