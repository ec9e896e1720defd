"""FLARE-like: poison activates hidden layers in an unusual way, and all of it in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from puregen_transforms.detection.activations import Activations, NormInputs, read_suspects
from puregen_transforms.detection.density_tree import split_offs
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.latent_space import centered, principal_axes
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.statistics import robust_scores

SMALLEST_SHARE = 1 / 500
"""Share of a set that a cluster has at least: the paper's 100 of 50,000 images."""

SMALLEST_CLUSTER = 10
"""Images that it has at least, however small the set."""

FARTHEST = 10.0
"""Robust standard deviations at which single outliers are held, so that no principal axis is theirs alone."""


@dataclass(frozen=True, kw_only=True)
class Flare(Detector):
    """Flag a stable cluster of images that are unusual for the hidden layers of the network, without clean data.

    After FLARE (Hou et al. 2025): for each image and BatchNorm layer, the least likely input under the layer's running
    mean and variance is taken over all channels and places, as its distance from the mean in standard deviations.
    Over the layers these numbers are clustered by density. If nothing splits off that is stable enough, the last layer
    is left out and the search begins again (their Algorithm 1), down to half of the layers. What splits off from the
    largest cluster is poison; points in no cluster are not. No labels are used, so that all-to-all attacks can be seen.

    Where it differs: the paper reduces the numbers by UMAP to two dimensions; here they are put on one robust scale
    and, if there are more layers than `components`, reduced to principal components, which are the same on every
    machine and need no compiler. UMAP draws neighborhoods together, so that it shows clusters which are hardly
    denser than what lies between them; without it such clusters are missed. The paper's limit of 0.02 on the
    stability is in units of UMAP's axes; here stability is a mean logarithm of densities without a unit: at most 0.2
    for groups that split off from clouds of random points, and 0.23 for clean images in untrained networks.

    Published weak points: networks without BatchNorm, a poisoned part that is smaller than the smallest cluster, and
    clean sets of which an unusual part forms one.

    Scores are how much nearer an image is to the clusters found than to the rest, from -1 to 1; where none is found,
    the mean over the layers of how unusual it is.

    Args:
        smallest: images of a cluster at least; None is 1 in 500 images, and no less than ten.
        stability: that a cluster has at least; see `density_tree.SplitOff`.
        depth: clusters at most.
        components: principal components at most.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"network"})

    smallest: int | None = None
    stability: float = 0.3
    depth: int = 3
    components: int = 10

    def __post_init__(self) -> None:
        if (self.smallest is not None and self.smallest < 2) or min(self.depth, self.components) < 1:
            raise ValueError(
                "Expected clusters of at least 2 images, and at least one of them and one component, but got "
                f"smallest={self.smallest}, depth={self.depth} and components={self.components}."
            )

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Cluster the images by what the layers are given.

        Raises:
            ValueError: a network without BatchNorm, or too few images; see also `read_suspects`.
            FloatingPointError: a feature is not finite.
            ImportError: scikit-learn is not installed.
        """
        smallest = self.smallest or max(SMALLEST_CLUSTER, int(SMALLEST_SHARE * len(suspects)))
        if len(suspects) < 2 * smallest:
            raise ValueError(
                f"Expected at least {2 * smallest} images, for two clusters of {smallest} (`smallest`), but got "
                f"{len(suspects)}."
            )
        unusual = standardized(deviations(read_suspects(suspects)))
        points, groups = self.stable_groups(unusual, smallest=smallest)
        flagged = torch.zeros(len(suspects), dtype=torch.bool)
        if not groups:
            return DetectionReport(scores=unusual.mean(1).float(), flagged=flagged)
        flagged[torch.cat(groups)] = True
        return DetectionReport(scores=_nearness(points, groups, ~flagged), flagged=flagged)

    def stable_groups(self, unusual: Tensor, *, smallest: int) -> tuple[Tensor, list[Tensor]]:
        """Find groups in the first subspace that has one, leaving out the last layers step by step.

        Args:
            unusual: (N, layers) float64.
            smallest: images of a group at least.

        Returns:
            (N, D) points in which they were found, and the rows of each group.
        """
        count = unusual.shape[1]
        points = unusual
        for layers in range(count, count // 2, -1):
            points = self._reduced(unusual[:, :layers])
            groups = split_offs(points, smallest=smallest, depth=self.depth)
            stable = [group.members for group in groups if group.stability > self.stability]
            if stable:
                return points, stable
        return points, []

    def _reduced(self, unusual: Tensor) -> Tensor:
        differences = centered(unusual)
        if differences.shape[1] <= self.components:
            return differences
        return differences @ principal_axes(differences, self.components)[1]


def deviations(activations: Activations) -> Tensor:
    """Find each layer's least likely input of an image, in standard deviations from the mean: (N, layers) float32.

    Raises:
        ValueError: there is no layer.
    """
    if not activations.norms:
        raise ValueError("Expected a network with BatchNorm2d layers, whose statistics say what is usual.")
    return torch.stack([_deviation(norm) for norm in activations.norms], dim=1)


def _deviation(norm: NormInputs) -> Tensor:
    above, below = norm.highest - norm.usual, norm.usual - norm.lowest
    return (torch.maximum(above, below) / norm.spread).amax(1)


def standardized(values: Tensor) -> Tensor:
    """Put each column on its robust scale, within `FARTHEST`: (N, D) -> (N, D) float64."""
    return torch.stack([robust_scores(column) for column in values.double().T], dim=1).clamp(-FARTHEST, FARTHEST)


def _nearness(points: Tensor, groups: list[Tensor], rest: Tensor) -> Tensor:
    near = torch.cdist(points, torch.stack([points[members].mean(0) for members in groups])).amin(1)
    far = (points - points[rest].mean(0)).norm(dim=1)
    return ((far - near) / (far + near).clamp_min(1e-12)).float()
