"""EPIC (Yang et al. 2022): images whose gradient is like no other's are dropped while the classifier learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.defenses.training_defense import Hooked
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.train.hooks import TrainingHooks


@dataclass(frozen=True, kw_only=True)
class Epic(Hooked):
    """Drop isolated medoids of each class, in the space of last-layer gradients, while the classifier learns.

    Settings as in PureGen's experiments, which take shares of 0.1, 0.2 and 0.3.

    Args:
        share: of each class that are medoids.
        interval: epochs between two looks; the first comes after as many, and training must be longer.
    """

    share: float = 0.2
    interval: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"Expected `share` between 0 and 1, but got {self.share}.")
        if self.interval < 1:
            raise ValueError(f"Expected `interval` of 1 epoch or more, but got {self.interval}.")

    def hooks(self, seed: int) -> DroppedMedoids:
        """Make the hooks of one training; nothing is random in them."""
        return DroppedMedoids(self)

    def flagged(self, hooks: TrainingHooks) -> Tensor:
        """Tell which images were dropped."""
        assert isinstance(hooks, DroppedMedoids)
        return ~hooks.kept


class DroppedMedoids(TrainingHooks):
    """Drop images for good, as `Epic` says."""

    def __init__(self, config: Epic) -> None:
        self.config = config
        self.kept = torch.zeros(0, dtype=torch.bool)

    def begin(self, epochs: int) -> None:
        """Keep all images at first."""
        if epochs <= self.config.interval:
            raise ValueError(
                f"Expected a training of more than {self.config.interval} epochs, after which EPIC first drops images, "
                f"but got {epochs}: all would be learned. Train longer, or lower `interval`."
            )
        self.kept = torch.zeros(0, dtype=torch.bool)

    def rows(self, epoch: int, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Drop isolated medoids when it is time, and choose the rows that are left."""
        if not len(self.kept):
            self.kept = torch.ones(len(images), dtype=torch.bool)
        if epoch and epoch % self.config.interval == 0:
            rows = self.kept.nonzero().flatten()
            gradients = last_layer_gradients(model, images[rows], labels[rows]).cpu()
            for label in labels[rows].unique():
                own = rows[(labels[rows] == label).cpu()]
                medoids = max(1, round(self.config.share * len(own)))
                self.kept[own[isolated_medoids(gradients[(labels[rows] == label).cpu()], medoids)]] = False
        return self.kept.nonzero().flatten()

    def state(self) -> dict[str, Tensor]:
        """Give which images are kept."""
        return {"kept": self.kept}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back which images are kept."""
        self.kept = state["kept"]


@torch.no_grad()
def last_layer_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Compute the gradient of each image's cross-entropy in the network's scores: (N, K)."""
    model.eval()
    parts = []
    for part, truth in zip(images.split(500), labels.split(500), strict=True):
        with autocast(images.device):
            scores = model(normalize(part))
        parts.append(scores.float().softmax(1) - F.one_hot(truth, scores.shape[1]))
    return torch.cat(parts)


def isolated_medoids(points: Tensor, medoids: int) -> Tensor:
    """Mark the medoids to which no other point is assigned: (N,) bool.

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
