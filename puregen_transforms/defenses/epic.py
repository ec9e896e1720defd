"""EPIC (Yang et al. 2022): images whose gradient is like no other's are dropped while the classifier learns."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize


@dataclass(kw_only=True)
class EpicDefense:
    """A `TrainingDefense`. Settings as in PureGen's experiments, which take shares of 0.1, 0.2 and 0.3.

    Args:
        share: of each class that are medoids.
        interval: epochs between two looks; the first comes after as many, and training must be longer.
    """

    share: float = 0.2
    interval: int = 10
    _kept: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"Expected `share` between 0 and 1, but got {self.share}.")
        if self.interval < 1:
            raise ValueError(f"Expected `interval` of 1 epoch or more, but got {self.interval}.")

    def begin(self, epochs: int) -> None:
        """See `TrainingDefense`."""
        if epochs <= self.interval:
            raise ValueError(
                f"Expected a training of more than {self.interval} epochs, after which EPIC first drops images, but "
                f"got {epochs}: all would be learned. Train longer, or lower `interval`."
            )
        self._kept = None

    def rows(self, epoch: int, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Those that were never alone with themselves."""
        if self._kept is None:
            self._kept = torch.ones(len(images), dtype=torch.bool)
        if epoch and epoch % self.interval == 0:
            rows = self._kept.nonzero().flatten()
            gradients = last_layer_gradients(model, images[rows], labels[rows]).cpu()
            for label in labels[rows].unique():
                own = rows[(labels[rows] == label).cpu()]
                medoids = max(1, round(self.share * len(own)))
                self._kept[own[alone(gradients[(labels[rows] == label).cpu()], medoids)]] = False
        return self._kept.nonzero().flatten()

    def dropped(self) -> Tensor:
        """Which rows are no longer learned: (N,) bool.

        Raises:
            ValueError: training has not begun.
        """
        if self._kept is None:
            raise ValueError("Expected a classifier to be trained before asking for what was dropped.")
        return ~self._kept

    def change(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Nothing; see `TrainingDefense`."""
        return images


@torch.no_grad()
def last_layer_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Of the cross-entropy in the scores: (N, K)."""
    model.eval()
    parts = []
    for part, truth in zip(images.split(500), labels.split(500), strict=True):
        with autocast(images.device):
            scores = model(normalize(part))
        parts.append(scores.float().softmax(1) - F.one_hot(truth, scores.shape[1]))
    return torch.cat(parts)


def alone(points: Tensor, medoids: int) -> Tensor:
    """Which points are medoids of nobody but themselves: (N,) bool.

    Args:
        points: (N, D).
        medoids: how many are chosen, greedily, to maximize the sum of each point's similarity to its nearest one
            (facility location). Similarity is 1 / (1 + distance).
    """
    similar = 1 / (1 + torch.cdist(points, points))
    nearest = torch.zeros(len(points))
    chosen: list[int] = []
    for _ in range(min(medoids, len(points))):
        gains = (similar - nearest[:, None]).clamp(min=0).sum(0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        nearest = nearest.maximum(similar[:, chosen[-1]])
    sizes = similar[:, chosen].argmax(1).bincount(minlength=len(chosen))
    found = torch.zeros(len(points), dtype=torch.bool)
    found[torch.tensor(chosen)[sizes <= 1]] = True
    return found
