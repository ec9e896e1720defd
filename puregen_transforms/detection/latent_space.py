"""Formulas of detectors that look for a second group of images among the features of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.detection.statistics import robust_scores

LEAST_CLASSES = 3
"""Classes from which on one can stand out among them."""

_NOTHING = 1e-6
"""Share of the features' own length below which their differences are rounding errors."""

_UNKNOWN = 1e-6
"""Share of the largest singular value below which a direction is made of rounding errors."""


def centered(features: Tensor) -> Tensor:
    """Subtract the mean: (N, D) -> (N, D) float64, exactly 0 where the rows differ by no more than rounding does."""
    values = features.double()
    differences = values - values.mean(0)
    tiny = differences.norm() <= _NOTHING * values.norm()
    return torch.zeros_like(differences) if tiny else differences


def principal_axes(differences: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the directions in which rows vary most: the first ones of a singular value decomposition.

    From the products of rows, or of columns where these are fewer, which takes a sixth of its time.

    Args:
        differences: (N, D) float64 of mean 0.
        count: how many directions; fewer if there are fewer rows or columns.

    Returns:
        (k,) singular values, decreasing, and (D, k) directions of length 1; both are 0 where a value is less than a
        millionth of the largest, as such directions are not known.
    """
    wide = differences.shape[1] > len(differences)
    squares, vectors = torch.linalg.eigh(differences @ differences.T if wide else differences.T @ differences)
    values = squares.clamp(min=0).sqrt().flip(0)[:count]
    values = values.where(values > _UNKNOWN * values[:1].clamp(min=1e-12), 0)
    axes = vectors.flip(1)[:, : len(values)]
    axes = F.normalize(differences.T @ axes if wide else axes, dim=0) * (values > 0)
    # Either sign of an axis would do: one is taken, so that machines agree.
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return values, axes * torch.where(largest < 0, -1.0, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Halves:
    """Two groups of points.

    Args:
        second: (N,) bool, which points are in the second, smaller one.
        centers: (2, D).
    """

    second: Tensor
    centers: Tensor


def two_means(points: Tensor, *, generator: torch.Generator, starts: int = 10, rounds: int = 100) -> Halves | None:
    """Part points into two groups around two centers, by Lloyd's algorithm.

    Args:
        points: (N, D).
        generator: picks the two points that each start begins with.
        starts: the one with the smallest sum of squared distances counts.
        rounds: most of them.

    Returns:
        The groups, the smaller one second; None if all points are the same.
    """
    if len(points) < 2 or bool((points == points[0]).all()):
        return None
    best: tuple[float, Tensor] | None = None
    for _ in range(starts):
        centers = points[torch.randperm(len(points), generator=generator)[:2]]
        second = torch.zeros(len(points), dtype=torch.bool)
        for _ in range(rounds):
            before, distances = second, torch.cdist(points, centers)
            second = distances[:, 1] < distances[:, 0]
            if not second.any() or second.all() or torch.equal(second, before):
                break
            centers = torch.stack([points[~second].mean(0), points[second].mean(0)])
        loss = float(torch.cdist(points, centers).min(1).values.square().sum())
        if second.any() and not second.all() and (best is None or loss < best[0]):
            best = (loss, second)
    if best is None:
        return None
    second = best[1] if 2 * int(best[1].sum()) <= len(points) else ~best[1]
    return Halves(second=second, centers=torch.stack([points[~second].mean(0), points[second].mean(0)]))


def silhouette(points: Tensor, second: Tensor) -> float:
    """Average how much nearer points are to their own of two groups than to the other one, from -1 to 1.

    For a point, (b - a) / max(a, b), where a is the mean distance to the others of its group and b that to the other
    group; 0 where it is alone (Rousseeuw 1987).

    Args:
        points: (N, D).
        second: (N,) bool, which are in the second group; neither is empty.
    """
    counts = torch.stack([(~second).sum(), second.sum()]).double()
    total = torch.zeros((), dtype=torch.float64)
    place = 0
    for part in points.split(1024):
        rows = slice(place, place + len(part))
        distances = torch.cdist(part.double(), points.double())
        sums = torch.stack([distances[:, ~second].sum(1), distances[:, second].sum(1)])
        own = second[rows].long()[None]
        near = sums.gather(0, own)[0] / (counts[own[0]] - 1).clamp(min=1)
        far = sums.gather(0, 1 - own)[0] / counts[1 - own[0]]
        values = (far - near) / torch.maximum(near, far).clamp(min=1e-300)
        total += values[counts[own[0]] > 1].sum()
        place += len(part)
    return float(total) / len(points)


def anomaly_indices(statistics: Sequence[float]) -> list[float]:
    """Measure by how many robust standard deviations classes lie above the median class; 0 for those below it."""
    return robust_scores(torch.tensor(statistics, dtype=torch.float64)).clamp(min=0).tolist()
