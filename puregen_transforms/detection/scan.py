"""SCAn: a likelihood-ratio test for two groups in a class, with the covariances of clean images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from puregen_transforms.detection.activations import read_activations, read_suspects
from puregen_transforms.detection.classes import matching_reserved, reserved_rows, rows_by_class
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.latent_space import LEAST_CLASSES, anomaly_indices, centered
from puregen_transforms.detection.report import DetectionReport, count_by_class

_ROUNDS = 100
_STARTS = 5
_RANK = 1e-6
"""Share of the largest eigenvalue below which a direction counts as one without variance."""


@dataclass(frozen=True, kw_only=True)
class SCAn(Detector):
    """Flag one of two groups of a class, where two explain its features far better than one.

    Tang et al. (2021): features are the identity of a class plus a variation that all classes share. Covariances of
    both are estimated on clean images (their equations 3 to 7, by expectation-maximization); with them each class is
    parted into two groups by a linear discriminant, and J is the mean gain in log-likelihood of two means over one.
    The class statistic is the distance of J from the classes' median, in robust standard deviations. The group where
    the smaller share of the class's clean images falls is flagged.

    Published weak points: it sees one target class among clean ones, so that all-to-all attacks, where every class
    is alike, and clean-label attacks pass; clean images must show the same variation as the set. Directions in which
    the reserved images do not vary are left out. Ports of it use a threshold of e, the paper e^2. Each class is
    parted from several random starts, of which the best counts; the paper takes one. An image's score is the
    statistic of its class times the posterior probability that it is in the flagged group.

    Args:
        threshold: class statistic above which a class is held for poisoned.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels", "reserved", "network"})
    least_classes: ClassVar[int] = LEAST_CLASSES

    threshold: float = math.exp(2)

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Test each class against the others.

        Raises:
            ValueError: fewer than three classes, or a reserved set that has other classes or less than two images of
                one; see also `read_suspects`.
            FloatingPointError: a feature is not finite.
        """
        assert suspects.network is not None
        reserved, classes = matching_reserved(suspects), rows_by_class(suspects)
        if len(classes) < LEAST_CLASSES:
            raise ValueError(
                f"Expected at least {LEAST_CLASSES} classes, which SCAn compares with each other, but got "
                f"{len(classes)}. Take a detector that looks at images or at one class by itself."
            )
        clean_rows = reserved_rows(suspects, reserved, least=2)
        features = read_suspects(suspects).features.double()
        clean = read_activations(suspects.network, reserved.images, device=suspects.device).features.double()
        covariances = estimate_covariances(clean, list(clean_rows.values()))
        scale = inverse(covariances.within)
        generator = torch.Generator().manual_seed(suspects.seed)
        splits = {
            label: split_class(features[rows] - clean.mean(0), scale, covariances, generator=generator)
            for label, rows in classes.items()
        }
        statistics = dict(zip(splits, anomaly_indices([split.gain for split in splits.values()]), strict=True))
        scores, flagged = torch.zeros(len(suspects)), torch.zeros(len(suspects), dtype=torch.bool)
        for label, rows in classes.items():
            split = splits[label]
            second = split.posterior > 0.5
            clean_second = split.posterior_of(clean[clean_rows[label]] - clean.mean(0), scale) > 0.5
            shares = float(clean_second.double().mean()), float(second.double().mean())
            # Without a majority of clean images on either side the larger group is the clean one.
            poisoned = second if shares[0] < 0.5 or (shares[0] == 0.5 and shares[1] < 0.5) else ~second
            posterior = split.posterior if poisoned is second else 1 - split.posterior
            scores[rows] = (statistics[label] * posterior).float()
            flagged[rows] = poisoned & (statistics[label] > self.threshold)
        facts = {label: {"J": splits[label].gain, "statistic": statistics[label]} for label in classes}
        counts = count_by_class(flagged, suspects.labels, suspects.class_names, facts)
        return DetectionReport(scores=scores, flagged=flagged, classes=counts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Covariances:
    """How class means scatter, and features around them.

    Args:
        between: (D, D) float64.
        within: (D, D) float64.
    """

    between: Tensor
    within: Tensor

    def shrinkage(self, count: int) -> Tensor:
        """Give the matrix by which the sum of a class's `count` features becomes the estimate of its mean: (D, D)."""
        return inverse(count * self.between + self.within) @ self.between


def estimate_covariances(features: Tensor, classes: list[Tensor]) -> Covariances:
    """Estimate both covariances of clean features by expectation-maximization.

    Args:
        features: (N, D) float64.
        classes: rows of each class.
    """
    rows = torch.cat(classes)
    values = features - features[rows].mean(0)
    means = torch.zeros_like(values)
    for own in classes:
        means[own] = values[own].mean(0)
    found = Covariances(between=_covariance(means[rows]), within=_covariance((values - means)[rows]))
    for _ in range(_ROUNDS):
        shrinkages = {count: found.shrinkage(count) for count in {len(own) for own in classes}}
        for own in classes:
            means[own] = values[own].sum(0) @ shrinkages[len(own)]
        last, found = found, Covariances(between=_covariance(means[rows]), within=_covariance((values - means)[rows]))
        change = (found.between - last.between).norm() + (found.within - last.within).norm()
        if change <= 1e-5 * (last.between.norm() + last.within.norm()):
            break
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A class parted into two groups.

    Args:
        posterior: (n,) float64, probability that an image is in the second group.
        means: (2, D) of the groups.
        gain: J, twice the mean gain in log-likelihood over one group.
    """

    posterior: Tensor
    means: Tensor
    gain: float

    def posterior_of(self, features: Tensor, scale: Tensor) -> Tensor:
        """Compute the same of other features: (n, D) -> (n,)."""
        return _posterior(features, self.means, scale)


def split_class(features: Tensor, scale: Tensor, covariances: Covariances, *, generator: torch.Generator) -> Split:
    """Part the features of a class by two means with one covariance.

    Args:
        features: (n, D) float64, less the mean of all classes.
        scale: inverse of the covariance within classes.
        covariances: of clean images.
        generator: of the random groups that it starts from.
    """
    nothing = Split(
        posterior=torch.zeros(len(features), dtype=torch.float64), means=features.mean(0).expand(2, -1), gain=0.0
    )
    if len(features) < 2 or not bool(centered(features).any()):
        return nothing
    one = _distances(features, features.sum(0) @ covariances.shrinkage(len(features)), scale).mean()
    best = nothing
    for _ in range(_STARTS):
        second = torch.rand(len(features), generator=generator) >= 0.5
        means = nothing.means
        for _ in range(_ROUNDS):
            if not second.any() or second.all():
                break
            means = torch.stack([features[~second].mean(0), features[second].mean(0)])
            before, second = second, _posterior(features, means, scale) > 0.5
            if torch.equal(second, before):
                break
        distances = torch.stack([_distances(features, mean, scale) for mean in means])
        gain = float(one - distances.gather(0, second.long()[None]).mean())
        if second.any() and not second.all() and gain > best.gain:
            best = Split(posterior=_posterior(features, means, scale), means=means, gain=gain)
    return best


def _distances(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Square the Mahalanobis distance of each row from a mean."""
    differences = features - mean
    return (differences @ scale * differences).sum(1)


def _posterior(features: Tensor, means: Tensor, scale: Tensor) -> Tensor:
    first, second = (_distances(features, mean, scale) for mean in means)
    return torch.sigmoid((first - second) / 2)


def _covariance(values: Tensor) -> Tensor:
    return values.T @ values / len(values)


def inverse(covariance: Tensor) -> Tensor:
    """Invert a symmetric matrix in the directions in which it is not 0."""
    return torch.linalg.pinv(covariance, rtol=_RANK, hermitian=True)
