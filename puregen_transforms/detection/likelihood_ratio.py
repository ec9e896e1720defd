"""Test whether the images of a class that a confused network still fits form a cluster of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

ADDED = 1e-3
"""Added to every entry of a covariance, as published."""

_DIAGONAL = 1e-6
"""Added to the diagonal, which the published test lacks: otherwise clusters on a line have a singular covariance."""

_LARGEST_LOG = math.log(1e9)


def likelihood_ratio(features: Tensor, isolated: Tensor) -> float:
    """Compare two Gaussians, of the isolated images and of the others, with that of the others for all.

    exp((sum over isolated z of log N(z | isolated) - log N(z | others)) / n), on the first two principal components.

    Args:
        features: (n, D) of the images of a class.
        isolated: (n,) bool, those that the confused network still fits.

    Returns:
        The ratio for an average image, at most 1e9; 1 with fewer than two images on either side.
    """
    if isolated.sum() < 2 or (~isolated).sum() < 2:
        return 1.0
    points = principal_components(features, 2)
    own, others = points[isolated], points[~isolated]
    gain = log_density(own, own) - log_density(own, others)
    return math.exp(min(float(gain.sum()) / len(features), _LARGEST_LOG))


def principal_components(features: Tensor, count: int) -> Tensor:
    """Project features on their directions of largest variance: (n, D) -> (n, count) float64, centered."""
    centered = features.double() - features.double().mean(0)
    return centered @ torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -count:].flip(1)


def log_density(points: Tensor, cluster: Tensor) -> Tensor:
    """Compute the log density of points under the Gaussian of a cluster: (n, d), (m, d) -> (n,)."""
    covariance = torch.cov(cluster.T) + ADDED + _DIAGONAL * torch.eye(cluster.shape[1], dtype=cluster.dtype)
    return torch.distributions.MultivariateNormal(cluster.mean(0), covariance).log_prob(points)


def classes_at_risk(ratios: Mapping[int, float], *, threshold: float, highest_threshold: float) -> set[int]:
    """Choose the classes whose likelihood ratio speaks for poison.

    Args:
        ratios: by class.
        threshold: ratio above which any class is chosen.
        highest_threshold: the lower one, for the class with the highest ratio.
    """
    highest = max(ratios.values(), default=1.0)
    return {
        label
        for label, ratio in ratios.items()
        if ratio > threshold or (ratio == highest and ratio > highest_threshold)
    }
