"""Which groups split off from the bulk of a set of points as density rises: the top of HDBSCAN's tree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puregen_transforms._extras import require_extra


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitOff:
    """A group that splits off from the bulk.

    Args:
        members: (n,) int64 rows, at most half of those that were together.
        stability: mean over the members of log(density at which it leaves the group / density of the split).
    """

    members: Tensor
    stability: float


def split_offs(points: Tensor, *, smallest: int, depth: int) -> list[SplitOff]:
    """Find the first groups that split off from the bulk as density rises.

    Of HDBSCAN's single-linkage tree (Campello et al. 2013) the branch with the most points is followed; where both
    sides of a split have `smallest` points, the lesser one is a group, else its points have fallen out as noise.
    Densities are inverse distances; stability takes their logarithm, so that it has no unit, where HDBSCAN's sum of
    differences depends on the scale.

    Args:
        points: (N, D).
        smallest: points of a group at least; also the neighbors from which densities are estimated.
        depth: groups at most.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    require_extra("sklearn", "detect")
    from sklearn.cluster import HDBSCAN

    if len(points) < 2 * smallest:
        return []
    fitted = HDBSCAN(min_cluster_size=smallest, copy=True).fit(points.double().numpy())
    tree = _Tree(fitted._single_linkage_tree_, smallest)
    found: list[SplitOff] = []
    for group, distance in tree.main_branch():
        if len(found) == depth:
            break
        found.append(
            SplitOff(
                members=torch.tensor(tree.leaves(group)),
                stability=tree.stability(group, distance),
            )
        )
    return found


class _Tree:
    """A single-linkage tree: node `points + i` joins the two nodes of row i.

    Args:
        joins: scikit-learn's record of left and right node, distance and size, by rising distance.
        smallest: points that a group has at least.
    """

    def __init__(self, joins: np.ndarray[Any, Any], smallest: int) -> None:
        self.points, self.smallest = len(joins) + 1, smallest
        self.pairs = list(zip(joins["left_node"].tolist(), joins["right_node"].tolist(), strict=True))
        distances = joins["value"].tolist()
        # Equal points are at distance 0: their density is large, not infinite.
        self.distances = [max(distance, 1e-6 * distances[-1], 1e-300) for distance in distances]
        self.sizes = joins["cluster_size"].tolist()

    def size(self, node: int) -> int:
        return 1 if node < self.points else self.sizes[node - self.points]

    def sides(self, node: int) -> tuple[int, int]:
        """Give the larger and the smaller part of a node."""
        first, second = self.pairs[node - self.points]
        return (first, second) if self.size(first) >= self.size(second) else (second, first)

    def main_branch(self) -> Iterator[tuple[int, float]]:
        """Follow the larger side from the root; yields what splits off, and the distance at which."""
        node = 2 * self.points - 2
        while node >= self.points:
            bulk, group = self.sides(node)
            if self.size(group) >= self.smallest:
                yield group, self.distances[node - self.points]
            node = bulk

    def stability(self, node: int, distance: float) -> float:
        """Average log(distance of the split / distance at which a member leaves the group) over its members."""
        count, total = self.size(node), 0.0
        while node >= self.points:
            lasted = math.log(distance / self.distances[node - self.points])
            bulk, rest = self.sides(node)
            if self.size(rest) >= self.smallest or self.size(bulk) < self.smallest:
                return (total + self.size(node) * lasted) / count
            total += self.size(rest) * lasted
            node = bulk
        return total / count

    def leaves(self, node: int) -> list[int]:
        """List the points of a node, sorted."""
        found: list[int] = []
        waiting = [node]
        while waiting:
            node = waiting.pop()
            if node < self.points:
                found.append(node)
            else:
                waiting.extend(self.pairs[node - self.points])
        return sorted(found)
