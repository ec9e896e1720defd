"""Detectors that look for a second group among the features of each class: spectral signatures and clustering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from puregen_transforms.detection.activations import read_suspects
from puregen_transforms.detection.classes import rows_by_class
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.latent_space import centered, principal_axes, silhouette, two_means
from puregen_transforms.detection.report import DetectionReport, count_by_class

LEAST_IMAGES = 3
"""Images of a class from which on it has a direction of its own; smaller classes are not searched."""


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures(Detector):
    """Flag, in each class, the images whose features lie farthest along their direction of largest variance.

    Algorithm 1 of Tran, Li and Madry (2018): with R the features of a class and v the top right singular vector of R
    less its mean, the score is ((R(x) - mean) . v)^2, and a fixed number of the highest goes. It is no test: images of
    every class are flagged, clean sets included, and below the expected number too few in the target class where more
    are poisoned. Classes of less than three images and those whose features are all alike are not searched.

    Args:
        expected: share of the set that is taken for poisoned; all of them may be in one class.
        excess: so many times the expected number is flagged in each class, but no more than half of it.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels", "network"})

    expected: float = 0.01
    excess: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.expected < 1 or not self.excess > 0:
            raise ValueError(
                f"Expected a share between 0 and 1 and a positive excess, but got expected={self.expected} and "
                f"excess={self.excess}."
            )

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Score the features of each class by itself.

        Raises:
            ValueError: see `read_suspects`.
            FloatingPointError: a feature is not finite.
        """
        features = read_suspects(suspects).features
        scores, flagged = torch.zeros(len(suspects)), torch.zeros(len(suspects), dtype=torch.bool)
        most = int(self.excess * self.expected * len(suspects))
        for rows in rows_by_class(suspects).values():
            found = spectral_scores(features[rows])
            chosen = found.argsort(descending=True, stable=True)[: min(most, len(rows) // 2)]
            scores[rows] = found.float()
            flagged[rows[chosen]] = found[chosen] > 0
        return DetectionReport(scores=scores, flagged=flagged)


def spectral_scores(features: Tensor) -> Tensor:
    """Square the projection of centered features on their top singular direction: (n, D) -> (n,) float64.

    All are 0 of less than `LEAST_IMAGES` images, and where the features are alike.
    """
    if len(features) < LEAST_IMAGES:
        return torch.zeros(len(features), dtype=torch.float64)
    differences = centered(features)
    return (differences @ principal_axes(differences, 1)[1])[:, 0].square()


@dataclass(frozen=True, kw_only=True)
class ActivationClustering(Detector):
    """Flag the smaller of two clusters of a class's features, if it is small and well apart.

    Chen et al. (2018): the features of a class are reduced to ten dimensions and parted by 2-means; a class is held
    for poisoned if the smaller part is a minor share of it and the silhouette is high. Dimensions are principal ones;
    the paper prefers independent components, which depend on where their search begins. Both rules are needed: 2-means
    parts clean classes as well. Published weak points: poison that is not the main division of a class (few images,
    all-to-all, label-consistent or adaptive attacks), and classes that have two natural parts.

    An image's score is the silhouette of its class, times how much nearer it is to the smaller part (-1 to 1).

    Args:
        components: principal components that are compared.
        largest_share: of its class, from which on the smaller part is not held for poison.
        least_silhouette: that the two parts of a poisoned class have.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels", "network"})

    components: int = 10
    largest_share: float = 0.35
    least_silhouette: float = 0.15

    def __post_init__(self) -> None:
        if self.components < 1 or not 0 < self.largest_share <= 0.5 or not -1 <= self.least_silhouette < 1:
            raise ValueError(
                "Expected at least one component, a share of at most 0.5 and a silhouette of -1 to 1, but got "
                f"components={self.components}, largest_share={self.largest_share} and "
                f"least_silhouette={self.least_silhouette}."
            )

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Part the features of each class by itself.

        Raises:
            ValueError: see `read_suspects`.
            FloatingPointError: a feature is not finite.
        """
        features = read_suspects(suspects).features
        scores, flagged = torch.zeros(len(suspects)), torch.zeros(len(suspects), dtype=torch.bool)
        facts: dict[int, dict[str, float | None]] = {}
        for label, rows in rows_by_class(suspects).items():
            if len(rows) < LEAST_IMAGES:
                continue
            generator = torch.Generator().manual_seed(suspects.seed)
            differences = centered(features[rows])
            points = differences @ principal_axes(differences, self.components)[1]
            halves = two_means(points, generator=generator)
            if halves is None:
                continue
            apart, share = silhouette(points, halves.second), int(halves.second.sum()) / len(rows)
            far, near = torch.cdist(points, halves.centers).unbind(1)
            scores[rows] = (apart * (far - near) / (far + near)).float()
            if share < self.largest_share and apart > self.least_silhouette:
                flagged[rows] = halves.second
            facts[label] = {"silhouette": apart, "share": share}
        counts = count_by_class(flagged, suspects.labels, suspects.class_names, facts)
        return DetectionReport(scores=scores, flagged=flagged, classes=counts)
